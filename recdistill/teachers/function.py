"""A Python function as a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from recdistill.errors import TeacherError
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.model_files import imported


class Function:
    """Any function from a dict of arrays to an array of scores.

    Args:
        function: Gets one array for each input, text as `str` objects, numbers as
            float32 with NaN where missing.
        label: What people call it.
    """

    inputs: Mapping[str, InputSpec] | None = None
    parameters: int | None = None
    size_bytes: int | None = None

    def __init__(
        self, function: Callable[[dict[str, np.ndarray]], Any], label: str = "function"
    ) -> None:
        self._function, self.label = function, label

    @classmethod
    def load(cls, name: str) -> Function:
        """The function of an import path, "package.module:function".

        Raises:
            TeacherError: If there is no such function.
        """
        return cls(imported(name), f"function {name}")

    def predict(self, inputs: dict[str, np.ndarray]) -> Any:
        """What the function returns for one chunk."""
        try:
            return self._function(inputs)
        except Exception as error:
            raise TeacherError(
                f"The teacher {self.label} failed: {type(error).__name__}: {error}"
            ) from error
