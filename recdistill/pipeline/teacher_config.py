"""The `teacher` section of a pipeline's configuration, one class for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recdistill.data.dataset import nearest


class Section(BaseModel):
    """A part of the configuration: frozen, and no key in it that is not known."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


class ReferenceTeacherConfig(Section):
    """The reference ranker (`recdistill.models.RankingTeacher`) and its training.

    Attributes:
        dim: Width of all vectors.
        heads: Attention heads; `dim` must be a multiple of it.
        blocks: Self-attention blocks.
        attention_length: Number of most recent history items in the attention.
        decays: Pools of the history: their weights start at decay ** age.
        affinities: Whether the ranker reads the pair features. In an ensemble, a member
            without them makes different mistakes from a member with them.
        dropout: Share of entries dropped in training.
        epochs: Passes over the lists that the student trains on.
        batch_size: Lists in a training step.
        learning_rate: Initial learning rate; it decays along a cosine to zero.
        weight_decay: Decoupled weight decay.
    """

    kind: Literal["reference"] = "reference"
    dim: int = Field(default=48, gt=0)
    heads: int = Field(default=2, gt=0)
    blocks: int = Field(default=1, ge=0)
    attention_length: int = Field(default=50, gt=0)
    decays: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.5, 0.8, 0.97)
    affinities: bool = True
    dropout: float = Field(default=0.2, ge=0, lt=1)
    epochs: int = Field(default=4, gt=0)
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
    """The linear item model in closed form (`recdistill.models.linear`)."""

    kind: Literal["linear"] = "linear"
    l2: float = Field(default=300.0, gt=0)
    decay: float = Field(default=0.9, gt=0, le=1)
    floor: float = Field(default=0.05, ge=0, le=1)
    max_items: int = Field(default=20_000, gt=0)


class ExternalTeacherConfig(Section):
    """What the kinds share that get raw features from us; see `docs/teachers.md`.

    Attributes:
        inputs: The teacher's name of an input to our feature. Left out where the names
            are the same: a teacher that tells its inputs then gets those, another one
            all features. A history has its length besides, as `<name>_length`, and in
            layout "lists" there is the `mask`.
        batch_size: Most candidates scored at once.
        trained_on: A table of what the teacher was trained on, which the gate compares
            with the held-out lists: a column `list_id` (rows of the interactions, from
            0) or `query_id` and `item_id`.
    """

    inputs: dict[str, str] | None = None
    batch_size: int = Field(default=4096, gt=0)
    trained_on: Path | None = None


class ModelTeacherConfig(ExternalTeacherConfig):
    """What the kinds share that take tensors.

    Attributes:
        layout: "pairs": a row is one query with one candidate, `(rows, …)` to `(rows,)`
            or `(rows, 1)`; "lists": queries `(batch, …)` and candidates `(batch,
            list_size, …)` to `(batch, list_size)`.
    """

    layout: Literal["pairs", "lists"] = "pairs"


class KerasTeacherConfig(ModelTeacherConfig):
    """A Keras 3 model in a `.keras` file, loaded in safe mode.

    Attributes:
        path: The file, relative to the current directory.
        output: The scores among several outputs; left out where there is one.
    """

    kind: Literal["keras"] = "keras"
    path: Path
    output: str | None = None


class SavedModelTeacherConfig(ModelTeacherConfig):
    """A SavedModel, of whatever made it.

    Attributes:
        path: The folder, relative to the current directory.
        signature: Name of the signature.
        output: The scores among several outputs; left out where there is one.
    """

    kind: Literal["saved_model"] = "saved_model"
    path: Path
    signature: str = "serving_default"
    output: str | None = None


IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


class TfKerasTeacherConfig(ModelTeacherConfig):
    """A Keras 2 or TFRS model, in a process of its own.

    Attributes:
        path: A SavedModel folder, a `.keras` or an `.h5` file, relative to the current
            directory; or what `factory` is to be called with.
        factory: A function that returns the model, "package.module:function".
        signature: Of a SavedModel folder.
        output: The scores among several outputs; left out where there is one.
    """

    kind: Literal["tf_keras"] = "tf_keras"
    path: Path | None = None
    factory: str | None = Field(default=None, pattern=IMPORT_PATH)
    signature: str = "serving_default"
    output: str | None = None

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.path is None and self.factory is None:
            raise ValueError("`path` or `factory` must be given. Received: neither")
        return self


class LightGBMTeacherConfig(ExternalTeacherConfig):
    """A LightGBM booster, from the text file that `Booster.save_model` writes.

    Attributes:
        path: The file, relative to the current directory.
        categorical: Its features that were pandas categories in training.
    """

    kind: Literal["lightgbm"] = "lightgbm"
    path: Path
    categorical: tuple[str, ...] = ()


