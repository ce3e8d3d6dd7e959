"""What a student learns of its teacher: soft targets, and the losses on them."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from recdistill import losses
from recdistill.distillation.score_doctor import Examination
from recdistill.distillation.score_transforms import Transform
from recdistill.errors import ConfigError
from recdistill.evaluation.report.run_report import SoftTargetsPart
from recdistill.pipeline.config import DistillConfig, LossTerm


@dataclass(frozen=True)
class SoftTargets:
    """How the teacher's scores become soft targets.

    Attributes:
        transform: Of the scores, list by list.
        unit: What the transformed scores are divided by.
        temperature: Of both sides of the loss.
        warning: What is wrong with that, if anything.
        part: For the report.
    """

    transform: Transform
    unit: float
    temperature: float
    warning: str | None
    part: SoftTargetsPart


def choose(config: DistillConfig, found: Examination) -> SoftTargets:
    """What the configuration says, and where it says "auto", the doctor.

    The doctor's temperature divides the teacher's scores, and the loss stays at 1.
    Softened on both sides, the student's own scores would have to be right at two
    temperatures at once: the doctor's, and 1 for the hard labels.

    Args:
        config: The `distill` section.
        found: What the doctor says of the stored scores.
    """
    proposal = found.proposal
    transform: Transform = "z_score"
    if config.scores != "auto":
        transform = config.scores
    elif proposal is not None:
        transform = proposal.transform
    unit, temperature = 1.0, 1.0
    if config.temperature != "auto":
        temperature = config.temperature
    else:
        unit = found.temperature_for(transform)
    softness = unit * temperature
    return SoftTargets(
        transform=transform,
        unit=unit,
        temperature=temperature,
        warning=found.warning(transform, softness),
        part=SoftTargetsPart(
            transform=transform,
            temperature=softness,
            chosen_by=(
                "doctor"
                if "auto" in (config.scores, config.temperature)
                else "configuration"
            ),
            effective=found.effective_at(transform, softness),
            list_size=found.list_size,
            findings=found.findings,
            reason=None if proposal is None else proposal.reason,
        ),
    )


def distillation_losses(
    config: DistillConfig, temperature: float
) -> tuple[list[keras.losses.Loss], list[float]]:
    """The configured losses and their weights, which add up to `config.weight`.

    Args:
        config: The `distill` section.
        temperature: For the losses that have one and do not set their own.

    Raises:
        ConfigError: If a loss does not take one of its options.
    """
    terms = config.loss
    if isinstance(terms, str):
        terms = (LossTerm(name=terms),)
    total = sum(term.weight for term in terms)
    built = [_built(term, temperature) for term in terms]
    return built, [config.weight * term.weight / total for term in terms]


def _built(term: LossTerm, temperature: float) -> keras.losses.Loss:
    kind = getattr(losses, term.name)
    options = dict(term.options)
    if issubclass(kind, losses.TemperedListLoss):
        options.setdefault("temperature", temperature)
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"`distill.loss`: {term.name} cannot be made with options="
            f"{term.options}: {error}"
        ) from error
