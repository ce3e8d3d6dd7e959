"""The `distill` section: how the student learns from the teacher."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from recdistill.pipeline.config.section import Section

DistillationLoss = Literal[
    "ListwiseKLDivergence",
    "ListwiseSoftCrossEntropy",
    "ListwiseJensenShannon",
    "ListwisePlackettLuce",
    "ListwiseSoftLambdaNDCG",
    "TopKRelaxedRanking",
    "TopKDualCorrection",
    "TopKRankDistil",
    "TopKPositionWeighted",
    "StratifiedKLDivergence",
    "PairwiseMarginMSE",
    "PairwiseRankNet",
    "PointwiseMSE",
    "PointwiseBinaryCrossEntropy",
]
"""Names of the losses in `recdistill.losses` that learn from teacher scores.

A list of its own, so that loading a configuration does not import TensorFlow; a test
compares it with the package.
"""


EmbeddingLoss = Literal[
    "HintMSE", "RelationalDistance", "RelationalAngle", "ContrastiveAlignment"
]
"""Names of the losses in `recdistill.losses` that learn from embeddings."""


class LossTerm(Section):
    """One of several distillation losses."""

    name: DistillationLoss | EmbeddingLoss = Field(
        description="Class of `recdistill.losses`. One that compares embeddings needs "
        "`distill.assistant`, whose embeddings the student learns."
    )
    weight: float = Field(
        default=1.0, gt=0, description="Weight relative to the other losses."
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Arguments of the class, such as `k` or `temperature`.",
    )

    @property
    def compares_embeddings(self) -> bool:
        """Whether it learns from embeddings and not from scores."""
        return self.name in get_args(EmbeddingLoss)


def _half(weight: float) -> float:
    """The default of `final_weight`."""
    return 1.0 if weight == 1.0 else weight / 2


class AssistantConfig(Section):
    """A teacher assistant between the teacher and a narrow student."""

    dim: int = Field(
        gt=1, description="Width of the assistant's embeddings, above the student's."
    )


class DistillConfig(Section):
    """Losses and soft targets of the distillation, and the gate."""

    loss: DistillationLoss | Annotated[tuple[LossTerm, ...], Field(min_length=1)] = (
        Field(
            default="ListwiseKLDivergence",
            description="Distillation loss, a class of `recdistill.losses`; or several "
            "of them: `[{ name = …, weight = …, options = { k = 50 } }]`.",
        )
    )
    weight: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Weight of the distillation loss at the start of training. The "
        "loss on the observed relevance has weight 1 - `weight`.",
    )
    final_weight: float = Field(
        default_factory=lambda section: _half(section.get("weight", 1.0)),
        ge=0,
        le=1,
        description="Weight at the end of training; the weight changes linearly from "
        "`weight` to it (with a second round, in each round). By default half of "
        "`weight`; a `weight` of 1 stays 1.",
    )
    scores: Literal["none", "z_score", "min_max", "log", "logit", "rank", "auto"] = (
        Field(
            default="auto",
            description="Transform of the teacher's scores within a list; see "
            "`recdistill.distillation.score_transforms`. `auto`: the transform that "
            "the score doctor proposes.",
        )
    )
    teacher_temperature: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto",
        description="Divides the teacher's transformed scores. `auto`: the temperature "
        "that the score doctor proposes. For a loss that reads scores as amounts or "
        'log-odds, set `scores = "none"` and `teacher_temperature = 1`.',
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="Temperature of the loss: divides both the teacher's and the "
        "student's scores.",
    )
    final_temperature: float | None = Field(
        default=None,
        gt=0,
        description="Temperature of the loss at the end of training; it changes "
        "linearly from `temperature` to it (with a second round, in each round). By "
        "default it stays the same.",
    )
    assistant: AssistantConfig | None = Field(
        default=None,
        description="A wider student, such as `{ dim = 64 }`, that is distilled first. "
        "The student then learns from the mean of the teacher's and the assistant's "
        "scores. A student that is not narrower learns from the teacher's.",
    )
    gate: Literal["stop", "warn"] = Field(
        default="stop",
        description="`stop`: the run fails if the teacher's scores are unusable, or if "
        "the teacher does not beat popularity and the baseline on validation. `warn`: "
        "the run "
        "continues with a warning.",
    )

    @model_validator(mode="after")
    def _embeddings_are_those_of_an_assistant(self) -> Self:
        terms = () if isinstance(self.loss, str) else self.loss
        names = [term.name for term in terms if term.compares_embeddings]
        if names and self.assistant is None:
            raise ValueError(
                "`loss` can compare embeddings only with those of an assistant, which "
                "has them for queries and items in one space: set `distill.assistant`, "
                "such as { dim = 64 }, with a `dim` above the student's. A teacher's "
                f"stored scores have no embeddings. Received: {', '.join(names)} "
                "without an assistant"
            )
        if names and len(names) == len(terms):
            raise ValueError(
                "`loss` must have a loss on scores beside those on embeddings, because "
                "the assistant learns from the teacher's scores. Received: only "
                f"{', '.join(names)}"
            )
        return self

    @property
    def on_scores(self) -> DistillConfig:
        """The section without the losses on embeddings."""
        if isinstance(self.loss, str):
            return self
        kept = tuple(term for term in self.loss if not term.compares_embeddings)
        return self.model_copy(update={"loss": kept})

    @field_validator("temperature", mode="before")
    @classmethod
    def _is_not_automatic(cls, value: Any) -> Any:
        if value == "auto":
            raise ValueError(
                "`temperature` must be a number. The automatic choice is now "
                '`teacher_temperature = "auto"`, which is the default: remove '
                "`temperature`. Received: 'auto'"
            )
        return value
