"""Process that scores with a model that could crash or block its process.

`recdistill.teachers.child_process` runs this file as a script, and imports only the
functions for frames:

    python -P model_process.py SETTINGS

SETTINGS is JSON with `kind` ("tf_keras" or "lightgbm") and the arguments of the model's
class below. The process sends one frame when its packages are imported and one with the
description of the model. Then it answers each frame of arrays with a frame of scores
until its standard input ends. A frame is a length of eight bytes and an `.npz` file
without pickled objects. Text is sent as UTF-8 bytes. This file imports neither Keras 3
nor recdistill.
"""

import contextlib
import io
import json
import os
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

Arrays = dict[str, np.ndarray]

READY, HELLO, SCORES, ERROR = "ready", "hello", "scores", "error"
MARK = "="


class Readable(Protocol):
    """Stream from which bytes are read."""

    def read(self, size: int, /) -> bytes:
        """Reads `size` bytes, or less at the end."""


def write_frame(stream: IO[bytes], arrays: Arrays) -> None:
    """Writes arrays as one frame.

    Raises:
        OSError: If the pipe is closed.
    """
    buffer = io.BytesIO()
    # Marked, because an input may have the name of an argument of `savez` ("file").
    marked = {MARK + name: value for name, value in arrays.items()}
    np.savez(buffer, allow_pickle=False, **marked)
    content = buffer.getbuffer()
    stream.write(struct.pack(">Q", len(content)))
    stream.write(content)
    stream.flush()


