"""File of a model's weights, written so that a full disk is an ordinary error."""

from __future__ import annotations

import io
from pathlib import Path

import keras

from recdistill.atomic import atomic_write

WEIGHTS = "model.weights.h5"


class _Memory(io.BytesIO):
    """A file in memory; Keras also looks at the name of a file."""

    def __str__(self) -> str:
        return WEIGHTS


def save_weights(model: keras.Model, folder: Path) -> None:
    """Writes the weights of a model, as `keras.Model.save_weights` does.

    The HDF5 library can end the process when the disk is full, so the file is put
    together in memory.

    Args:
        model: The model.
        folder: Folder of the file `WEIGHTS`.

    Raises:
        OSError: If the file cannot be written.
    """
    memory = _Memory()
    model.save_weights(memory)
    with atomic_write(folder / WEIGHTS) as temporary:
        temporary.write_bytes(memory.getbuffer())
