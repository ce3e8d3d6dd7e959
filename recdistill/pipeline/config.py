"""The pipeline's configuration: one TOML file, typed and validated.

Unknown keys are errors that name the nearest known one, and every value is checked
before any work starts.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, model_validator

from recdistill.errors import ConfigError
from recdistill.evaluation.rows import measure
from recdistill.export.layout import RESERVED
from recdistill.features.specs import (
    CandidateSpec,
    HistorySpec,
    IdSpec,
    QuerySpec,
)
from recdistill.pipeline.teacher_config import (
    LinearTeacherConfig,
    Section,
    TeacherConfig,
    check_inputs,
)


class SyntheticConfig(Section):
    """Size of the synthetic data set, for `reader = "synthetic"`."""

    queries: int = Field(default=2_000, gt=0)
    items: int = Field(default=500, gt=0)
    interactions: int = Field(default=60_000, gt=0)
    seed: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _no_pair_comes_twice(self) -> Self:
        most = self.queries * self.items // 2
        if self.interactions > most:
            raise ValueError(
                f"`interactions` must be at most queries * items / 2 = {most}. "
                f"Received: interactions={self.interactions}"
            )
        return self


ColumnRole = Literal["query", "item", "time", "relevance", "weight", "list", "score"]


class DatasetConfig(Section):
    """Where the interactions come from.

    Attributes:
        reader: The layout of the data.
        path: Folder with the data, relative to the current directory.
        fetch: Instead of `path`: a MovieLens release to download once.
        columns: For `reader = "tables"` and "listwise": names of the columns for the
            roles query, item, time, relevance and weight; for "listwise" also for list
            and score.
        synthetic: For `reader = "synthetic"`: how much to generate.
    """

    reader: Literal["tables", "listwise", "movielens", "recbole", "synthetic"]
    path: Path | None = None
    fetch: str | None = None
    columns: dict[ColumnRole, str] = Field(default_factory=dict)
    synthetic: SyntheticConfig = SyntheticConfig()

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        given = [k for k in ("path", "fetch") if getattr(self, k) is not None]
        if self.reader == "synthetic" and given:
            raise ValueError(f"`{given[0]}` does not go with reader 'synthetic'")
        if self.reader != "synthetic" and len(given) != 1:
            raise ValueError(
                "exactly one of `path` and `fetch` must be given. "
                f"Received: {given or 'neither'}"
            )
        lists = sorted({"list", "score"} & set(self.columns))
        if lists and self.reader != "listwise":
            raise ValueError(
                f"`columns.{lists[0]}` must go with reader 'listwise'. "
                f"Received: reader={self.reader!r}"
            )
        return self


class SplitConfig(Section):
    """How interactions become training, validation and test lists.

    Attributes:
        by: "query_time": the last share of each query's own interactions; or
            "global_time": everything after one moment.
        valid: Share of the interactions for validation, just before the test part.
        test: Share of the interactions for the test.
    """

    by: Literal["query_time", "global_time"] = "query_time"
    valid: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(
                "`valid` and `test` must leave a training part, a sum below 1. "
                f"Received: valid={self.valid}, test={self.test}"
            )
        return self


class ListsConfig(Section):
    """What a training list holds.

    Attributes:
        size: "catalogue": every list is the whole catalogue, without the items that
            the query has seen; or "sampled".
        teacher_top: For sampled lists with teacher scores: its best, in order.
        tail: For sampled lists: uniformly drawn candidates.
        contexts: How many training lists the teacher scores for the student.
        per_query: At most this many training lists a query, the newest; all if unset.
        scores_dtype: How teacher scores are stored. "float16" takes half the space; it
            holds three digits, up to 65,504.
    """

    size: Literal["catalogue", "sampled"] = "catalogue"
    teacher_top: int = Field(default=200, gt=0)
    tail: int = Field(default=300, gt=0)
    contexts: int = Field(default=100_000, gt=0)
    per_query: int | None = Field(default=None, gt=0)
    scores_dtype: Literal["float16", "float32"] = "float16"


class StudentConfig(Section):
    """The two-tower student, and the training that the baseline shares with it.

    Attributes:
        dim: Width of the two embeddings.
        embedding_dim: Width of each feature's embedding.
        hidden: Hidden layers of the query tower.
        decays: One pool of the history for each: its weights start at decay ** age.
        dropout: Share of the query tower's inputs dropped in training.
        popularity_bias: Whether a candidate has a bias.
        l2: Penalty on the embeddings' mean square.
        steps: Training steps; the checkpoint that is best on validation is kept.
        batch_size: Lists in a step.
        learning_rates: Tried one by one, for the student and for the baseline, each on
        its
            own; the best on validation is kept.
    """

    dim: int = Field(default=32, gt=1)
    embedding_dim: int = Field(default=32, gt=0)
    hidden: tuple[Annotated[int, Field(gt=0)], ...] = (128,)
    decays: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.7, 0.97)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    popularity_bias: bool = True
    l2: float = Field(default=0.0, ge=0)
    steps: int = Field(default=5_000, gt=0)
    batch_size: int = Field(default=256, gt=0)
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.001, 0.003), min_length=1
    )


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
    "PairwiseMarginMSE",
    "PairwiseRankNet",
    "PointwiseMSE",
    "PointwiseBinaryCrossEntropy",
]
"""Classes of `recdistill.losses` that learn from teacher scores."""


class LossTerm(Section):
    """One of several distillation losses.

    Attributes:
        name: The class.
        weight: Its share, beside the other ones.
        options: Its own arguments, such as `k`.
    """

    name: DistillationLoss
    weight: float = Field(default=1.0, gt=0)
    options: dict[str, Any] = Field(default_factory=dict)


class DistillConfig(Section):
    """How the student learns from the teacher.

    Attributes:
        loss: The distillation loss, a class of `recdistill.losses`, or several with
            shares and arguments: `[{ name = …, weight = …, options = { k = 50 } }]`.
        temperature: Softens both sides of the loss. "auto": the teacher's scores are
            divided by what the score doctor proposes, and both sides are at 1. A loss
            of scores as amounts or log-odds wants scores = "none", temperature = 1.
        weight: Share of the distillation loss; the hard labels have the rest.
        scores: Transform of the teacher's scores within a list, before the loss
            (`recdistill.distillation.score_transforms`). "auto": the one that the
            score doctor proposes.
        gate: "stop": a teacher that is not sound, or does not beat popularity and the
            baseline on validation, stops the run; "warn": it is only said.
    """

    loss: DistillationLoss | Annotated[tuple[LossTerm, ...], Field(min_length=1)] = (
        "ListwiseKLDivergence"
    )
    temperature: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    weight: float = Field(default=0.8, gt=0, le=1)
    scores: Literal["none", "z_score", "min_max", "log", "logit", "rank", "auto"] = (
        "auto"
    )
    gate: Literal["stop", "warn"] = "stop"


class EvaluateConfig(Section):
    """How models are compared.

    Attributes:
        metrics: Names such as "ndcg@10"; the first one chooses checkpoints.
        valid_lists: Validation lists that choose checkpoints and learning rates.
        bootstrap: Resamples of the queries for the intervals.
        latency_candidates: List sizes at which latency is measured.
    """

    metrics: tuple[str, ...] = Field(
        default=("ndcg@10", "recall@10", "hit@10", "mrr", "map@10"), min_length=1
    )
    valid_lists: int = Field(default=4_000, gt=0)
    bootstrap: int = Field(default=1_000, gt=0)
    latency_candidates: tuple[Annotated[int, Field(gt=0)], ...] = (100, 1_000)

    @model_validator(mode="after")
    def _knows_the_metrics(self) -> Self:
        # Found out now, not after the teacher's training.
        measure([[0.0]], [[1.0]], [[True]], self.metrics)
        return self


class ExportConfig(Section):
    """The SavedModel.

    Attributes:
        path: Folder of all exports, relative to the current directory.
        top_k: How many items the plain call returns.
        parity_rows: Real queries on which the export must equal the live student; an
            IVF index chooses its number of probes on half of them.
        index: "exact", which serves what was evaluated; "ivf", which finds nearly all
            of it sooner; or "auto", IVF for large catalogues where it pays.
        storage: How item embeddings are kept; scores are float32 either way.
        target_recall: Share of the true top `top_k` that IVF must find.
        warm_up_batches: Batch sizes of the warm-up requests, six requests each; a
            server that batches must allow the largest.
        on_device: Whether the query tower is exported for LiteRT as well.
    """

    path: Path = Path("export")
    top_k: int = Field(default=100, gt=0)
    parity_rows: int = Field(default=256, gt=0)
    index: Literal["exact", "ivf", "auto"] = "exact"
    storage: Literal["float32", "bfloat16"] = "float32"
    target_recall: float = Field(default=0.98, gt=0, le=1)
    warm_up_batches: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(1, 8), min_length=1, max_length=166
    )
    on_device: bool = False


class Config(Section):
    """One pipeline.

    Attributes:
        name: Names the run's folder and the exported model.
        seed: Seeds everything that is random.
        workdir: Folder of all runs' artefacts, relative to the current directory.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")
    seed: int = Field(default=1, ge=0)
    workdir: Path = Path("runs")
    dataset: DatasetConfig
    query: dict[str, QuerySpec] = Field(min_length=1)
    candidate: dict[str, CandidateSpec] = Field(min_length=1)
    split: SplitConfig = SplitConfig()
    lists: ListsConfig = ListsConfig()
    teacher: TeacherConfig
    student: StudentConfig = StudentConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()

    @model_validator(mode="after")
    def _features_fit_together(self) -> Self:
        histories = [k for k, s in self.query.items() if isinstance(s, HistorySpec)]
        if len(histories) > 1:
            raise ValueError(f"`query` can have one history. Received: {histories}")
        taken = {*RESERVED, *(f"{h}_length" for h in histories)}
        clash = taken & {*self.query, *self.candidate}
        if clash:
            raise ValueError(
                "a feature must not have the name of another input of the exported "
                f"model. Received: {sorted(clash)}"
            )
        shared = set(self.query) & set(self.candidate)
        if shared:
            raise ValueError(
                "a feature name must be used once, in `query` or in `candidate`. "
                f"Received in both: {sorted(shared)}"
            )
        if not any(isinstance(s, IdSpec) for s in self.candidate.values()):
            raise ValueError(
                "`candidate` must have the item id as a feature of kind 'id'. "
                f"Received: {sorted(self.candidate)}"
            )
        needs_history = isinstance(self.teacher, LinearTeacherConfig) or any(
            spec.kind == "affinity" for spec in self.candidate.values()
        )
        if needs_history and not histories:
            raise ValueError(
                "`query` must have a feature of kind 'history' for a linear teacher or "
                "an affinity. Received: none"
            )
        check_inputs(
            self.teacher,
            {name: spec.kind for name, spec in self.query.items()},
            {name: spec.kind for name, spec in self.candidate.items()},
        )
        return self


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Reads and validates a pipeline file.

    Args:
        path: The TOML file.
        overrides: `a.b=c` each; `c` is a TOML value, or else taken as a string.

    Raises:
        ConfigError: If the file cannot be read, is no TOML, has an unknown key or a
            value that is not allowed.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Cannot read the configuration {path}: {error.strerror}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}.") from error
    for override in overrides:
        _override(document, override)
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error


