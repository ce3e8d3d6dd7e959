"""The `teacher` section: one class for each kind of teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    TypeAdapter,
    model_validator,
)

from recdistill.data.dataset import nearest
from recdistill.features.specs import HistoryWeights, LinearItemModelSpec
from recdistill.pipeline.config.budget import parse_duration
from recdistill.pipeline.config.external_teacher_section import (
    CallableTeacherConfig,
    ExternalTeacherConfig,
    KerasTeacherConfig,
    LightGBMTeacherConfig,
    ModelTeacherConfig,
    RemoteTeacherConfig,
    SavedModelTeacherConfig,
    ScoresTeacherConfig,
    TfKerasTeacherConfig,
)
from recdistill.pipeline.config.section import Section

MOST_CHOSEN = 5
"""Largest number of members whose weights are chosen on validation."""


class AttentionConfig(Section):
    """Self-attention over the history."""

    dim: int = Field(default=48, gt=0, description="Width of all vectors.")
    heads: int = Field(
        default=2, gt=0, description="Attention heads; `dim` must be a multiple of it."
    )
    blocks: int = Field(default=1, ge=0, le=100, description="Self-attention blocks.")
    attention_length: int = Field(
        default=50,
        gt=0,
        description="Number of most recent history items in the attention.",
    )
    dropout: float = Field(
        default=0.2, ge=0, lt=1, description="Share of entries dropped in training."
    )

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(
                "`dim` must be a multiple of `heads`. "
                f"Received: dim={self.dim}, heads={self.heads}"
            )
        return self


class RankerConfig(AttentionConfig):
    """Arguments of `recdistill.models.RankingTeacher`."""

    decays: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(0.5, 0.8, 0.97),
        description="One weighted pool of the history per entry; its weights start at "
        "decay ** age.",
    )


class SequenceRankerConfig(AttentionConfig):
    """Arguments of `recdistill.models.SequenceRanker`."""

    dim: int = Field(default=64, gt=0, description="Width of all vectors.")
    blocks: int = Field(default=2, ge=0, le=100, description="Self-attention blocks.")
    dropout: float = Field(
        default=0.4, ge=0, lt=1, description="Share of entries dropped in training."
    )


class CrossFittedConfig(Section):
    """Cross-fitting of a teacher that the pipeline trains."""

    folds: int = Field(
        default=0,
        ge=0,
        le=20,
        description="Number of folds of the queries. The teacher is also trained "
        "without each fold, and a training list is scored by the teacher that has not "
        "seen its query. 0 scores it with the teacher that was trained on all lists.",
    )

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        if self.folds == 1:
            raise ValueError(
                "`folds` must be 0 or at least 2, because a teacher cannot be trained "
                "without the only fold. Received: 1"
            )
        return self


class SequenceTeacherConfig(SequenceRankerConfig, CrossFittedConfig):
    """The sequence ranker (SASRec), trained by the pipeline on all positions."""

    kind: Literal["sequence"] = "sequence"
    steps: int = Field(default=500, gt=0, description="Training steps.")
    batch_size: int = Field(
        default=64, gt=0, description="Windows of the history per training step."
    )
    learning_rate: float = Field(
        default=2e-3,
        gt=0,
        description="Initial learning rate; it follows a cosine decay to zero.",
    )
    weight_decay: float = Field(
        default=0.01, ge=0, description="Decoupled weight decay."
    )


class ReferenceTeacherConfig(RankerConfig, CrossFittedConfig):
    """The reference ranker, trained by the pipeline."""

    kind: Literal["reference"] = "reference"
    affinities: bool = Field(
        default=True,
        description="Whether the ranker reads the affinities of `[candidate]`. In an "
        "ensemble, a member without them makes different errors.",
    )
    epochs: int = Field(default=4, gt=0, description="Passes over the training lists.")
    batch_size: int = Field(default=256, gt=0, description="Lists per training step.")
    learning_rate: float = Field(
        default=1e-3,
        gt=0,
        description="Initial learning rate; it follows a cosine decay to zero.",
    )
    weight_decay: float = Field(
        default=0.01, ge=0, description="Decoupled weight decay."
    )


class LinearTeacherConfig(LinearItemModelSpec, Section):
    """The linear item model in closed form (EASE with recency)."""

    kind: Literal["linear"] = "linear"


class TransitionTeacherConfig(HistoryWeights, Section):
    """The linear model of transitions to the next item in closed form (SLIT)."""

    kind: Literal["transition"] = "transition"
    l2: float = Field(
        default=3_000.0, gt=0, description="Ridge penalty, in training lists."
    )
    memory_gib: float = Field(
        default=4.0,
        gt=0,
        le=1e6,
        description="Memory in GiB that fitting may use, in addition to the data. If "
        "it is not enough for all items, the model has the most frequent ones; 4 GiB "
        "are enough for some 7,000.",
    )


def _has_no_folds_unless_trained(values: Any) -> Any:
    """Explains where `folds` belongs."""
    if not isinstance(values, Mapping) or "folds" not in values:
        return values
    kind = values.get("kind")
    if kind not in ("reference", "sequence", None):
        where = " and can be set for its members" if kind == "ensemble" else ""
        raise ValueError(
            "`folds` must be left out, because it is a key of the teachers that the "
            f"pipeline trains in steps, `reference` and `sequence`{where}. Received: "
            f"folds={values['folds']!r} for a teacher of kind {kind!r}"
        )
    return values


_Member = (
    ReferenceTeacherConfig
    | SequenceTeacherConfig
    | LinearTeacherConfig
    | TransitionTeacherConfig
    | KerasTeacherConfig
    | SavedModelTeacherConfig
    | TfKerasTeacherConfig
    | LightGBMTeacherConfig
    | CallableTeacherConfig
    | RemoteTeacherConfig
    | ScoresTeacherConfig
)
MemberConfig = Annotated[
    _Member,
    Field(discriminator="kind"),
    BeforeValidator(_has_no_folds_unless_trained),
]


def _checked_duration(text: str) -> str:
    """Checks a duration."""
    parse_duration(text)
    return text


class EnsembleTeacherConfig(Section):
    """Ensemble: the weighted mean of several teachers' scores, on a common scale."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[MemberConfig, ...] = Field(
        min_length=1, description="The teachers, of any kind but `ensemble`."
    )
    weights: tuple[Annotated[float, Field(gt=0)], ...] | Literal["validation"] = Field(
        default="validation",
        description="One weight per member, or `validation`: the step `teacher` "
        "chooses the weights with the best metric on validation, and leaves out "
        "members that do not improve it by more than a standard error.",
    )
    normalize: Literal[
        "scale", "none", "z_score", "min_max", "log", "logit", "rank"
    ] = Field(
        default="scale",
        description="What gives the members' scores a common scale before the mean. "
        "`scale`: division by the mean distance of a list's highest score from its "
        "mean on validation, one number for each member, so that a score does not "
        "depend on the other candidates. The others transform the scores within each "
        "list; see `recdistill.distillation.score_transforms`.",
    )

    @property
    def fixed_weights(self) -> tuple[float, ...]:
        """The configured weights; equal ones before they are chosen."""
        if isinstance(self.weights, tuple):
            return self.weights
        return (1.0,) * len(self.members)

    @model_validator(mode="after")
    def _weights_fit_members(self) -> Self:
        if self.weights == "validation" and len(self.members) > MOST_CHOSEN:
            raise ValueError(
                "`weights` must be given for more than "
                f"{MOST_CHOSEN} members. Received: {len(self.members)} members"
            )
        if isinstance(self.weights, tuple) and len(self.weights) != len(self.members):
            raise ValueError(
                "`weights` must have one entry per member. "
                f"Received: {len(self.weights)} for {len(self.members)} members"
            )
        return self


