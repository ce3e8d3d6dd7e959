"""A SavedModel as a teacher, from any framework, called by signature."""

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
        output: Name of the output with the scores. May be None if the signature has
            one output.

    Raises:
        TeacherError: If the SavedModel cannot be loaded, or does not have the signature
            or output; the message lists those that it has.
    """

    def __init__(
        self, path: Path, signature: str = "serving_default", output: str | None = None
    ) -> None:
        self.label = f"SavedModel {path}"
        existing(path, "folder that holds a SavedModel")
        try:
            # Kept in an attribute, because the functions do not keep it alive.
            self._loaded = tf.saved_model.load(str(path))
        except Exception as error:
            raise TeacherError(
                f"`teacher.path` must be a SavedModel that TensorFlow can load. "
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
        """Scores of one chunk."""
        tensors = {
            name: tf.convert_to_tensor(value, self._specs[name].dtype)
            for name, value in inputs.items()
        }
        try:
            return self._function(**tensors)[self._output].numpy()
        except (tf.errors.OpError, ValueError) as error:
            raise TeacherError(f"The teacher {self.label} failed: {error}") from error


def input_spec(spec: Any) -> InputSpec:
    """The input specification of a TensorFlow or Keras tensor specification."""
    dtype = tf.as_dtype(spec.dtype).name
    shape = tf.TensorShape(spec.shape)
    return InputSpec(dtype, None if shape.rank is None else tuple(shape.as_list()))


def output_name(names: Iterable[str], wanted: str | None, label: str) -> str:
    """Name of the output with the scores.

    Raises:
        TeacherError: If the output does not exist, or `wanted` is None although there
            are several outputs.
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
