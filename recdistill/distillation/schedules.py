r"""Schedules: loss weights and temperatures that change during training.

Wherever a `recdistill.Distiller` takes a weight or a temperature, it takes

- a number, which stays the same,
- a `keras.optimizers.schedules.LearningRateSchedule`, such as `PolynomialDecay` (linear
  at its default `power=1`), `CosineDecay` or `PiecewiseConstantDecay`, or
- any other function of the step, a float32 scalar, written with `keras.ops`.

The step is the number of updates that the optimizer has made. Training that resumes
from a checkpoint therefore continues the schedule where it stopped, and the training
step is traced once, not once for each value.

A schedule cannot be checked at every step. It is checked at `CHECKED_STEPS`, that is at
its start, at its end, and at each power of ten in between.

Examples:
    >>> import keras
    >>> schedule = keras.optimizers.schedules.PolynomialDecay(
    ...     4.0, decay_steps=100, end_learning_rate=1.0
    ... )
    >>> [float(value_at(schedule, step)) for step in (0, 50, 100, 1_000)]
    [4.0, 2.5, 1.0, 1.0]
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from keras import ops

from recdistill.lists.masked_ops import Tensor

__all__ = ["CHECKED_STEPS", "Schedule", "Scheduled", "bounds", "described", "value_at"]

Schedule: TypeAlias = Callable[[Tensor], Tensor]
Scheduled: TypeAlias = float | Schedule

CHECKED_STEPS = (0, *(10**power for power in range(10)))
"""Steps at which the values of a schedule are checked: 0, 1, 10, … 1,000,000,000."""


def value_at(value: Scheduled, step: Tensor) -> Tensor | float:
    """The value at a step.

    Args:
        value: A number, which is returned unchanged, or a schedule.
        step: Number of updates that the optimizer has made, an integer.

    Returns:
        A number, or a float32 scalar for a schedule.
    """
    if callable(value):
        return ops.cast(value(ops.cast(step, "float32")), "float32")
    return value


def bounds(value: Scheduled) -> tuple[float, float]:
    """Lowest and highest value at `CHECKED_STEPS`; NaN if one of the values is NaN.

    Args:
        value: A number or a schedule.
    """
    seen = [float(value_at(value, step)) for step in CHECKED_STEPS]
    return float(np.min(seen)), float(np.max(seen))


def described(value: Any) -> str:
    """A number or a schedule as text, for error messages.

    Args:
        value: A number, a schedule, or any other object.
    """
    if not callable(value):
        return repr(value)
    low, high = bounds(value)
    return f"a schedule with values from {low:g} to {high:g}"
