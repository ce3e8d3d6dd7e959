r"""Numbers that change while a student trains: weights of losses, temperatures.

A schedule is a function of the step, which is what the optimizer has counted: its
updates. So a run that is resumed from a checkpoint goes on where it stopped, and a
graph is traced once, not once a value. `recdistill.Distiller` takes schedules as
`student_loss_weight`, in `distillation_loss_weights` and in `temperatures`.

| over the steps the value | use |
|---|---|
| stays | `ConstantSchedule` |
| moves at an even pace | `LinearSchedule` |
| moves slowly at both ends | `CosineSchedule` |
| jumps | `StepSchedule` |
| is found by training, a temperature only | `LearnedTemperature` |

Example:
    >>> schedule = LinearSchedule(4.0, 1.0, steps=100)
    >>> [float(schedule(step)) for step in (0, 50, 100, 1_000)]
    [4.0, 2.5, 1.0, 1.0]
"""

from collections.abc import Sequence
from math import isfinite, log, pi
from typing import Any

import keras
from keras import ops

from recdistill.lists.masked_ops import Tensor

__all__ = [
    "ConstantSchedule",
    "CosineSchedule",
    "LearnedTemperature",
    "LinearSchedule",
    "Schedule",
    "StepSchedule",
]


class Schedule:
    """A number for each step of training. A subclass writes `__call__`.

    Args:
        **values: The numbers that it starts from, ends with or jumps to, each under the
            name that its error message should use. It never leaves their range.

    Raises:
        ValueError: If one of them is not a finite number.
    """

    def __init__(self, **values: float) -> None:
        for name, value in values.items():
            if not isfinite(value):
                raise ValueError(
                    f"`{name}` must be a finite number. Received: {name}={value}"
                )
        self.lowest, self.highest = min(values.values()), max(values.values())

    def __call__(self, step: Tensor) -> Tensor:
        """The value at a step.

        Args:
            step: A whole number, at least 0: the optimizer's updates so far.

        Returns:
            A scalar, float32.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__`")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this schedule anew."""
        raise NotImplementedError(f"{type(self).__name__} must define `get_config`")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Schedule":
        """Make a schedule from what `get_config` returned."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="recdistill")
class ConstantSchedule(Schedule):
    """One value for all steps: a temperature of the distiller's, say, not of the loss.

    Args:
        value: The value.

    Raises:
        ValueError: If it is not a finite number.
    """

    def __init__(self, value: float) -> None:
        super().__init__(value=value)
        self.value = value

    def __call__(self, step: Tensor) -> Tensor:
        """The value, a scalar."""
        return ops.convert_to_tensor(self.value, "float32")

    def get_config(self) -> dict[str, Any]:
        """The value."""
        return {"value": self.value}


class _Move(Schedule):
    """From one value to another in a number of steps, and there it stays."""

    def __init__(self, start: float, end: float, steps: int) -> None:
        super().__init__(start=start, end=end)
        if steps < 1:
            raise ValueError(f"`steps` must be at least 1. Received: steps={steps}")
        self.start, self.end, self.steps = start, end, steps

    def _progress(self, step: Tensor) -> Tensor:
        """How much of the way is done, from 0 to 1."""
        done = ops.cast(ops.convert_to_tensor(step), "float32") / self.steps
        return ops.clip(done, 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Both values and the number of steps."""
        return {"start": self.start, "end": self.end, "steps": self.steps}


@keras.saving.register_keras_serializable(package="recdistill")
class LinearSchedule(_Move):
    """From one value to another at an even pace.

    Args:
        start: The value at step 0.
        end: The value from step `steps` on.
        steps: How many updates the way takes, at least 1.

    Raises:
        ValueError: If a value is not finite or there is no step.

    Example:
        >>> float(LinearSchedule(0.0, 1.0, steps=4)(3))
        0.75
    """

    def __call__(self, step: Tensor) -> Tensor:
        """The value at a step, a scalar."""
        return self.start + (self.end - self.start) * self._progress(step)


@keras.saving.register_keras_serializable(package="recdistill")
class CosineSchedule(_Move):
    r"""From one value to another along half a cosine: slow, fast, slow.

    At step $n$ of $N$ the part $(1 - \cos(\pi n / N)) / 2$ of the way is done.

    Args:
        start: The value at step 0.
        end: The value from step `steps` on.
        steps: How many updates the way takes, at least 1.

    Raises:
        ValueError: If a value is not finite or there is no step.

    Example:
        >>> round(float(CosineSchedule(0.0, 1.0, steps=4)(1)), 4)  # (1 - cos(45°)) / 2
        0.1464
    """

    def __call__(self, step: Tensor) -> Tensor:
        """The value at a step, a scalar."""
        done = (1.0 - ops.cos(pi * self._progress(step))) / 2.0
        return self.start + (self.end - self.start) * done


