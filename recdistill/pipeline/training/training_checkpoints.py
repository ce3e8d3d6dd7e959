"""Checkpoints of the training runs of a step, for processes that are started again.

Workers of a cluster send their states to the process of the command
(`TrainingCheckpoints`); a local run keeps them in files (`kept_in`).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from recdistill.atomic import atomic_write
from recdistill.pipeline.artefacts.workspace import earlier_seconds

SECONDS_BETWEEN_FILES = 60.0
"""Least time between two files: a state is several times as large as the model."""

ARRAY = "__array__"
"""Key of an array's number in the JSON text of a state."""

States: TypeAlias = dict[str, dict[str, Any]]
"""States of the training runs of one step, by their key; see `EpochCheckpoint`."""

NewState: TypeAlias = Callable[[], dict[str, Any]]
"""Copies a state, which takes as much memory as the model and its optimizer."""

Keep: TypeAlias = Callable[[NewState], None]
"""Keeps a newer state of one training run."""


class TrainingCheckpoints:
    """States of the training runs of one step.

    Args:
        states: The states that earlier processes kept.
        keep: Called with the key, and a function that returns the new state.
    """

    def __init__(self, states: States, keep: Callable[[str, NewState], None]) -> None:
        self._states, self._keep = states, keep

    def begin(self, key: str) -> tuple[dict[str, Any], Keep]:
        """The state of a training run, empty if it is new; and how to keep it.

        Args:
            key: The same for a training run in any process, and for no other one.

        Returns:
            The state, and a function that keeps a newer one.
        """
        state = self._states.get(key, {})
        return state, lambda newer: self._keep(key, newer)


@contextlib.contextmanager
def kept_in(folder: Path) -> Iterator[float]:
    """Context manager in which training runs keep their states in files.

    A file is written after a validation, at most once a minute, and read by the next
    process that enters the context with this folder. If the disk is full, the last file
    stays. The folder is removed when the work is done or has failed, but not if the
    process is killed or the machine lacks memory or space.

    Args:
        folder: The folder, whose name must depend on all that determines the training.

    Yields:
        Seconds of the earlier processes until they wrote their last state.
    """
    folder.mkdir(exist_ok=True)
    earlier = earlier_seconds(folder)
    found = {path.stem: _read(path) for path in folder.glob("*.npz")}
    states = {key: state for key, state in found.items() if state is not None}
    written = time.monotonic()

    def keep(key: str, state: NewState) -> None:
        nonlocal written
        if time.monotonic() - written >= SECONDS_BETWEEN_FILES:
            # Training goes on without a newer file.
            with contextlib.suppress(OSError):
                _write(folder / f"{key}.npz", state())
            written = time.monotonic()

    try:
        with keeping(TrainingCheckpoints(states, keep)):
            yield earlier
    except (OSError, MemoryError, tf.errors.ResourceExhaustedError):
        raise
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, state: dict[str, Any]) -> None:
    """Writes a state: its arrays, and a JSON text with their numbers in their place."""
    arrays: dict[str, Any] = {}

    def place(value: Any) -> dict[str, str]:
        name = str(len(arrays))
        arrays[name] = value
        return {ARRAY: name}

    arrays["state"] = np.array(json.dumps(state, default=place))
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


_DAMAGED = (
    OSError,
    EOFError,
    KeyError,
    NotImplementedError,
    ValueError,
    zipfile.BadZipFile,
)
"""Errors of NumPy for a damaged file."""


def _read(path: Path) -> dict[str, Any] | None:
    """The state in a file; None if it is damaged, so that training starts anew."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:

            def value(found: dict[str, Any]) -> Any:
                return arrays[found[ARRAY]] if found.keys() == {ARRAY} else found

            state = json.loads(str(arrays["state"]), object_hook=value)
    except _DAMAGED:
        return None
    return dict(state)


_checkpoints: list[TrainingCheckpoints] = []


@contextlib.contextmanager
def keeping(checkpoints: TrainingCheckpoints) -> Iterator[None]:
    """Context manager in which training runs keep their states."""
    _checkpoints.append(checkpoints)
    try:
        yield
    finally:
        _checkpoints.pop()


def begin_training(key: str) -> tuple[dict[str, Any], Keep | None]:
    """As `TrainingCheckpoints.begin`; empty and None if states are not kept."""
    return _checkpoints[-1].begin(key) if _checkpoints else ({}, None)


class EpochCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the state of training after each epoch, and starts from a kept one.

    Args:
        state: The state to start from; empty to start anew.
        keep: Called after each epoch, with a function that returns the state.
        parts: Callbacks with a state of their own, by name.
        epochs: Number of epochs of the training run.
    """

    def __init__(
        self,
        state: Mapping[str, Any],
        keep: Keep | None,
        parts: Mapping[str, Any],
        epochs: int,
    ) -> None:
        super().__init__()
        self._state, self._keep = state, keep
        self._parts, self._epochs = parts, epochs

    def on_train_begin(self, logs: Any = None) -> None:
        """Sets all weights, and the variables of the optimizer."""
        if not self._state:
            return
        variables = [*self.model.variables, *self.model.optimizer.variables]
        for variable, value in zip(variables, self._state["variables"], strict=True):
            variable.assign(value)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keeps the state."""
        if self._keep is not None:
            over = self.model.stop_training or epoch + 1 == self._epochs
            self._keep(lambda: self._state_after(epoch, over=over))

    def _state_after(self, epoch: int, *, over: bool) -> dict[str, Any]:
        variables = [*self.model.variables, *self.model.optimizer.variables]
        # A training run that is over needs its best weights only.
        values = [] if over else [np.asarray(each) for each in variables]
        parts = {name: part.state() for name, part in self._parts.items()}
        return {"epoch": epoch + 1, "over": over, "variables": values, "parts": parts}
