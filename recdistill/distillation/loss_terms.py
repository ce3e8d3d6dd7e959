"""The distillation losses of a distiller: what each compares, weighs and is called.

A term is a Keras loss with a weight and, if it has one that changes, a temperature. A
`RepresentationLoss` compares inner outputs and may own a projection; any other loss
compares scores.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeAlias

import keras
import tensorflow as tf
from keras import ops

from recdistill.distillation.layer_outputs import Projection
from recdistill.distillation.teacher_outputs import Shown
from recdistill.distillation.temperatures import LearnedTemperature, Schedule
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.representation_loss import RepresentationLoss

__all__ = [
    "Losses",
    "Temperature",
    "Temperatures",
    "Term",
    "Weight",
    "as_losses",
    "as_student_weight",
    "as_temperatures",
    "as_terms",
    "as_weights",
    "check_loss",
    "is_always_zero",
    "outputs_of",
    "replicas",
    "value_at",
    "weighted_mean",
]

Weight: TypeAlias = float | Schedule
Temperature: TypeAlias = Schedule | LearnedTemperature
Losses: TypeAlias = keras.losses.Loss | Sequence[keras.losses.Loss] | None
Temperatures: TypeAlias = Temperature | Sequence[Temperature | None] | None


def as_losses(losses: Losses) -> tuple[keras.losses.Loss, ...]:
    """One loss, several or none as a tuple.

    Args:
        losses: What a distiller was given.

    Raises:
        ValueError: If one is not a Keras loss that reduces a batch to one number.
    """
    several = losses if isinstance(losses, list | tuple) else [losses]
    found = tuple(loss for loss in several if loss is not None)
    for loss in found:
        check_loss("distillation_losses", loss)
    return found


def check_loss(name: str, loss: Any) -> None:
    """Raise unless a loss is a Keras loss that reduces a batch to one number.

    Args:
        name: What the error message calls it.
        loss: What was given.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(loss, keras.losses.Loss) or loss.reduction in (None, "none"):
        raise ValueError(
            f"`{name}` must be keras.losses.Loss objects with a reduction. "
            f"Received: {loss!r}"
        )


def as_student_weight(weight: Weight) -> Weight:
    """The weight of relevance, checked.

    Args:
        weight: What a distiller was given.

    Raises:
        ValueError: If it is not between 0 and 1 in all steps.
    """
    scheduled = isinstance(weight, Schedule)
    ends = [weight.lowest, weight.highest] if isinstance(weight, Schedule) else [weight]
    if not all(0.0 <= end <= 1.0 for end in ends):
        shown = f"a schedule between {ends[0]} and {ends[1]}" if scheduled else weight
        raise ValueError(
            "`student_loss_weight` must be between 0 and 1. "
            f"Received: student_loss_weight={shown}"
        )
    return weight


def as_weights(
    weights: Sequence[Weight] | None, count: int, student_loss_weight: Weight
) -> tuple[Weight, ...]:
    """The weight of each loss.

    Args:
        weights: What a distiller was given; None shares out what relevance leaves.
        count: How many losses there are.
        student_loss_weight: The weight of relevance.

    Raises:
        ValueError: If there is not one for each loss, one is out of range, or there is
            none and the weight of relevance is a schedule.
    """
    if weights is None:
        if not count:
            return ()
        if isinstance(student_loss_weight, Schedule):
            raise ValueError(
                "`distillation_loss_weights` must be given where `student_loss_weight` "
                "is a schedule. Received: distillation_loss_weights=None"
            )
        return ((1.0 - student_loss_weight) / count,) * count
    lowest = [w.lowest if isinstance(w, Schedule) else w for w in weights]
    if len(weights) != count or not all(0.0 <= w and isfinite(w) for w in lowest):
        raise ValueError(
            "`distillation_loss_weights` must hold a finite number, at least 0, for "
            f"each distillation loss. Received: distillation_loss_weights={weights}, "
            f"{count} losses"
        )
    return tuple(weights)


def as_temperatures(
    temperatures: Temperatures, losses: Sequence[keras.losses.Loss]
) -> tuple[Temperature | None, ...]:
    """The temperature of each loss; None for one that keeps its own.

    Args:
        temperatures: What a distiller was given.
        losses: Its losses.

    Raises:
        ValueError: If there is not one for each loss, one may be 0 or less, or it is
            for a loss without a temperature.
    """
    if temperatures is None:
        return (None,) * len(losses)
    found: tuple[Any, ...] = (temperatures,)
    if isinstance(temperatures, Sequence):
        found = tuple(temperatures)
    if len(found) != len(losses):
        raise ValueError(
            "`temperatures` must hold a schedule, a LearnedTemperature or None for "
            f"each distillation loss. Received: temperatures={temperatures}, "
            f"{len(losses)} losses"
        )
    learned = [id(each) for each in found if isinstance(each, LearnedTemperature)]
    if len(set(learned)) < len(learned):
        raise ValueError(
            "`temperatures` must hold a LearnedTemperature of its own for each loss. "
            f"Received: one of them twice in temperatures={temperatures}"
        )
    for temperature, loss in zip(found, losses, strict=True):
        if temperature is None:
            continue
        if not isinstance(temperature, Schedule | LearnedTemperature):
            raise ValueError(
                "`temperatures` must be schedules or LearnedTemperature; a number is "
                f"an argument of the loss. Received: {temperature!r}"
            )
        if temperature.lowest <= 0.0:
            raise ValueError(
                "`temperatures` must stay above 0. Received: a schedule that falls to "
                f"{temperature.lowest}"
            )
        if not hasattr(loss, "temperature"):
            raise ValueError(
                "`temperatures` must be None for a loss without a temperature. "
                f"Received: {temperature!r} for {loss!r}"
            )
    return found


