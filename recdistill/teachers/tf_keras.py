"""A Keras 2 model (tf_keras, TFRS) as a teacher, in a child process.

`tensorflow_recommenders` and Keras 3 cannot be used in one process: TFRS requires
`TF_USE_LEGACY_KERAS=1`, which TensorFlow reads when it is imported. The model is
therefore loaded and called in a child process; see `recdistill.teachers.child_process`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recdistill.teachers.child_process import ChildProcess
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.model_files import existing, size_of
from recdistill.teachers.raw_teacher import RawModel

LOAD_S = 600.0
"""Deadline for loading the model."""

_OWN = {"TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "-1"}


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
        modules: Modules to import first; they define custom layers.

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
        modules: Sequence[str] = (),
    ) -> None:
        self.label = f"tf_keras model {factory or path}"
        if path is not None and factory is None:
            existing(path, "SavedModel folder, .keras or .h5 file")
        settings = {
            "kind": "tf_keras",
            "path": None if path is None else str(path),
            "factory": factory,
            "signature": signature,
            "output": output,
            "modules": list(modules),
            "folder": str(Path.cwd()),
        }
        self._process = ChildProcess(self.label, settings, LOAD_S, _OWN)
        hello = self._process.hello
        if hello["inputs"] is not None:
            self.inputs = {
                name: InputSpec(dtype, tuple(shape))
                for name, (dtype, shape) in hello["inputs"].items()
            }
        self.parameters = hello["parameters"]
        self.size_bytes = size_of(path) if path and path.exists() else None

    def predict(self, inputs: dict[str, np.ndarray]) -> Any:
        """Scores of one chunk."""
        return self._process.scores(inputs)

    def close(self) -> None:
        """Ends the child process."""
        self._process.close()
