"""Process that scores with a Keras 2 model; it imports only TensorFlow and NumPy.

`recdistill.teachers.tf_keras` runs this file as a script, and imports only the
functions for frames:

    python -P legacy_process.py SETTINGS

SETTINGS is JSON with `path`, `factory`, `signature`, `output`, and `folder`, which is
added to the module search path. The process first sends the inputs of the model, then
answers each frame of arrays with a frame of scores until its standard input ends. A
frame is a length of eight bytes and an `.npz` file without pickled objects. Text is
sent as UTF-8 bytes.
"""

import io
import json
import os
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

Arrays = dict[str, np.ndarray]

SCORES, HELLO, ERROR = "scores", "hello", "error"
MARK = "="


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


def read_frame(stream: IO[bytes]) -> Arrays | None:
    """Reads the next frame; None at the end of the stream, even within a frame."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack(">Q", head)
    content = stream.read(size)
    if len(content) < size:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name.removeprefix(MARK): value for name, value in arrays.items()}


def text(value: Any) -> np.ndarray:
    """A string as an array for a frame."""
    return np.array(str(value).encode())


class LegacyModel:
    """Keras 2 model, from a path or from a factory."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.output = settings["output"]
        self.variables: list[Any] = []
        self.specs: dict[str, Any] | None = None
        path = settings["path"]
        if settings["factory"]:
            sys.path.append(settings["folder"])
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
            self.specs = dict(zip(names, model.inputs, strict=True))
        self.call = tf.function(lambda inputs: model(inputs), reduce_retracing=True)

    def hello(self) -> dict[str, Any]:
        """Inputs and number of parameters, JSON-ready."""
        import tensorflow as tf

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
        if isinstance(answer, dict):
            name = self.output
            if name is None and len(answer) == 1:
                (name,) = answer
            if name not in answer:
                raise ValueError(
                    f"`output` must be one of {sorted(answer)}. Received: {name!r}"
                )
            answer = answer[name]
        return np.asarray(answer)


def serve(settings: dict[str, Any], requests: IO[bytes], answers: IO[bytes]) -> None:
    """Loads the model and answers frames until the end of the input."""
    model = LegacyModel(settings)
    write_frame(answers, {HELLO: text(json.dumps(model.hello()))})
    while (inputs := read_frame(requests)) is not None:
        try:
            answer = {SCORES: model.scores(inputs)}
        except Exception:
            answer = {ERROR: text(traceback.format_exc())}
        write_frame(answers, answer)


if __name__ == "__main__":
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    # Output that a model prints goes to stderr, because stdout carries the frames.
    frames = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(json.loads(sys.argv[1]), sys.stdin.buffer, frames)
