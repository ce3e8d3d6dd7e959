"""A SavedModel as a teacher, from any framework, called by signature.

A signature may take one serialized `tf.train.Example` for each row, ragged inputs, or a
fixed number of rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from recdistill.errors import TeacherError
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.lookup_tables import vocabularies
from recdistill.teachers.model_files import existing, size_of
from recdistill.teachers.raw_teacher import RawModel
from recdistill.teachers.serialized_examples import example_features, serialized


class SavedModel(RawModel):
    """One signature of a SavedModel, called in this process.

    Args:
        path: The folder with `saved_model.pb`.
        signature: Name of the signature.
        output: Name of the output with the scores. May be None if the signature has
            one output.
        named: Names of the inputs in the configuration; None if it has none. If they
            have `x_1`, it is an input and not a part of the ragged input `x`.

    Raises:
        TeacherError: If the SavedModel cannot be loaded, or does not have the signature
            or output; the message lists those that it has.
    """

    needs_known = False

    def __init__(
        self,
        path: Path,
        signature: str = "serving_default",
        output: str | None = None,
        named: Collection[str] | None = None,
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
        self._splits = _row_splits(self._specs, named or ())
        self._examples = _example_input(self._function, self._specs)
        self.inputs = self._declared()
        if self._examples is None:
            self.vocabularies = vocabularies(self._function, sorted(self._specs))
        self.parameters = int(
            sum(np.prod(variable.shape) for variable in self._function.variables)
        )
        self.size_bytes = size_of(path)

    def _declared(self) -> dict[str, InputSpec]:
        """The inputs; the features of the examples if it takes those."""
        if self._examples is not None:
            self.label += f" (its input `{self._examples[0]}` takes tf.train.Example)"
            return self._examples[1]
        return {
            name: InputSpec(tf.as_dtype(spec.dtype).name, (None, None), ragged=True)
            if name in self._splits
            else input_spec(spec)
            for name, spec in self._specs.items()
            if name not in self._splits.values()
        }

    def predict(self, inputs: dict[str, np.ndarray]) -> Any:
        """Scores of one chunk."""
        sizes = {spec.shape[0] for spec in self._specs.values() if spec.shape.rank}
        (size,) = sizes if len(sizes) == 1 else (None,)
        if size is None:
            return self._call(inputs)
        # The signature takes a fixed number of rows; the last row fills the last call.
        rows = len(next(iter(inputs.values())))
        place = np.minimum(np.arange(-(-rows // size) * size), rows - 1)
        parts = [
            self._call({name: value[part] for name, value in inputs.items()})
            for part in place.reshape(-1, size)
        ]
        return np.concatenate(parts)[:rows]

    def _call(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        if self._examples is not None:
            name, features = self._examples
            inputs = {name: serialized(inputs, features)}
        arrays = dict(inputs)
        for name, splits in self._splits.items():
            ends = np.cumsum([0, *map(len, inputs[name])])
            arrays |= {name: np.concatenate([*inputs[name]]), splits: ends}
        tensors = {
            name: tf.convert_to_tensor(value, self._specs[name].dtype)
            for name, value in arrays.items()
        }
        scores: np.ndarray = self._function(**tensors)[self._output].numpy()
        return scores


def _row_splits(
    specs: Mapping[str, tf.TensorSpec], named: Collection[str]
) -> dict[str, str]:
    """Name of the row splits, `x_1`, of each ragged input `x`.

    TensorFlow declares a ragged input of a signature as these two vectors.
    """
    return {
        name: f"{name}_1"
        for name, spec in specs.items()
        if spec.shape.rank == 1
        and f"{name}_1" in specs.keys() - set(named)
        and specs[f"{name}_1"].dtype == tf.int64
        and specs[f"{name}_1"].shape.rank == 1
    }


def _example_input(
    function: Any, specs: Mapping[str, tf.TensorSpec]
) -> tuple[str, dict[str, InputSpec]] | None:
    """The input for serialized examples and their features, if there is one."""
    if len(specs) != 1:
        return None
    ((name, spec),) = specs.items()
    features = example_features(function) if spec.dtype == tf.string else None
    return None if not features else (name, features)


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
