"""Checkpoints of the training runs of a step, for workers that are started again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np

States: TypeAlias = dict[int, dict[str, Any]]
"""States of the training runs of one step, by number; see `EpochCheckpoint`."""


class TrainingCheckpoints:
    """States of the training runs of one step, numbered in the order they begin.

    Args:
        states: The states that earlier workers kept, by number.
        keep: Called with the number and each new state.
    """

    def __init__(
        self, states: States, keep: Callable[[int, dict[str, Any]], None]
    ) -> None:
        self._states, self._keep, self._begun = states, keep, 0

    def begin(self) -> tuple[dict[str, Any], Callable[[dict[str, Any]], None]]:
        """The state of the next training run, empty if it is new; and how to keep it.

        Returns:
            The state, and a function that keeps a newer one.
        """
        number, self._begun = self._begun, self._begun + 1
        state = self._states.get(number, {})
        return state, lambda newer: self._keep(number, newer)


_checkpoints: list[TrainingCheckpoints] = []


@contextlib.contextmanager
def keeping(checkpoints: TrainingCheckpoints) -> Iterator[None]:
    """Context manager in which training runs keep their states."""
    _checkpoints.append(checkpoints)
    try:
        yield
    finally:
        _checkpoints.pop()


def begin_training() -> tuple[dict[str, Any], Callable[[dict[str, Any]], None] | None]:
    """As `TrainingCheckpoints.begin`; empty and None if states are not kept."""
    return _checkpoints[-1].begin() if _checkpoints else ({}, None)


class EpochCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the state of training after each epoch, and starts from a kept one.

    Args:
        state: The state to start from; empty to start anew.
        keep: Called with each state.
        parts: Callbacks with a state of their own, by name.
        epochs: Number of epochs of the training run.
    """

    def __init__(
        self,
        state: Mapping[str, Any],
        keep: Callable[[dict[str, Any]], None] | None,
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
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        variables = [*self.model.variables, *optimizer.variables]
        for variable, value in zip(variables, self._state["variables"], strict=True):
            variable.assign(value)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keeps the state."""
        if self._keep is None:
            return
        over = self.model.stop_training or epoch + 1 == self._epochs
        variables = [*self.model.variables, *self.model.optimizer.variables]
        # A training run that is over needs its best weights only.
        values = [] if over else [np.asarray(each) for each in variables]
        parts = {name: part.state() for name, part in self._parts.items()}
        self._keep(
            {"epoch": epoch + 1, "over": over, "variables": values, "parts": parts}
        )