def _override(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(
            f"`--set` must look like section.key=value. Received: {override!r}"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.strip().split(".")
    for section in sections:
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            raise ConfigError(
                f"`--set` must name a key of a section; {section!r} is a value. "
                f"Received: {override!r}"
            )
    document[last] = value


def _explain(error: ValidationError) -> str:
    """All problems in one paragraph, each with its key."""
    problems = error.errors(include_url=False)
    places = [_locate(problem["loc"])[0] for problem in problems]
    sentences = []
    for place, problem in zip(places, problems, strict=True):
        if problem["type"] == "too_short" and any(
            other.startswith(f"{place}[") for other in places
        ):
            continue  # its entries are there, and what is wrong with them is said
        sentences.append(_explain_one(place, problem))
    return "; ".join(sentences) + "."


def _explain_one(place: str, problem: Any) -> str:
    kind, received = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        section = _locate(problem["loc"][:-1])[1]
        known = list(getattr(section, "model_fields", {}))
        hint = _nearest(problem["loc"][-1], known) or f"known: {', '.join(known)}"
        return f"`{place}` is not a known key ({hint})"
    if kind == "missing":
        return f"`{place}` is missing"
    if kind == "union_tag_not_found":
        return f"`{place}.kind` is missing"
    if kind == "union_tag_invalid":
        expected, tag = problem["ctx"]["expected_tags"], problem["ctx"]["tag"]
        hint = _nearest(tag, [each.strip("' ") for each in expected.split(",")])
        hint = f" ({hint})" if hint else ""
        return f"`{place}.kind` must be one of {expected}. Received: {tag!r}{hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if "Received" not in message and not isinstance(received, dict):
        message += f". Received: {received!r}"
    return f"`{place}`: {message}" if place else message


def _nearest(name: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else ""


def _locate(location: Iterable[Any]) -> tuple[str, Any]:
    """The key as the file has it, such as `teacher.members[0].dim`, and its type."""
    keys = ""
    section: Any = Config
    for step in location:
        if get_origin(section) is Annotated:
            section = get_args(section)[0]
        inside = get_args(section)
        if get_origin(section) in (Union, UnionType):
            # The tag of a union stands in the location; it is no key of the file.
            section = next((each for each in inside if _kind(each) == step), None)
            continue
        if isinstance(step, int):
            keys += f"[{step}]"
        elif step != "[key]":
            keys += f".{step}" if keys else str(step)
        fields = getattr(section, "model_fields", {})
        if step in fields:
            section = fields[step].annotation
        elif get_origin(section) in (dict, tuple):
            section = inside[1] if get_origin(section) is dict else inside[0]
        else:
            section = None
    return keys, section


def _kind(section: Any) -> str | None:
    """The tag of a section that is one of several kinds."""
    field = getattr(section, "model_fields", {}).get("kind")
    return None if field is None else field.default


def canonical(config: BaseModel | Mapping[str, Any]) -> str:
    """The JSON text of a section, the same for the same settings."""
    data = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    return json.dumps(data, sort_keys=True, default=str)