class AutomaticTeacherConfig(Section):
    """The best ensemble of our own teachers that is found within a time budget."""

    kind: Literal["automatic"] = "automatic"
    budget: Annotated[str, AfterValidator(_checked_duration)] = Field(
        default="5min",
        description="Time for the step `teacher`, in s, min or h. A teacher is not "
        "tried if, by what was measured, it would not be finished within it.",
    )


TeacherConfig = Annotated[
    _Member | EnsembleTeacherConfig | AutomaticTeacherConfig,
    Field(discriminator="kind"),
    BeforeValidator(_has_no_folds_unless_trained),
]


TEACHER: TypeAdapter[Section] = TypeAdapter(TeacherConfig)
"""Reads a `teacher` section."""


def given(config: Section) -> dict[str, Any]:
    """The keys of a teacher whose values are not the default, and its kind."""
    found = config.model_dump(mode="json", exclude_defaults=True)
    return {"kind": getattr(config, "kind", None), **found}


def named(settings: Mapping[str, Any]) -> str:
    """A teacher in a few words, from its kind and its keys.

    Examples:
        >>> named({"kind": "sequence", "steps": 1500, "dim": 128})
        'sequence (steps 1500, dim 128)'
    """
    others = ", ".join(f"{k} {v}" for k, v in settings.items() if k != "kind")
    return f"{settings['kind']} ({others})" if others else str(settings["kind"])