def is_always_zero(weight: Weight) -> bool:
    """Whether a weight is 0 in every step."""
    return (weight.highest if isinstance(weight, Schedule) else weight) == 0.0


def value_at(weight: Weight, step: Tensor) -> Tensor | float:
    """The value of a weight at a step: a number as it is, a schedule's as a tensor."""
    return weight(step) if isinstance(weight, Schedule) else weight


def weighted_mean(values: Sequence[Tensor], weights: Sequence[Any]) -> Tensor:
    """Values averaged by their weights, and equally if all of those are 0.

    Args:
        values: Scalars.
        weights: Numbers or scalars, at least 0.

    Returns:
        A scalar.
    """
    stacked = ops.stack(list(values))
    weight = ops.stack([ops.cast(each, stacked.dtype) for each in weights])
    weight = ops.where(ops.sum(weight) > 0.0, weight, ops.ones_like(weight))
    return ops.sum(stacked * weight) / ops.sum(weight)


def outputs_of(losses: Sequence[keras.losses.Loss], side: str) -> list[str]:
    """Names of the inner outputs that losses compare, each once.

    Args:
        losses: Losses of all kinds.
        side: "student" or "teacher".
    """
    names = [
        getattr(loss, f"{side}_output")
        for loss in losses
        if isinstance(loss, RepresentationLoss)
    ]
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Term:
    """One distillation loss of a distiller.

    Attributes:
        loss: The loss.
        weight: Its weight.
        temperature: What stands in for its own; None for its own.
        projection: What the student's embeddings pass first; None for nothing.
        name: What it is reported as, "" for not at all.
        temperature_name: What its temperature is reported as, "" for not at all.
    """

    loss: keras.losses.Loss
    weight: Weight
    temperature: Temperature | None
    projection: Projection | None
    name: str
    temperature_name: str

    @property
    def reported(self) -> list[str]:
        """The names of all it reports."""
        return [name for name in (self.name, self.temperature_name) if name]

    def compared(
        self, shown: Shown, scores: Tensor, outputs: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """What of the teacher and what of the student this loss looks at.

        Args:
            shown: What the teacher says of a batch.
            scores: The student's scores, `(batch, list_size)`.
            outputs: The student's inner outputs.

        Returns:
            Scores of both, or embeddings of both.
        """
        if not isinstance(self.loss, RepresentationLoss):
            return shown.scores, scores
        teacher = shown.outputs[self.loss.teacher_output]
        student = outputs[self.loss.student_output]
        if len(teacher.shape) == 2 and len(student.shape) == 3:
            # Candidates that all lists share are one list.
            teacher = teacher[None]
        if self.projection is not None:
            student = self.projection(student)
        return teacher, student

    def value(
        self,
        teacher: Tensor,
        student: Tensor,
        mask: Tensor,
        sample_weight: Tensor | None,
        step: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, before its weight.

        Args:
            teacher: Scores or embeddings.
            student: Scores or embeddings.
            mask: `(batch, list_size)`, bool.
            sample_weight: As `fit` got it.
            step: The optimizer's updates so far.

        Returns:
            A scalar, divided by the number of replicas; and what is reported by name.
        """
        targets, reported = {"labels": teacher, "mask": mask}, {}
        temperature = None if self.temperature is None else self.temperature(step)
        with _tempered(self.loss, temperature):
            value = self.loss(targets, student, sample_weight)
        if self.name:
            reported[self.name] = value
        if temperature is not None:
            reported[self.temperature_name] = temperature / replicas()
        return value, reported


def as_terms(
    losses: Sequence[keras.losses.Loss],
    weights: Sequence[Weight],
    temperatures: Sequence[Temperature | None],
    projections: Sequence[Projection | None],
) -> tuple[Term, ...]:
    """The parts of each loss together, with names that tell it from others.

    Args:
        losses: The losses. The second of a name gets a number: `hint_mse_2`.
        weights: One for each.
        temperatures: One for each, or None.
        projections: One for each, or None.
    """
    names: list[str] = []
    for name in map(_name_of, losses):
        same = sum(re.fullmatch(rf"_{name}(_\d+)?", each) is not None for each in names)
        names.append(f"_{name}_{same + 1}" if same else f"_{name}")
    several = len(losses) > 1
    return tuple(
        Term(
            loss,
            weight,
            temperature,
            projection,
            name=f"distillation_loss{name}" if several else "",
            temperature_name="temperature" + name * several if temperature else "",
        )
        for name, loss, weight, temperature, projection in zip(
            names, losses, weights, temperatures, projections, strict=True
        )
    )


def _name_of(loss: keras.losses.Loss) -> str:
    """A loss's name, without the number that Keras gives to each but the first."""
    plain = re.sub(r"_\d+$", "", loss.name)
    unnamed = plain.replace("_", "") == type(loss).__name__.lower()
    return plain if unnamed else str(loss.name)


def replicas() -> int:
    """How many replicas train in step; gradients are summed over them."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


@contextmanager
def _tempered(loss: keras.losses.Loss, temperature: Tensor | None) -> Iterator[None]:
    """Inside the block a loss has this temperature; its own if None."""
    if temperature is None:
        yield
        return
    own = loss.temperature
    loss.temperature = tf.cast(temperature, loss.dtype)
    try:
        yield
    finally:
        loss.temperature = own
