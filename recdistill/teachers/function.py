"""A Python function as a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recdistill.teachers.model_files import imported
from recdistill.teachers.raw_teacher import RawModel


class Function(RawModel):
    """Python function from a dict of arrays to an array of scores.

    Args:
        function: Takes one array for each input: text as `str` objects, numbers as
            float32 with NaN for missing values.
        label: Name of the function in error messages.
    """

    def __init__(
        self, function: Callable[[dict[str, np.ndarray]], Any], label: str = "function"
    ) -> None:
        self._function, self.label = function, label

    @classmethod
    def load(cls, name: str) -> Function:
        """Imports a function by its path, "package.module:function".

        Raises:
            TeacherError: If the function does not exist.
        """
        return cls(imported(name), f"function {name}")

    def predict(self, inputs: dict[str, np.ndarray]) -> Any:
        """Scores of one chunk, as returned by the function."""
        return self._function(inputs)
