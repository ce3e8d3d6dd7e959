"""Training curves: losses, learning rate and gradient norm, recorded while training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from recdistill.lists.replicas import group_mean, summed_gradients
from recdistill.models.optimizers import LazyAdam, summed

ROWS_OF_A_LARGE_TABLE = 50_000
"""Rows of a table from which updating only the rows in the gradient is faster."""

POINTS = 5
"""Points of a training curve in each epoch."""

Observer = Callable[[int, Mapping[str, float]], None]
"""Callback for the values that belong to a training step."""


def unobserved(step: int, values: Mapping[str, float]) -> None:
    """An observer that ignores the values."""


def points_of(epoch_steps: int) -> int:
    """Number of steps between two points of a curve.

    Args:
        epoch_steps: Number of training steps in an epoch.
    """
    return math.ceil(epoch_steps / POINTS)


class _Measured(keras.optimizers.Optimizer):  # type: ignore[misc]
    """An optimizer that measures the norm of the gradient where a curve has its points.

    Args:
        learning_rate: A number or a schedule.
        weight_decay: Decoupled weight decay.
        epoch_steps: Number of training steps in an epoch.
    """

    def __init__(
        self, learning_rate: Any, weight_decay: float, epoch_steps: int
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self._epoch_steps, self._every = epoch_steps, points_of(epoch_steps)
        self.gradient_norm = tf.Variable(0.0, trainable=False, name="gradient_norm")
        self._rate: tf.Tensor | None = None

    def _get_current_learning_rate(self) -> Any:
        """Weight decay reads it for each variable; a schedule is computed only once."""
        if self._rate is not None:
            return self._rate
        return super()._get_current_learning_rate()

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Measures the gradient if this step is a point, and updates the weights."""
        grads = summed_gradients(grads)
        step = tf.convert_to_tensor(self.iterations) % self._epoch_steps + 1
        due = tf.equal(step % self._every, 0) | tf.equal(step, self._epoch_steps)
        self.gradient_norm.assign(
            tf.cond(due, lambda: gradient_norm(grads), self.gradient_norm.read_value)
        )
        self._rate = tf.convert_to_tensor(self.learning_rate)
        try:
            return super().apply(grads, trainable_variables)
        finally:
            self._rate = None


class MeasuredAdamW(_Measured, keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW, with the norm of the gradient."""


class MeasuredLazyAdam(_Measured, LazyAdam):
    """Lazy Adam, with the norm of the gradient.

    Rows of embedding tables without a gradient neither change nor decay. Dense weights
    are updated as by AdamW.
    """


def largest_table(model: keras.Model) -> int:
    """Number of rows of the model's largest embedding table; 0 without tables.

    Args:
        model: A model with weights.
    """
    tables = (
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Embedding)
    )
    return max((table.input_dim for table in tables), default=0)


def measured_optimizer(
    model: keras.Model, learning_rate: Any, weight_decay: float, epoch_steps: int
) -> MeasuredAdamW | MeasuredLazyAdam:
    """The optimizer of a model: lazy Adam if it has a large table, AdamW otherwise.

    Args:
        model: A model with weights.
        learning_rate: A number or a schedule.
        weight_decay: Decoupled weight decay.
        epoch_steps: Number of training steps in an epoch.
    """
    large = largest_table(model) >= ROWS_OF_A_LARGE_TABLE
    kind = MeasuredLazyAdam if large else MeasuredAdamW
    return kind(learning_rate, weight_decay, epoch_steps)


def gradient_norm(gradients: list[Any]) -> tf.Tensor:
    """Euclidean norm of all gradients together.

    The rows of a sparse gradient that belong to the same row of a table are added
    first.

    Args:
        gradients: Tensors and `tf.IndexedSlices`; None is left out.

    Examples:
        >>> rows = tf.IndexedSlices(tf.constant([[1.0], [2.0]]), [4, 4], [9, 1])
        >>> float(gradient_norm([rows, tf.constant([4.0]), None]))
        5.0
    """
    present = [summed(each) for each in gradients if each is not None]
    return tf.cast(tf.linalg.global_norm(present), tf.float32)


class CurveRecorder(keras.callbacks.Callback):  # type: ignore[misc]
    """Records the means of the losses between points, and the state at each point.

    Args:
        epoch_steps: Number of training steps in an epoch.
        observe: Called with each point.

    Attributes:
        curve: For each quantity its values, and under "step" the steps they belong to,
            counted from 1. None stands for a value that is not finite.
    """

    def __init__(self, epoch_steps: int, observe: Observer = unobserved) -> None:
        super().__init__()
        self._epoch_steps, self._every = epoch_steps, points_of(epoch_steps)
        self._observe, self._epoch = observe, 0
        self.curve: dict[str, list[float | None]] = {"step": []}

    def state(self) -> dict[str, Any]:
        """The curve so far, for a checkpoint."""
        return {"curve": self.curve}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from a checkpoint; tells the observer the earlier points again."""
        self.curve = state["curve"]
        for place in range(len(self.curve["step"])):
            self._tell(place)

    def _tell(self, place: int) -> None:
        """Passes a recorded point to the observer."""
        values = {name: each[place] for name, each in self.curve.items()}
        step = values.pop("step")
        known = {k: math.nan if v is None else v for k, v in values.items()}
        self._observe(int(step or 0), known)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Records a point, if there is one after this step."""
        step = batch + 1
        if step % self._every and step != self._epoch_steps:
            return
        optimizer = self.model.optimizer
        values = {name: float(value) for name, value in (logs or {}).items()}
        values = group_mean(values)
        values["learning_rate"] = float(optimizer.learning_rate)
        values["gradient_norm"] = float(optimizer.gradient_norm)
        # The next point has the means of its own steps only.
        self.model.reset_metrics()
        step += self._epoch * self._epoch_steps
        self.curve["step"].append(step)
        for name, value in values.items():
            finite = float(f"{value:.6g}") if math.isfinite(value) else None
            self.curve.setdefault(name, []).append(finite)
        self._tell(-1)
