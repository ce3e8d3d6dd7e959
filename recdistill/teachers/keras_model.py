"""A Keras 3 model as a teacher: a `.keras` file, or one in memory."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from recdistill.errors import TeacherError
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.lookup_tables import vocabularies
from recdistill.teachers.model_files import existing, imported_module, size_of
from recdistill.teachers.raw_teacher import RawModel
from recdistill.teachers.saved_model import input_spec, output_name


class KerasModel(RawModel):
    """Keras 3 model that takes a dict of inputs, called in this process.

    Args:
        model: The model. A functional model declares its inputs; a subclass of
            `keras.Model` does not, and takes all features.
        output: Key of the scores if the model returns a dict, or the name of the output
            if it returns a list. May be None if there is one output.
        label: Name of the model in error messages.
        size_bytes: Size of the model's file.
    """

    def __init__(
        self,
        model: keras.Model,
        output: str | None = None,
        *,
        label: str = "Keras model",
        size_bytes: int | None = None,
    ) -> None:
        self.label, self.size_bytes = label, size_bytes
        self._wanted = output
        self.inputs = _declared(model)
        self.parameters = int(model.count_params()) if model.built else None
        self._output_names = getattr(model, "output_names", None) or ()
        self._called = False
        self._call = tf.function(
            lambda inputs: model(inputs, training=False), reduce_retracing=True
        )

    @classmethod
    def load(
        cls, path: Path, output: str | None = None, modules: Sequence[str] = ()
    ) -> KerasModel:
        """Loads a `.keras` file in safe mode, which rejects files that contain code.

        Args:
            path: The file.
            output: Key of the scores if the model returns a dict.
            modules: Modules to import first; they define custom layers.

        Raises:
            TeacherError: If a module cannot be imported, or the file is not a `.keras`
                file, contains code, or requires a class that no module defines.
        """
        existing(path, ".keras file")
        if path.suffix != ".keras":
            raise TeacherError(
                f"`teacher.path` must be a .keras file for kind 'keras'. Received: "
                f"{path}. A SavedModel has kind 'saved_model'; an .h5 file or a model "
                "of Keras 2 has kind 'tf_keras'."
            )
        for name in modules:
            imported_module(name)
        try:
            model = keras.models.load_model(path, compile=False, safe_mode=True)
        except Exception as error:
            missing = _unknown_classes(path)
            if missing:
                raise TeacherError(
                    "`teacher.modules` must name the modules that define the custom "
                    f"classes of {path}, such as {sorted(missing.values())}. Received: "
                    f"{list(modules)}, which do not register {', '.join(missing)} "
                    "(@keras.saving.register_keras_serializable)."
                ) from error
            raise TeacherError(
                f"`teacher.path` must be a .keras file that loads in safe mode, "
                f"so without code. Received: {path}, {type(error).__name__}: "
                f"{_first_line(error)} If you trust the file, load it in your own "
                "function and use kind 'callable'."
            ) from error
        label, size = f"Keras file {path}", size_of(path)
        return cls(model, output, label=label, size_bytes=size)

    def predict(self, inputs: dict[str, np.ndarray]) -> Any:
        """Scores of one chunk."""
        tensors = {k: tf.convert_to_tensor(v) for k, v in inputs.items()}
        if not self._called:
            function = self._call.get_concrete_function(tensors)
            self.vocabularies = vocabularies(function, sorted(tensors))
            self._called = True
        answer = self._call(tensors)
        if isinstance(answer, list | tuple):
            answer = dict(zip(self._names(len(answer)), answer, strict=True))
        if isinstance(answer, dict):
            answer = answer[output_name(answer, self._wanted, self.label)]
        return np.asarray(answer)

    def _names(self, outputs: int) -> list[str]:
        """Names of the outputs of a model that returns a list."""
        names = [str(name) for name in self._output_names]
        if len({*names}) == len(names) == outputs:
            return names
        return [str(number) for number in range(outputs)]


def _declared(model: keras.Model) -> Mapping[str, InputSpec] | None:
    """Inputs by name: the key in a dict of inputs, else the name of the tensor."""
    if not getattr(model, "inputs", None):
        return None  # A subclass of keras.Model does not declare its inputs.
    # A `Sequential` that was not called has inputs, but no `input`.
    structure = getattr(model, "_inputs_struct", None)
    if isinstance(structure, dict):
        nested = [name for name, value in structure.items() if isinstance(value, dict)]
        if nested:
            raise TeacherError(
                "The inputs of a Keras teacher must be one dict, without dicts inside. "
                f"Received: a dict for {nested[0]!r}. Wrap the model in one with flat "
                "inputs, or use kind 'callable'."
            )
        return {name: input_spec(tensor) for name, tensor in structure.items()}
    return {tensor.name: input_spec(tensor) for tensor in model.inputs}


def _unknown_classes(path: Path) -> dict[str, str]:
    """Module by class, for the classes in a `.keras` file that Keras does not know."""
    try:
        with zipfile.ZipFile(path) as file:
            entries = [json.loads(file.read("config.json"))]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return {}
    unknown = {}
    while entries:
        entry = entries.pop()
        if isinstance(entry, list):
            entries += entry
        if not isinstance(entry, dict):
            continue
        entries += entry.values()
        module, name = entry.get("module"), entry.get("registered_name")
        builtin = str(module).split(".")[0] in ("keras", "builtins")
        if not name or builtin or keras.saving.get_registered_object(name):
            continue
        unknown[str(name)] = str(module or "my_layers")
    return unknown


def _first_line(error: Exception) -> str:
    line = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    return line if line.endswith((".", "!", "?")) else f"{line}."
