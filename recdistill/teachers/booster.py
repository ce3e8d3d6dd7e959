"""A LightGBM booster as a teacher, from its text file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recdistill.errors import TeacherError
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.model_files import existing, size_of


class Booster:
    """A booster that `Booster.save_model` wrote, features by name.

    The file is text and holds trees, never code. Its feature names say which columns it
    wants and in which order. A column is a number; text is read as one. A column that
    was a pandas category when the booster was trained must be named in `categorical`:
    its text becomes the code that it had there, which the file keeps. What is missing,
    or a category that training did not see, is NaN, as in LightGBM itself.

    Args:
        path: The text file.
        categorical: The booster's features that were pandas categories.

    Raises:
        TeacherError: If LightGBM is not installed, the file is none of its, or
            `categorical` does not fit what the file says.
    """

    parameters: int | None = None

    def __init__(self, path: Path, categorical: Sequence[str] = ()) -> None:
        self.label = f"LightGBM booster {path}"
        existing(path, "LightGBM text file")
        self._booster = _load(path)
        self._names: list[str] = self._booster.feature_name()
        self._codes = self._read_categories(categorical)
        self.inputs: Mapping[str, InputSpec] | None = {
            name: InputSpec("string" if name in self._codes else "float64", (None,))
            for name in self._names
        }
        self.size_bytes: int | None = size_of(path)

    def _read_categories(
        self, categorical: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """For each categorical feature: text to code."""
        unknown = sorted(set(categorical) - set(self._names))
        stored: list[list[Any]] = self._booster.pandas_categorical or []
        if unknown or len(categorical) != len(stored):
            raise TeacherError(
                f"`teacher.categorical` must name the {len(stored)} feature(s) of the "
                f"teacher {self.label} that were pandas categories in its training, "
                f"out of: {', '.join(self._names)}. Received: {list(categorical)}"
            )
        # The file has them in the order of the columns.
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
            "`teacher.kind` 'lightgbm' needs the package lightgbm. Received: "
            f'{error}. Install it: pip install "recdistill[boosters]"'
        ) from error
    # LightGBM reports a file that is none of its on stdout, and then raises.
    with path.open("rb") as file:
        if not file.read(5) == b"tree\n":
            raise TeacherError(
                "`teacher.path` must be the text file of a LightGBM booster, as "
                f"`Booster.save_model` writes it. Received: {path}"
            )
    try:
        return lightgbm.Booster(model_file=path)
    except lightgbm.basic.LightGBMError as error:
        raise TeacherError(
            f"`teacher.path` must be a LightGBM booster. Received: {path}, {error}"
        ) from error


def _coded(values: np.ndarray, codes: Mapping[str, float]) -> np.ndarray:
    different, place = np.unique(values.astype(str), return_inverse=True)
    found = np.array([codes.get(text, np.nan) for text in different], "float64")
    return np.asarray(found[place])
