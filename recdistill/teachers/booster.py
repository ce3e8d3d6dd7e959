"""A LightGBM booster as a teacher, from its text file, in a child process.

LightGBM does not validate its files: a truncated or edited file crashes or blocks the
process, either while it is loaded or later, during scoring.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recdistill.errors import TeacherError
from recdistill.features.raw_text import text_of
from recdistill.teachers.child_process import ChildProcess
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.model_files import existing, size_of
from recdistill.teachers.raw_teacher import RawModel

LOAD_S, LOAD_BYTES_PER_S = 6.0, 1e6
"""Deadline for loading a file, and the additional time for its size."""

MEMORY_BYTES = 4 << 30
"""Limit of the child's memory, in addition to 50 times the size of the file."""


class Booster(RawModel):
    """LightGBM booster from a file of `Booster.save_model`.

    The file is text and cannot contain code. It has the names and the order of the
    booster's features. A feature is a number; text is parsed as a number. Name the
    features that were pandas categories in training in `categorical`: text becomes the
    code of its category, which the file contains. Missing values and categories that
    were not in training become NaN, as in LightGBM.

    Args:
        path: The text file.
        categorical: Features of the booster that were pandas categories in training.

    Raises:
        TeacherError: If LightGBM is not installed, the file is not a LightGBM booster,
            or `categorical` does not match the file.
    """

    def __init__(self, path: Path, categorical: Sequence[str] = ()) -> None:
        self.label = f"LightGBM booster {path}"
        self.size_bytes = size_of(_checked(path))
        settings = {
            "kind": "lightgbm",
            "path": str(path),
            "memory_bytes": MEMORY_BYTES + 50 * self.size_bytes,
        }
        load_s = LOAD_S + self.size_bytes / LOAD_BYTES_PER_S
        try:
            self._process = ChildProcess(self.label, settings, load_s)
        except TeacherError as error:
            raise TeacherError(
                f"{error}\nIf the file is damaged, write it again with "
                "`Booster.save_model`."
            ) from error
        self._names: list[str] = self._process.hello["names"]
        self._codes = self._read_categories(categorical)
        self.vocabularies = {k: codes.keys() for k, codes in self._codes.items()}
        self.inputs = {
            name: InputSpec("string" if name in self._codes else "float64", (None,))
            for name in self._names
        }

    def _read_categories(
        self, categorical: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """Code by text for each categorical feature."""
        unknown = sorted(set(categorical) - set(self._names))
        stored: list[list[Any]] = self._process.hello["categories"]
        if unknown or len(categorical) != len(stored):
            raise TeacherError(
                f"`teacher.categorical` must name the {len(stored)} feature(s) of the "
                f"teacher {self.label} that were pandas categories in training; its "
                f"features: {', '.join(self._names)}. Received: {list(categorical)}"
            )
        # The file stores the categories in the order of the columns.
        columns = [name for name in self._names if name in categorical]
        return {
            name: {_text(value): float(code) for code, value in enumerate(values)}
            for name, values in zip(columns, stored, strict=True)
        }

    def predict(self, inputs: dict[str, np.ndarray]) -> Any:
        """Raw scores of one chunk, `(rows,)`."""
        columns = [
            _coded(inputs[name], self._codes[name])
            if name in self._codes
            else inputs[name]
            for name in self._names
        ]
        return self._process.scores({"rows": np.stack(columns, 1).astype("float64")})


def _checked(path: Path) -> Path:
    """The path of a text file that looks like a whole booster."""
    existing(path, "LightGBM text file")
    if importlib.util.find_spec("lightgbm") is None:
        raise TeacherError(
            "`teacher.kind` 'lightgbm' requires the package lightgbm. Received: it is "
            'not installed. Install it: pip install "recdistill[boosters]"'
        )
    content = path.read_bytes() if path.is_file() else b""
    if not content.startswith(b"tree\n"):
        raise TeacherError(
            "`teacher.path` must be a text file of a LightGBM booster, written by "
            f"`Booster.save_model`. Received: {path}"
        )
    whole = b"\nend of trees" in content
    if not whole or (b"\nparameters:" in content) > (b"end of parameters" in content):
        raise TeacherError(
            "`teacher.path` must be a whole LightGBM booster. Received: "
            f"{path}, which is truncated: it lacks the line 'end of trees' or 'end of "
            "parameters'. Write it again with `Booster.save_model`."
        )
    return path


def _text(category: Any) -> str:
    """Text of a category by our rule for raw values (`features.raw_text`)."""
    return str(text_of(pa.array([category]))[0])


def _coded(values: np.ndarray, codes: Mapping[str, float]) -> np.ndarray:
    different, place = np.unique(values.astype(str), return_inverse=True)
    coded = np.array([codes.get(text, np.nan) for text in different], "float64")
    return np.asarray(coded[place])