def read_frame(stream: Readable) -> Arrays | None:
    """Reads the next frame; None at the end of the stream, even within a frame."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack(">Q", head)
    content = stream.read(size)
    if len(content) < size:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        # NumPy before 2.2 writes the argument `allow_pickle` of `savez` as an array.
        own = {name: array for name, array in arrays.items() if name.startswith(MARK)}
    return {name.removeprefix(MARK): array for name, array in own.items()}


def text(value: Any) -> np.ndarray:
    """A string as an array for a frame."""
    return np.array(str(value).encode())


class LegacyModel:
    """Keras 2 model, from a path or from a factory.

    Args:
        settings: `path`, `factory`, `signature`, `output`, `modules` to import first,
            and `folder`, which is added to the module search path.
    """

    @staticmethod
    def import_packages() -> None:
        """Imports the packages of the model, which may take long."""
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        import tensorflow  # noqa: F401

    def __init__(self, settings: dict[str, Any]) -> None:
        sys.path.append(settings["folder"])
        for name in settings["modules"]:
            __import__(name)
        self.output = settings["output"]
        self.variables: list[Any] = []
        self.output_names: list[str] = []
        self.specs: dict[str, Any] | None = None
        path = settings["path"]
        if settings["factory"]:
            module, _, name = settings["factory"].partition(":")
            factory = getattr(__import__(module, fromlist=[name]), name)
            self._use_model(factory(path) if path else factory())
        elif Path(path).is_dir():
            self._use_signature(path, settings["signature"])
        else:
            self._use_file(path)

    def _use_signature(self, path: str, name: str) -> None:
        import tensorflow as tf

        self.loaded = tf.saved_model.load(path)
        signatures = self.loaded.signatures
        if name not in signatures:
            raise ValueError(
                f"`signature` must be one of {sorted(signatures)}. Received: {name!r}. "
                "If it has none, call the model once before saving it."
            )
        function = signatures[name]
        self.specs = function.structured_input_signature[1]
        self.variables = list(function.variables)
        self.call: Callable[[dict[str, Any]], Any] = lambda inputs: function(**inputs)

    def _use_file(self, path: str) -> None:
        import tf_keras
        from tf_keras.src.saving import serialization_lib

        with serialization_lib.SafeModeScope(True):  # for .h5 files as well
            self._use_model(tf_keras.models.load_model(path, compile=False))

    def _use_model(self, model: Any) -> None:
        import tensorflow as tf

        if not callable(model):
            raise ValueError(f"`factory` must return a model. Received: {model!r}")
        self.variables = list(getattr(model, "variables", []))
        names = getattr(model, "input_names", None)
        if getattr(model, "inputs", None) and names:
            # A dict of inputs is called with its keys, not with the layers' names.
            named = isinstance(model.input, dict)
            inputs = zip(names, model.inputs, strict=True)
            self.specs = dict(model.input if named else inputs)
        self.output_names = list(getattr(model, "output_names", None) or ())
        self.call = tf.function(lambda inputs: model(inputs), reduce_retracing=True)

    def hello(self) -> dict[str, Any]:
        """Inputs and number of parameters, JSON-ready."""
        import tensorflow as tf

        for name, spec in (self.specs or {}).items():
            if isinstance(getattr(spec, "type_spec", spec), tf.RaggedTensorSpec):
                raise ValueError(
                    f"the input {name!r} is ragged, which kind 'tf_keras' does not "
                    "support. Save the model as a SavedModel and use kind 'saved_model'"
                )
        inputs = self.specs and {
            name: [tf.as_dtype(spec.dtype).name, spec.shape.as_list()]
            for name, spec in self.specs.items()
        }
        parameters = int(sum(np.prod(v.shape.as_list()) for v in self.variables))
        return {"inputs": inputs, "parameters": parameters}

    def scores(self, inputs: Arrays) -> np.ndarray:
        """Scores of one chunk."""
        import tensorflow as tf

        tensors = {
            name: tf.constant(
                value.astype(object) if value.dtype.kind == "S" else value
            )
            for name, value in inputs.items()
        }
        answer = self.call(tensors)
        if isinstance(answer, (list, tuple)):
            names = self.output_names
            if len(set(names)) != len(answer):
                names = [str(number) for number in range(len(answer))]
            answer = dict(zip(names, answer, strict=True))
        if isinstance(answer, dict):
            name = self.output
            if name is None and len(answer) == 1:
                (name,) = answer
            if name not in answer:
                raise ValueError(
                    f"`output` must be one of {sorted(answer)}. Received: {name!r}"
                )
            answer = answer[name]
        if answer.dtype == tf.bfloat16:  # A frame has NumPy's own types only.
            answer = tf.cast(answer, tf.float32)
        return np.asarray(answer)


class BoosterModel:
    """LightGBM booster from its text file.

    Args:
        settings: `path`, and `memory_bytes`, the limit of the process's memory.
    """

    @staticmethod
    def import_packages() -> None:
        """Imports LightGBM."""
        import lightgbm  # noqa: F401

    def __init__(self, settings: dict[str, Any]) -> None:
        import lightgbm

        _limit(settings["memory_bytes"])
        self._booster = lightgbm.Booster(model_file=settings["path"])
        # A malformed tree crashes or blocks the process here.
        rng = np.random.default_rng(0)
        rows = rng.normal(0.0, 10.0, (64, self._booster.num_feature()))
        self.scores({"rows": rows})

    def hello(self) -> dict[str, Any]:
        """Names of the features, and the categories of pandas, JSON-ready."""
        return {
            "names": self._booster.feature_name(),
            "categories": self._booster.pandas_categorical or [],
        }

    def scores(self, inputs: Arrays) -> np.ndarray:
        """Raw scores of one chunk."""
        return np.asarray(self._booster.predict(inputs["rows"], raw_score=True))


MODELS: dict[str, Any] = {"tf_keras": LegacyModel, "lightgbm": BoosterModel}


def _limit(memory_bytes: int) -> None:
    """Limits the memory, where the system can, and writes no core dump."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def serve(settings: dict[str, Any], requests: IO[bytes], answers: IO[bytes]) -> None:
    """Loads the model and answers frames until the end of the input."""
    kind = MODELS[settings["kind"]]
    kind.import_packages()
    write_frame(answers, {READY: text("")})
    try:
        model = kind(settings)
        write_frame(answers, {HELLO: text(json.dumps(model.hello()))})
    except Exception:
        write_frame(answers, {ERROR: text(traceback.format_exc())})
        return
    while (inputs := read_frame(requests)) is not None:
        try:
            answer = {SCORES: model.scores(inputs)}
        except Exception:
            answer = {ERROR: text(traceback.format_exc())}
        write_frame(answers, answer)


if __name__ == "__main__":
    # Output that a model prints goes to stderr, because stdout carries the frames.
    frames = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(json.loads(sys.argv[1]), sys.stdin.buffer, frames)
