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
from recdistill.teachers.raw_teacher import RawModel


class SavedModel(RawModel):
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
        self._function = signature_of(self._loaded.signatures, signature, self.label)
        self._specs: dict[str, tf.TensorSpec]
        _, self._specs = self._function.structured_input_signature
        outputs = self._function.structured_outputs
        self._output = output_name(outputs, output, self.label)
        self.inputs = {name: input_spec(spec) for name, spec in self._specs.items()}
        self.parameters = int(
            sum(np.prod(variable.shape) for variable in self._function.variables)
        )
        self.size_bytes = size_of(path)

    def predict(self, inputs: dict[str, np.ndarray]) -> Any:
        """Scores of one chunk."""
        tensors = {
            name: tf.convert_to_tensor(value, self._specs[name].dtype)
            for name, value in inputs.items()
        }
        return self._function(**tensors)[self._output].numpy()


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


def signature_of(signatures: Mapping[str, Any], name: str, label: str) -> Any:
    """The signature of this name.

    Raises:
        TeacherError: If the model does not have this signature.
    """
    if name not in signatures:
        raise TeacherError(
            f"`teacher.signature` must be one of the signatures of the teacher "
            f"{label}: {', '.join(sorted(signatures)) or 'it has none'}. "
            f"Received: {name!r}"
        )
    return signatures[name]
