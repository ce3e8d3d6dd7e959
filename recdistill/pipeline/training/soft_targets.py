"""Soft targets of the student, and the distillation losses on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from recdistill import losses
from recdistill.distillation.schedules import Scheduled
from recdistill.distillation.score_doctor import Examination
from recdistill.distillation.score_transforms import Transform
from recdistill.errors import ConfigError
from recdistill.evaluation.report.training_parts import SoftTargetsPart
from recdistill.pipeline.config import DistillConfig, LossTerm


@dataclass(frozen=True)
class SoftTargets:
    """Transform and temperatures that turn teacher scores into soft targets.

    Attributes:
        transform: Transform of the scores within each list.
        teacher_temperature: Divides the transformed scores.
        warning: A warning if the soft targets are nearly one-hot or nearly uniform, or
            None.
        part: The same for the report.
    """

    transform: Transform
    teacher_temperature: float
    warning: str | None
    part: SoftTargetsPart


def choose(
    config: DistillConfig, found: Examination, unlabelled: int = 0
) -> SoftTargets:
    """The configured transform and temperatures; "auto" is the doctor's proposal.

    The proposed temperature divides the teacher's scores only. If it divided both sides
    of the loss, the student's scores would have to be right at two temperatures: this
    one, and 1 for the loss on the observed relevance.

    Args:
        config: The `distill` section.
        found: The score doctor's findings on the stored scores.
        unlabelled: Number of lists with such scores whose choice was not observed.
    """
    proposal = found.proposal
    transform: Transform = "z_score"
    if config.scores != "auto":
        transform = config.scores
    elif proposal is not None:
        transform = proposal.transform
    teacher_temperature = (
        found.temperature_for(transform)
        if config.teacher_temperature == "auto"
        else config.teacher_temperature
    )
    # The loss divides the teacher's scores once more.
    total = teacher_temperature * config.temperature
    automatic = "auto" in (config.scores, config.teacher_temperature)
    return SoftTargets(
        transform=transform,
        teacher_temperature=teacher_temperature,
        warning=found.warning(transform, total),
        part=SoftTargetsPart(
            transform=transform,
            teacher_temperature=teacher_temperature,
            temperature=config.temperature,
            chosen_by="doctor" if automatic else "configuration",
            effective=found.effective_at(transform, total),
            unlabelled=unlabelled,
            list_size=found.list_size,
            findings=found.findings,
            reason=None if proposal is None else proposal.reason,
        ),
    )


def distillation_losses(
    config: DistillConfig,
) -> tuple[list[keras.losses.Loss], list[float]]:
    """The configured losses and their weights, which add up to `config.weight`.

    Losses with a temperature get `config.temperature`, unless their options set one.

    Args:
        config: The `distill` section.

    Raises:
        ConfigError: If a loss does not accept one of its options.
    """
    terms = config.loss
    if isinstance(terms, str):
        terms = (LossTerm(name=terms),)
    total = sum(term.weight for term in terms)
    built = [_build(term, config.temperature) for term in terms]
    return built, [config.weight * term.weight / total for term in terms]


def distiller_arguments(config: DistillConfig, steps: int) -> dict[str, Any]:
    """Losses, weights and temperatures, as arguments of a `Distiller`.

    Args:
        config: The `distill` section.
        steps: Number of training steps, over which weights and temperatures change.

    Raises:
        ConfigError: As `distillation_losses`.
    """
    built, weights = distillation_losses(config)
    weight, end = config.weight, config.final_weight
    arguments = {
        "distillation_losses": built,
        "distillation_loss_weights": [
            _linear(each, each * (end / weight), steps) for each in weights
        ],
        "student_loss_weight": _linear(1.0 - weight, 1.0 - end, steps),
    }
    last = config.final_temperature
    if last is not None:
        arguments["temperatures"] = [
            _linear(each.temperature, last, steps)
            if isinstance(each, losses.TemperedListLoss)
            else None
            for each in built
        ]
    return arguments


def _linear(start: float, end: float, steps: int) -> Scheduled:
    """A number that changes linearly over the training steps."""
    if start == end:
        return start
    decay = keras.optimizers.schedules.PolynomialDecay
    schedule: Scheduled = decay(start, decay_steps=steps, end_learning_rate=end)
    return schedule


def number_of_strata(built: Sequence[keras.losses.Loss]) -> int | None:
    """Number of strata of items that the losses need; None if none needs strata.

    Args:
        built: Distillation losses.

    Raises:
        ConfigError: If two losses need different numbers.
    """
    found = {each.strata for each in built if hasattr(each, "strata")}
    if len(found) > 1:
        raise ConfigError(
            "`distill.loss`: all losses with `strata` must have the same number. "
            f"Received: {sorted(found)}"
        )
    return next(iter(found), None)


def _build(term: LossTerm, temperature: float) -> keras.losses.Loss:
    kind = getattr(losses, term.name)
    options = dict(term.options)
    if issubclass(kind, losses.TemperedListLoss):
        options.setdefault("temperature", temperature)
    if issubclass(kind, losses.RepresentationLoss):
        # An assistant exposes embeddings under the same names as the student.
        same = options.setdefault("student_output", "query_embedding")
        options.setdefault("teacher_output", same)
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"`distill.loss`: {term.name} does not accept options={term.options}: "
            f"{error}"
        ) from error