class CallableTeacherConfig(ModelTeacherConfig):
    """A Python function from a dict of arrays to an array of scores.

    Attributes:
        function: Its import path, "package.module:function".
    """

    kind: Literal["callable"] = "callable"
    function: str = Field(pattern=IMPORT_PATH)


class RemoteTeacherConfig(ModelTeacherConfig):
    """A model behind a TensorFlow Serving endpoint.

    Attributes:
        address: "http://host:8501" (REST, also https) or "grpc://host:8500".
        model: The name that the server knows it by.
        version: Its version; the newest if left out. Give it: what the server answers
            is not hashed, so a new version would go unnoticed.
        signature: Name of the signature.
        output: The scores among several outputs; left out where there is one.
        deadline_s: Seconds that a request may take, its retries included.
        retries: How often a request is sent again to a server that is unavailable.
    """

    kind: Literal["remote"] = "remote"
    address: str = Field(pattern=r"^(https?|grpc)://\S+$")
    model: str = Field(min_length=1)
    version: int | None = Field(default=None, ge=0)
    signature: str = "serving_default"
    output: str | None = None
    deadline_s: float = Field(default=30.0, gt=0)
    retries: int = Field(default=5, ge=0)


class ScoresTeacherConfig(Section):
    """Scores that are there already, for some candidates of some lists.

    Attributes:
        path: A Parquet or CSV table, or a folder of such, relative to the current
            directory, with one row a (query, item). Left out where the data set is a
            listwise table with scores of its own.
        columns: Names of its columns for the roles query, item and score; "user_id",
            "item_id" and "score" if left out.
        trained_on: As for other teachers from outside.
    """

    kind: Literal["scores"] = "scores"
    path: Path | None = None
    trained_on: Path | None = None
    columns: dict[Literal["query", "item", "score"], str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _columns_belong_to_a_table(self) -> Self:
        if self.columns and self.path is None:
            raise ValueError(
                "`columns` must go with `path`; the columns of the data set are in "
                f"`dataset.columns`. Received: columns={self.columns}, no path"
            )
        return self


MemberConfig = Annotated[
    ReferenceTeacherConfig
    | LinearTeacherConfig
    | KerasTeacherConfig
    | SavedModelTeacherConfig
    | TfKerasTeacherConfig
    | LightGBMTeacherConfig
    | CallableTeacherConfig
    | RemoteTeacherConfig
    | ScoresTeacherConfig,
    Field(discriminator="kind"),
]


class EnsembleTeacherConfig(Section):
    """Several teachers: their scores are added within each list, with weights.

    Attributes:
        members: The teachers; none of them an ensemble.
        weights: One for each; equal if left out.
        normalize: What becomes of a member's scores in a list before they are added, a
            transform of `recdistill.distillation.score_transforms`.
    """

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[MemberConfig, ...] = Field(min_length=1)
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    normalize: Literal["none", "z_score", "min_max", "log", "logit", "rank"] = "z_score"

    @model_validator(mode="after")
    def _one_weight_a_member(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(
                "`weights` must have one entry a member. "
                f"Received: {len(self.weights)} for {len(self.members)} members"
            )
        return self


TeacherConfig = Annotated[
    ReferenceTeacherConfig
    | LinearTeacherConfig
    | KerasTeacherConfig
    | SavedModelTeacherConfig
    | TfKerasTeacherConfig
    | LightGBMTeacherConfig
    | CallableTeacherConfig
    | RemoteTeacherConfig
    | ScoresTeacherConfig
    | EnsembleTeacherConfig,
    Field(discriminator="kind"),
]


def members_of(config: Section) -> tuple[Section, ...]:
    """The members of an ensemble, or the teacher itself."""
    return config.members if isinstance(config, EnsembleTeacherConfig) else (config,)


def needs_raw(config: Section) -> bool:
    """Whether a teacher reads raw features, which lists then have to keep."""
    return any(isinstance(m, ExternalTeacherConfig) for m in members_of(config))


def has_partial_scores(config: Section) -> bool:
    """Whether a teacher can score the candidates of its own lists alone."""
    return any(isinstance(m, ScoresTeacherConfig) for m in members_of(config))


def check_inputs(
    config: Section, query: Mapping[str, str], candidate: Mapping[str, str]
) -> None:
    """Checks that the teacher is promised only what there is.

    Args:
        config: The teacher.
        query: The kinds of the query features by name.
        candidate: The same for candidates.

    Raises:
        ValueError: If `inputs` names a feature that there is not, or an affinity, which
            has no raw value.
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
