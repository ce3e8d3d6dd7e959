"""A SavedModel as a teacher: any framework's, by one of its signatures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from recdistill.errors import TeacherError
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.model_files import existing, size_of


class SavedModel:
    """One signature of a SavedModel, called in this process.

    Args:
        path: The folder with `saved_model.pb`.
        signature: Name of the signature.
        output: Name of the output that holds the scores; None where there is one.

    Raises:
        TeacherError: If it cannot be loaded, or has no such signature or output; the
            message names those that it has.
    """

    def __init__(
        self, path: Path, signature: str = "serving_default", output: str | None = None
    ) -> None:
        self.label = f"SavedModel {path}"
        existing(path, "folder that holds a SavedModel")
        try:
            # The functions live as long as the object that they are part of.
            self._loaded = tf.saved_model.load(str(path))
        except Exception as error:
            raise TeacherError(
                f"`teacher.path` must hold a SavedModel that TensorFlow loads. "
                f"Received: {path}, {type(error).__name__}: {error}"
            ) from error
        self._function = _named(
            self._loaded.signatures, signature, "signature", self.label
        )
        self._specs: dict[str, tf.TensorSpec]
        _, self._specs = self._function.structured_input_signature
        outputs = self._function.structured_outputs
        self._output = output_name(outputs, output, self.label)
        self.inputs: Mapping[str, InputSpec] | None = {
            name: input_spec(spec) for name, spec in self._specs.items()
        }
        self.parameters: int | None = int(
            sum(np.prod(variable.shape) for variable in self._function.variables)
        )
        self.size_bytes: int | None = size_of(path)

    def predict(self, inputs: dict[str, np.ndarray]) -> Any:
        """The output of the signature for one chunk."""
        tensors = {
            name: tf.convert_to_tensor(value, self._specs[name].dtype)
            for name, value in inputs.items()
        }
        try:
            return self._function(**tensors)[self._output].numpy()
        except (tf.errors.OpError, ValueError) as error:
            raise TeacherError(f"The teacher {self.label} failed: {error}") from error


def input_spec(spec: Any) -> InputSpec:
    """What a TensorFlow or Keras tensor specification says of an input."""
    dtype = tf.as_dtype(spec.dtype).name
    shape = tf.TensorShape(spec.shape)
    return InputSpec(dtype, None if shape.rank is None else tuple(shape.as_list()))


def output_name(names: Iterable[str], wanted: str | None, label: str) -> str:
    """The output that holds the scores.

    Raises:
        TeacherError: If it is not there, or not said where there are several.
    """
    have = sorted(names)
    if wanted is None and len(have) == 1:
        return have[0]
    if wanted not in have:
        raise TeacherError(
            f"`teacher.output` must name an output of the teacher {label}: "
            f"{', '.join(have)}. Received: {wanted!r}"
        )
    return wanted


def _named(have: Mapping[str, Any], name: str, what: str, label: str) -> Any:
    if name not in have:
        raise TeacherError(
            f"`teacher.{what}` must be one of the {what}s of the teacher {label}: "
            f"{', '.join(sorted(have)) or 'it has none'}. Received: {name!r}"
        )
    return have[name]
