"""A LightGBM booster as a teacher, from its text file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recdistill.errors import TeacherError
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.model_files import existing, size_of
from recdistill.teachers.raw_teacher import RawModel


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
        existing(path, "LightGBM text file")
        self._booster = _load(path)
        self._names: list[str] = self._booster.feature_name()
        self._codes = self._read_categories(categorical)
        self.inputs = {
            name: InputSpec("string" if name in self._codes else "float64", (None,))
            for name in self._names
        }
        self.size_bytes = size_of(path)

    def _read_categories(
        self, categorical: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """Code by text for each categorical feature."""
        unknown = sorted(set(categorical) - set(self._names))
        stored: list[list[Any]] = self._booster.pandas_categorical or []
        if unknown or len(categorical) != len(stored):
            raise TeacherError(
                f"`teacher.categorical` must name the {len(stored)} feature(s) of the "
                f"teacher {self.label} that were pandas categories in training; its "
                f"features: {', '.join(self._names)}. Received: {list(categorical)}"
            )
        # The file stores the categories in the order of the columns.
        columns = [name for name in self._names if name in categorical]
        return {
            name: {str(value): float(code) for code, value in enumerate(values)}
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
        matrix = np.stack(columns, axis=1).astype("float64")
        return self._booster.predict(matrix, raw_score=True)


def _load(path: Path) -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise TeacherError(
            "`teacher.kind` 'lightgbm' requires the package lightgbm. Received: "
            f'{error}. Install it: pip install "recdistill[boosters]"'
        ) from error
    # LightGBM would print to stdout before it raises an error for another file.
    with path.open("rb") as file:
        if file.read(5) != b"tree\n":
            raise TeacherError(
                "`teacher.path` must be a text file of a LightGBM booster, written by "
                f"`Booster.save_model`. Received: {path}"
            )
    try:
        return lightgbm.Booster(model_file=path)
    except lightgbm.basic.LightGBMError as error:
        raise TeacherError(
            f"`teacher.path` must be a LightGBM booster. Received: {path}, {error}"
        ) from error


def _coded(values: np.ndarray, codes: Mapping[str, float]) -> np.ndarray:
    different, place = np.unique(values.astype(str), return_inverse=True)
    coded = np.array([codes.get(text, np.nan) for text in different], "float64")
    return np.asarray(coded[place])
