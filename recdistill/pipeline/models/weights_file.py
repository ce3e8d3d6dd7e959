"""Files of a model's weights and of the weights of an ensemble's members."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import keras

from recdistill.atomic import atomic_write
from recdistill.errors import ArtefactError

WEIGHTS = "model.weights.h5"
MEMBER_WEIGHTS = "member_weights.json"


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


def load_weights(model: keras.Model, folder: Path) -> None:
    """Sets the weights of a model to those that `save_weights` wrote.

    Args:
        model: The model, with its weights created.
        folder: Folder of the file `WEIGHTS`.

    Raises:
        ArtefactError: If they are the weights of another model.
    """
    try:
        model.load_weights(folder / WEIGHTS)
    except (KeyError, ValueError) as error:
        raise ArtefactError(
            f"The weights {folder / WEIGHTS} do not fit the model {model.name}: "
            f"{' '.join(str(error).split())[:300]} If the code that builds the model "
            "has changed since, recdistill's or that of `student.factory`, run the "
            "step again with another `workdir`."
        ) from error


def seed_folder(folder: Path, seed: int, *, create: bool = False) -> Path:
    """The folder with the weights of one of several seeds.

    Args:
        folder: Folder of the step.
        seed: The seed.
        create: Whether to create the folder.
    """
    found = folder / f"seed-{seed}"
    if create:
        found.mkdir(exist_ok=True)
    return found


def save_member_weights(weights: Sequence[float], folder: Path) -> None:
    """Writes the factors of an ensemble's members, 0 for those that are left out."""
    with atomic_write(folder / MEMBER_WEIGHTS) as temporary:
        temporary.write_text(json.dumps(list(weights)))


def read_member_weights(folder: Path) -> tuple[float, ...] | None:
    """The factors of an ensemble's members; None if the folder has none."""
    path = folder / MEMBER_WEIGHTS
    return tuple(json.loads(path.read_text())) if path.exists() else None