def chosen_teacher(
    members: Sequence[dict[str, Any]], weights: Sequence[float]
) -> dict[str, Any]:
    """The section of the teacher that has these members.

    Args:
        members: The settings of each.
        weights: The weight of each one's scores, without a transform; those with the
            weight 0 are left out.
    """
    kept = [(m, w) for m, w in zip(members, weights, strict=True) if w]
    if len(kept) == 1:
        return kept[0][0]
    settings, shares = zip(*kept, strict=True)
    return {
        "kind": "ensemble",
        "weights": [*shares],
        "normalize": "none",
        "members": [*settings],
    }


def members_of(config: Section) -> tuple[Section, ...]:
    """The members of an ensemble, or the teacher itself."""
    return config.members if isinstance(config, EnsembleTeacherConfig) else (config,)


def same_before(members: Sequence[Section]) -> list[int]:
    """For each member, the number of members before it with the same settings."""
    return [members[:place].count(each) for place, each in enumerate(members)]


def chooses_weights(config: Section) -> TypeGuard[EnsembleTeacherConfig]:
    """Whether the weights of an ensemble's members are chosen on validation."""
    return isinstance(config, EnsembleTeacherConfig) and config.weights == "validation"


def is_trained(
    config: Section,
) -> TypeGuard[ReferenceTeacherConfig | SequenceTeacherConfig]:
    """Whether the pipeline trains the teacher in steps."""
    return isinstance(config, ReferenceTeacherConfig | SequenceTeacherConfig)


def folds_in(config: Section) -> int:
    """Number of folds in which a teacher is cross-fitted; 0 if it is not."""
    return config.folds if isinstance(config, CrossFittedConfig) else 0


def is_linear(
    config: Section,
) -> TypeGuard[LinearTeacherConfig | TransitionTeacherConfig]:
    """Whether the teacher is a linear item model, which reads the history alone."""
    return isinstance(config, LinearTeacherConfig | TransitionTeacherConfig)


def is_own(config: Section) -> bool:
    """Whether the pipeline trains or fits the teacher itself."""
    return (
        is_trained(config)
        or is_linear(config)
        or isinstance(config, AutomaticTeacherConfig)
    )


def needs_raw(config: Section) -> bool:
    """Whether the teacher reads raw features, which the list shards must then keep."""
    return any(isinstance(m, ExternalTeacherConfig) for m in members_of(config))


def has_partial_scores(config: Section) -> bool:
    """Whether the teacher has scores for some candidates only."""
    return any(isinstance(m, ScoresTeacherConfig) for m in members_of(config))


def check_inputs(
    config: Section, query: Mapping[str, str], candidate: Mapping[str, str]
) -> None:
    """Checks that `inputs` of the teacher names existing features.

    Args:
        config: The `teacher` section.
        query: The kind of each query feature by name.
        candidate: The kind of each candidate feature by name.

    Raises:
        ValueError: If `inputs` names an unknown feature, or an affinity, which has no
            raw value.
    """
    lengths = {f"{name}_length" for name, kind in query.items() if kind == "history"}
    for member in members_of(config):
        if not isinstance(member, ExternalTeacherConfig):
            continue
        known = {
            *query,
            *lengths,
            *(k for k, v in candidate.items() if v != "affinity"),
        }
        if isinstance(member, ModelTeacherConfig) and member.layout == "lists":
            known.add("mask")
        for name, feature in (member.inputs or {}).items():
            if feature not in known:
                raise ValueError(
                    f"`teacher.inputs.{name}` must be one of the features: "
                    f"{', '.join(sorted(known))}. Received: {feature!r}."
                    f"{nearest(feature, known)}"
                )
