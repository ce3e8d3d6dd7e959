"""The `teacher` section of a pipeline's configuration, one class for each kind."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A part of the configuration: frozen, and no key in it that is not known."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


class ReferenceTeacherConfig(Section):
    """The reference ranker (`recdistill.ranker.RankingTeacher`) and its training.

    Attributes:
        dim: Width of all vectors.
        heads: Attention heads.
        blocks: Self-attention blocks.
        attention_length: Most recent history items that attention sees.
        decays: Pools of the history: their weights start at decay ** age.
        cross_layers: Feature crosses in a row.
        hidden: Hidden layers of the MLP.
        dropout: Share of entries dropped in training.
        plain_epochs: Passes over the training lists for the plain terms alone, with the
            lists that the student trains on.
        epochs: Passes after that for the MLP, the plain terms frozen; or for all of it
            where `plain_epochs` is 0.
        negatives: Uniformly drawn candidates beside the positive, in those passes.
        batch_size: Lists in a step.
        learning_rate: At the start; it falls along a cosine to zero.
        weight_decay: Decoupled weight decay.
    """

    kind: Literal["reference"] = "reference"
    dim: int = Field(default=48, gt=0)
    heads: int = Field(default=2, gt=0)
    blocks: int = Field(default=1, ge=0)
    attention_length: int = Field(default=50, gt=0)
    decays: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.5, 0.8, 0.97)
    cross_layers: int = Field(default=1, ge=0)
    hidden: tuple[Annotated[int, Field(gt=0)], ...] = (64, 32)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    plain_epochs: int = Field(default=4, ge=0)
    negatives: int = Field(default=128, gt=0)
    epochs: int = Field(default=2, gt=0)
    batch_size: int = Field(default=256, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(
                "`dim` must be a multiple of `heads`. "
                f"Received: dim={self.dim}, heads={self.heads}"
            )
        return self


class LinearTeacherConfig(Section):
    """The linear item model (`recdistill.linear`), closed form, nothing to train."""

    kind: Literal["linear"] = "linear"
    l2: float = Field(default=300.0, gt=0)
    decay: float = Field(default=0.9, gt=0, le=1)
    floor: float = Field(default=0.05, ge=0, le=1)
    max_items: int = Field(default=20_000, gt=0)


MemberConfig = Annotated[
    ReferenceTeacherConfig | LinearTeacherConfig, Field(discriminator="kind")
]


class EnsembleTeacherConfig(Section):
    """Several teachers: their z-scores within each list are added, with weights."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[MemberConfig, ...] = Field(min_length=1)
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None

    @model_validator(mode="after")
    def _one_weight_a_member(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(
                "`weights` must have one entry a member. "
                f"Received: {len(self.weights)} for {len(self.members)} members"
            )
        return self


TeacherConfig = Annotated[
    ReferenceTeacherConfig | LinearTeacherConfig | EnsembleTeacherConfig,
    Field(discriminator="kind"),
]
