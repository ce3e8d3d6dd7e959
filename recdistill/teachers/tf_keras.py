"""A Keras 2 model (tf_keras, TFRS) as a teacher, in a child process.

`tensorflow_recommenders` and Keras 3 cannot be used in one process: TFRS requires
`TF_USE_LEGACY_KERAS=1`, which TensorFlow reads when it is imported. The model is
therefore loaded and called in a child process; see
`recdistill.teachers.legacy_process`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from recdistill.errors import TeacherError
from recdistill.teachers import legacy_process
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.legacy_process import (
    ERROR,
    HELLO,
    SCORES,
    read_frame,
    write_frame,
)
from recdistill.teachers.model_files import existing, size_of
from recdistill.teachers.raw_teacher import RawModel

LAST_BYTES = 2_000
"""Number of bytes of the child process's output in an error message."""


class TfKerasModel(RawModel):
    """Keras 2 model, called in a child process that lives as long as this object.

    The child process runs on the CPU, because this process may occupy the accelerator.

    Args:
        path: A SavedModel folder, a `.keras` file or an `.h5` file. With a factory, the
            argument of the factory.
        factory: Import path "package.module:function" of a function that returns the
            model. It is called without arguments if `path` is None.
        signature: Signature of a SavedModel folder.
        output: Key of the scores if the model returns a dict. May be None if the dict
            has one entry.

    Raises:
        TeacherError: If the child process cannot load the model; the message has its
            last lines of output.
    """

    def __init__(
        self,
        path: Path | None = None,
        factory: str | None = None,
        signature: str = "serving_default",
        output: str | None = None,
    ) -> None:
        self.label = f"tf_keras model {factory or path}"
        if path is not None and factory is None:
            existing(path, "SavedModel folder, .keras or .h5 file")
        settings = {
            "path": None if path is None else str(path),
            "factory": factory,
            "signature": signature,
            "output": output,
            "folder": str(Path.cwd()),
        }
        self._stderr = tempfile.TemporaryFile()
        self._process = _start(settings, self._stderr)
        self._close = weakref.finalize(self, _stop, self._process, self._stderr)
        hello = json.loads(self._read(HELLO, "could not be loaded"))
        if hello["inputs"] is not None:
            self.inputs = {
                name: InputSpec(dtype, tuple(shape))
                for name, (dtype, shape) in hello["inputs"].items()
            }
        self.parameters = hello["parameters"]
        self.size_bytes = size_of(path) if path and path.exists() else None

    def predict(self, inputs: dict[str, np.ndarray]) -> Any:
        """Scores of one chunk."""
        stdin = self._process.stdin
        # If the process has ended, `_read` reports its last lines.
        with contextlib.suppress(OSError, ValueError):
            if stdin is not None:
                write_frame(stdin, {k: _sendable(v) for k, v in inputs.items()})
        return self._read(SCORES, "failed")

    def close(self) -> None:
        """Ends the child process."""
        self._close()

    def _read(self, key: str, what: str) -> Any:
        stdout = self._process.stdout
        answer = None if stdout is None or stdout.closed else read_frame(stdout)
        if answer is None:
            raise TeacherError(
                f"The teacher {self.label} {what}: its process ended with exit status "
                f"{self._status()}. Its last lines:\n{self._last_lines()}"
            )
        if ERROR in answer:
            trace = answer[ERROR].item().decode()
            raise TeacherError(
                f"The teacher {self.label} {what}: {trace.strip().splitlines()[-1]}\n"
                f"{trace[-LAST_BYTES:]}"
            )
        value = answer[key]
        return value.item().decode() if key == HELLO else value

    def _status(self) -> int | None:
        try:
            return self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return None

    def _last_lines(self) -> str:
        if self._stderr.closed:
            return "(closed)"
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - LAST_BYTES))
        return self._stderr.read().decode(errors="replace").strip()


def _start(settings: Mapping[str, Any], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    own = {"TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.Popen(
        [sys.executable, "-P", legacy_process.__file__, json.dumps(settings)],
        env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **own},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def _stop(process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
    """Closes the pipes, which ends the process, and waits for it."""
    for stream in (process.stdin, process.stdout, stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _sendable(values: np.ndarray) -> np.ndarray:
    """Text as fixed-width UTF-8 bytes for a frame."""
    if values.dtype.kind not in "OU":
        return values
    return np.char.encode(values.astype(str), "utf-8")
