"""Parts of the report about what the student learned from: teacher and soft targets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from recdistill.evaluation.report.json_fields import STRICT, Settings


class AssistantPart(BaseModel):
    """The teacher assistant whose scores the student learned from as well.

    Attributes:
        dim: Width of its embeddings.
        valid: Its first metric on validation.
    """

    model_config = STRICT

    dim: int
    valid: float


class SoftTargetsPart(BaseModel):
    """Conversion of the teacher's scores to the student's soft targets.

    Attributes:
        transform: Transform of the scores of each list
            (`recdistill.distillation.score_transforms`).
        teacher_temperature: Divides the transformed scores.
        temperature: Temperature of the loss; divides both sides.
        chosen_by: "doctor" if the score doctor chose transform or temperature.
        effective: Effective number of candidates of a list (the exponential of the
            entropy of the soft targets); None if unknown.
        list_size: Number of candidates of a list (median).
        unlabelled: Number of lists whose choice was not observed; from these the
            student learned the soft targets only.
        findings: Findings of the score doctor.
        reason: Reason for the score doctor's proposal.
        assistant: The assistant, which learned from these soft targets; the student
            learned from the mean of both. None if there was none.
    """

    model_config = STRICT

    transform: str
    teacher_temperature: float
    temperature: float
    chosen_by: Literal["configuration", "doctor"]
    effective: float | None = None
    list_size: float
    unlabelled: int = 0
    findings: tuple[str, ...] = ()
    reason: str | None = None
    assistant: AssistantPart | None = None


class TeacherPart(BaseModel):
    """The teacher, and what each member of an ensemble adds on validation.

    Attributes:
        kind: Kind of the teacher in the configuration.
        valid: The first metric on validation.
        sampled_candidates: Whether the validation lists have sampled candidates.
        members: If weights were chosen, of each member its `kind`, its `weight` (0 if
            it was left out), and the metric of the member alone (`valid`) and of the
            ensemble without it (`valid_without`).
        chosen: The section `teacher` that an automatic search has found.
    """

    model_config = STRICT

    kind: str
    valid: float
    sampled_candidates: bool = False
    members: list[Settings] = []
    chosen: Settings = {}
