"""Keras's backend, which must be TensorFlow."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from recdistill.errors import BackendError

__all__ = ["check_keras_backend"]


def check_keras_backend() -> None:
    """Checks Keras's backend, without importing Keras.

    Raises:
        BackendError: If Keras uses, or is going to use, another backend than
            TensorFlow.
    """
    backend, source = _backend()
    if backend != "tensorflow":
        raise BackendError(
            "recdistill requires Keras's TensorFlow backend: set the environment "
            "variable KERAS_BACKEND=tensorflow before Keras is imported. Received: "
            f"{backend!r} from {source}"
        )


def _backend() -> tuple[str, str]:
    """Name of the backend, and where it is set, by the rules of Keras."""
    keras: Any = sys.modules.get("keras")
    if hasattr(keras, "config"):
        return str(keras.config.backend()), "the Keras that is already imported"
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"], "the environment variable KERAS_BACKEND"
    home = Path(os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser())
    try:
        settings = json.loads((home / "keras.json").read_text())
        return str(settings["backend"]), f"the file {home / 'keras.json'}"
    except (OSError, ValueError, LookupError, TypeError):
        return "tensorflow", "Keras's default"
