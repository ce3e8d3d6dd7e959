"""Loss terms: the distillation losses of a distiller with their weights.

A term is a Keras loss with its weight and, if it changes during training, its
temperature. A `RepresentationLoss` compares intermediate representations of student and
teacher and may have a projection; any other loss compares scores.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from recdistill.distillation.keras_losses import as_loss, loss_value
from recdistill.distillation.layer_outputs import Projection
from recdistill.distillation.schedules import Scheduled, bounds, described, value_at
from recdistill.distillation.teacher_outputs import TeacherOutputs
from recdistill.distillation.temperatures import LearnedTemperature
from recdistill.lists.masked_ops import Tensor
from recdistill.lists.replicas import replicas
from recdistill.losses.representation_loss import RepresentationLoss

__all__ = [
    "Losses",
    "Temperature",
    "Temperatures",
    "Term",
    "as_losses",
    "as_student_weight",
    "as_temperatures",
    "as_terms",
    "as_weights",
    "is_always_zero",
    "outputs_of",
    "weighted_mean",
]

Temperature: TypeAlias = Scheduled | LearnedTemperature
Losses: TypeAlias = keras.losses.Loss | str | Sequence[keras.losses.Loss | str] | None
Temperatures: TypeAlias = Temperature | Sequence[Temperature | None] | None


def as_losses(losses: Losses) -> tuple[keras.losses.Loss, ...]:
    """Distillation losses as a tuple.

    Args:
        losses: One loss, several or None; see `keras_losses.as_loss`.

    Raises:
        ValueError: If one is not a Keras loss that reduces a batch to one number.
    """
    several = losses if isinstance(losses, list | tuple) else [losses]
    return tuple(
        as_loss("distillation_losses", loss) for loss in several if loss is not None
    )


def as_student_weight(weight: Scheduled) -> Scheduled:
    """The weight of the relevance loss, checked.

    Args:
        weight: The argument `student_loss_weight` of a distiller.

    Raises:
        ValueError: If it is not between 0 and 1 at all checked steps.
    """
    if not all(0.0 <= bound <= 1.0 for bound in bounds(weight)):
        raise ValueError(
            "`student_loss_weight` must be between 0 and 1. "
            f"Received: student_loss_weight={described(weight)}"
        )
    return weight


def as_weights(
    weights: Sequence[Scheduled] | None, count: int, student_loss_weight: Scheduled
) -> tuple[Scheduled, ...]:
    """The weight of each distillation loss.

    Args:
        weights: The argument `distillation_loss_weights` of a distiller. None means
            equal parts of `1 - student_loss_weight`.
        count: Number of distillation losses.
        student_loss_weight: Weight of the relevance loss.

    Raises:
        ValueError: If the number of weights differs from that of losses, one is out of
            range, or weights are None although `student_loss_weight` is a schedule.
    """
    if weights is None:
        if not count:
            return ()
        if callable(student_loss_weight):
            raise ValueError(
                "`distillation_loss_weights` must be given if `student_loss_weight` is "
                "a schedule. Received: distillation_loss_weights=None"
            )
        return ((1.0 - student_loss_weight) / count,) * count
    ends = [bounds(weight) for weight in weights]
    if len(weights) != count or not all(
        0.0 <= low and isfinite(up) for low, up in ends
    ):
        shown = ", ".join(map(described, weights))
        raise ValueError(
            "`distillation_loss_weights` must hold a finite number of at least 0, or a "
            "schedule of such numbers, for each distillation loss. "
            f"Received: distillation_loss_weights=[{shown}], {count} losses"
        )
    return tuple(weights)


def as_temperatures(
    temperatures: Temperatures, losses: Sequence[keras.losses.Loss]
) -> tuple[Temperature | None, ...]:
    """The temperature of each distillation loss; None keeps the loss's own.

    Args:
        temperatures: The argument `temperatures` of a distiller.
        losses: The distillation losses.

    Raises:
        ValueError: If the number of temperatures differs from that of losses, one is
            not above 0 at all checked steps, or its loss has no temperature.
    """
    if temperatures is None:
        return (None,) * len(losses)
    found: tuple[Any, ...] = (
        tuple(temperatures)
        if isinstance(temperatures, Sequence | np.ndarray)
        else (temperatures,)
    )
    if len(found) != len(losses):
        raise ValueError(
            "`temperatures` must hold a number, a schedule, a LearnedTemperature or "
            f"None for each distillation loss. Received: temperatures={temperatures}, "
            f"{len(losses)} losses"
        )
    learned = [id(each) for each in found if isinstance(each, LearnedTemperature)]
    if len(set(learned)) < len(learned):
        raise ValueError(
            "`temperatures` must hold a separate LearnedTemperature for each loss. "
            f"Received: the same one twice in temperatures={temperatures}"
        )
    for temperature, loss in zip(found, losses, strict=True):
        if temperature is not None:
            _check_temperature(temperature, loss)
    return found


def _check_temperature(temperature: Temperature, loss: keras.losses.Loss) -> None:
    if not hasattr(loss, "temperature"):
        raise ValueError(
            "`temperatures` must be None for a loss without a temperature. "
            f"Received: {temperature!r} for {loss!r}"
        )
    if isinstance(temperature, LearnedTemperature):
        return
    low, up = bounds(temperature)
    if not (0.0 < low and isfinite(up)):
        raise ValueError(
            "`temperatures` must be finite and stay above 0. "
            f"Received: {described(temperature)}"
        )


def is_always_zero(weight: Scheduled) -> bool:
    """Whether a weight is 0 at all checked steps."""
    return bounds(weight) == (0.0, 0.0)


def weighted_mean(values: Sequence[Tensor], weights: Sequence[Any]) -> Tensor:
    """Weighted mean of scalars; the plain mean if all weights are 0.

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
    """Names of the intermediate representations that losses compare, each once.

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
    """One distillation loss of a distiller, with its weight.

    Attributes:
        loss: The loss.
        weight: Its weight.
        temperature: Replaces the loss's own temperature; None keeps that one.
        projection: Applied to the student's embeddings first; None for no projection.
        name: Name under which the loss is reported; "" if it is not reported.
        temperature_name: Name under which the temperature is reported; "" if it is not.
    """

    loss: keras.losses.Loss
    weight: Scheduled
    temperature: Temperature | None
    projection: Projection | None
    name: str
    temperature_name: str

    @property
    def reported(self) -> list[str]:
        """Names of the reported values."""
        return [name for name in (self.name, self.temperature_name) if name]

    def compared(
        self, teacher: TeacherOutputs, scores: Tensor, outputs: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The pair of tensors that this loss compares.

        Args:
            teacher: The teacher's scores and intermediate representations.
            scores: The student's scores, `(batch, list_size)`.
            outputs: The student's intermediate representations.

        Returns:
            Scores of teacher and student, or embeddings of teacher and student.
        """
        if not isinstance(self.loss, RepresentationLoss):
            return teacher.scores, scores
        theirs = teacher.outputs[self.loss.teacher_output]
        ours = outputs[self.loss.student_output]
        if len(theirs.shape) == 2 and len(ours.shape) == 3:
            # Candidates that all lists share form a single list.
            theirs = theirs[None]
        if self.projection is not None:
            ours = self.projection(ours)
        return theirs, ours

    def value(
        self,
        pair: tuple[Tensor, Tensor],
        mask: dict[str, Tensor],
        sample_weight: Tensor | None,
        teacher_weight: Tensor | None,
        step: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, before its weight is applied.

        Args:
            pair: The result of `compared`.
            mask: The result of `batch_arguments.weighted_mask`.
            sample_weight: None, `(batch,)` or `(batch, list_size)`.
            teacher_weight: `(batch,)`, a factor of the weight of each list, or None.
            step: Number of updates that the optimizer has made.

        Returns:
            A scalar, divided by the number of replicas; and the reported values by
            name.
        """
        targets, reported = {"labels": pair[0], **mask}, {}
        if isinstance(self.loss, RepresentationLoss):
            targets.pop("item_weight", None)
        self._check_inputs(targets)
        temperature = self.temperature
        if temperature is not None:
            if isinstance(temperature, LearnedTemperature):
                temperature = temperature(step)
            temperature = ops.cast(value_at(temperature, step), "float32")
        loss = _at_temperature(self.loss, temperature)
        value = loss_value(loss, targets, pair[1], sample_weight, teacher_weight)
        if self.name:
            reported[self.name] = value
        if temperature is not None:
            reported[self.temperature_name] = temperature / replicas()
        return value, reported

    def _check_inputs(self, targets: dict[str, Tensor]) -> None:
        for name in getattr(self.loss, "inputs", ()):
            if name not in targets:
                raise ValueError(
                    f"A batch needs the entry {name!r} for the loss "
                    f"{type(self.loss).__name__}: an int for each candidate, "
                    "(batch, list_size) or (list_size,). Received: none"
                )


def as_terms(
    losses: Sequence[keras.losses.Loss],
    weights: Sequence[Scheduled],
    temperatures: Sequence[Temperature | None],
    projections: Sequence[Projection | None],
) -> tuple[Term, ...]:
    """Terms with distinct names.

    Args:
        losses: The losses. The second loss of a name gets a number: `hint_mse_2`.
        weights: One for each loss.
        temperatures: One for each loss, or None.
        projections: One for each loss, or None.
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
            temperature_name=""
            if temperature is None
            else "temperature" + name * several,
        )
        for name, loss, weight, temperature, projection in zip(
            names, losses, weights, temperatures, projections, strict=True
        )
    )


def _name_of(loss: keras.losses.Loss) -> str:
    """Name of a loss without the number that Keras appends to repeated names."""
    plain = re.sub(r"_\d+$", "", loss.name)
    unnamed = plain.replace("_", "") == type(loss).__name__.lower()
    return plain if unnamed else str(loss.name)


def _at_temperature(
    loss: keras.losses.Loss, temperature: Tensor | None
) -> keras.losses.Loss:
    """The loss with another temperature; None keeps its own.

    A copy: replicas are traced in turns, and would change the same loss.
    """
    if temperature is None:
        return loss
    found = object.__new__(type(loss))
    vars(found).update(vars(loss), temperature=tf.cast(temperature, loss.dtype))
    return found