@keras.saving.register_keras_serializable(package="recdistill")
class StepSchedule(Schedule):
    """A value until a boundary, then the next.

    Args:
        boundaries: Rising steps, at least 1. From a boundary on the next value holds.
        values: One more than boundaries.

    Raises:
        ValueError: If boundaries do not rise, or there is not one value more.

    Example:
        >>> schedule = StepSchedule([10, 20], [4.0, 2.0, 1.0])
        >>> [float(schedule(step)) for step in (0, 9, 10, 19, 20)]
        [4.0, 4.0, 2.0, 2.0, 1.0]
    """

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]) -> None:
        rising = sorted(set(boundaries)) == list(boundaries)
        if not boundaries or not rising or boundaries[0] < 1:
            raise ValueError(
                "`boundaries` must be rising steps, at least 1. "
                f"Received: boundaries={boundaries}"
            )
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                "`values` must have one more entry than `boundaries`. "
                f"Received: values={values}, boundaries={boundaries}"
            )
        super().__init__(**{f"values[{k}]": value for k, value in enumerate(values)})
        self.boundaries, self.values = tuple(boundaries), tuple(values)

    def __call__(self, step: Tensor) -> Tensor:
        """The value at a step, a scalar."""
        passed = ops.cast(
            ops.convert_to_tensor(step), "int32"
        ) >= ops.convert_to_tensor(self.boundaries, "int32")
        values = ops.convert_to_tensor(self.values, "float32")
        return ops.take(values, ops.sum(ops.cast(passed, "int32")))

    def get_config(self) -> dict[str, Any]:
        """Boundaries and values."""
        return {"boundaries": list(self.boundaries), "values": list(self.values)}


@keras.saving.register_keras_serializable(package="recdistill")
class LearnedTemperature(keras.layers.Layer):  # type: ignore[misc]
    r"""A temperature that is trained against the student, within bounds.

    It is one number $\theta$, trained by the distiller's optimizer beside the student,
    and part of the distiller, not of the student:

    $$ \tau = \tau_\text{lowest} \left( \frac{\tau_\text{highest}}{\tau_\text{lowest}}
       \right)^{\mathrm{sigmoid}(\theta)} $$

    A temperature that is *minimised* with the student learns to look away: the factor
    $\tau^2$ takes a divergence to 0 as $\tau \to 0$, whatever student and teacher say,
    and without that factor it is 0 at $\tau \to \infty$. So the gradient of $\theta$ is
    reversed: it looks for the temperature at which the student is furthest from its
    teacher, and the student is trained there. How far is furthest has no end either;
    hence the two bounds. In between, the logarithm of $\tau$ moves, so that it is
    positive and doubling costs the same everywhere. It starts in the middle, at the
    geometric mean of the bounds.

    `strength` scales the reversed gradient. Raised from 0 to 1 over the first part of
    training it is a curriculum: the student starts with an easy temperature, and the
    temperature gets harder as the student learns. (An optimizer that normalises
    gradients, such as Adam, forgets a constant strength, but not its course.)

    Args:
        lowest: Above zero.
        highest: Above `lowest`.
        strength: At least 0, or a schedule.
        name: Name of the layer.
        **kwargs: Other arguments of a Keras layer.

    Raises:
        ValueError: If the bounds or the strength are out of range.

    Reference: Li et al. (2023), "Curriculum Temperature for Knowledge Distillation",
        which also predicts a temperature for each example; here there is one for all.

    Example:
        >>> temperature = LearnedTemperature(1.0, 4.0)
        >>> float(temperature(0))
        2.0
    """

    def __init__(
        self,
        lowest: float = 1.0,
        highest: float = 10.0,
        strength: float | Schedule = 1.0,
        name: str = "learned_temperature",
        **kwargs: Any,
    ) -> None:
        # Half precision is too coarse for a number that moves in small steps.
        super().__init__(name=name, **{"dtype": "float32", **kwargs})
        if not (0.0 < lowest < highest and isfinite(highest)):
            raise ValueError(
                "`lowest` and `highest` must be finite, above 0 and in that order. "
                f"Received: lowest={lowest}, highest={highest}"
            )
        least = strength.lowest if isinstance(strength, Schedule) else strength
        if not (least >= 0.0 and isfinite(least)):
            raise ValueError(
                f"`strength` must be finite, at least 0. Received: strength={least}"
            )
        self.lowest, self.highest, self.strength = lowest, highest, strength
        self.position = self.add_weight(shape=(), initializer="zeros", name="position")
        self.built = True

    def __call__(self, step: Tensor) -> Tensor:
        """The temperature, a scalar; see `call`."""
        return super().__call__(ops.convert_to_tensor(step))

    def call(self, step: Tensor) -> Tensor:
        """The temperature, a scalar.

        Args:
            step: The optimizer's updates so far, for the strength.
        """
        strength = self.strength
        if isinstance(strength, Schedule):
            strength = strength(step)
        position = ops.convert_to_tensor(self.position)
        # The value of `position`, with minus `strength` as its derivative.
        reversed_ = (1.0 + strength) * ops.stop_gradient(position) - strength * position
        width = log(self.highest) - log(self.lowest)
        return self.lowest * ops.exp(width * ops.sigmoid(reversed_))

    def get_config(self) -> dict[str, Any]:
        """Bounds and strength."""
        strength = keras.saving.serialize_keras_object(self.strength)
        own = {"lowest": self.lowest, "highest": self.highest, "strength": strength}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LearnedTemperature":
        """Make a temperature from what `get_config` returned."""
        strength = keras.saving.deserialize_keras_object(config["strength"])
        return cls(**{**config, "strength": strength})
