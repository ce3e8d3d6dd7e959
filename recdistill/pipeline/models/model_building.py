"""Builds the models of a pipeline from its configuration and loads their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from recdistill.data.collation import Collator
from recdistill.data.sequences import next_items
from recdistill.data.shard_reading import in_order
from recdistill.errors import ConfigError, TeacherError
from recdistill.models.cross_fitting import CrossFittedTeacher, folds_of
from recdistill.models.ensemble import EnsembleTeacher
from recdistill.models.linear import Affinity, HistoryScores, LinearTeacher
from recdistill.models.linear_fitting import LinearForm, choose_form
from recdistill.models.ranker import RankingTeacher
from recdistill.models.sequence_ranker import SequenceRanker
from recdistill.models.transitions import (
    FOLDS,
    PAIR_BYTES,
    Examples,
    Transitions,
)
from recdistill.models.two_tower import TwoTowers, TwoTowerStudent
from recdistill.pipeline.config import Config, StudentConfig, TwoTowerConfig
from recdistill.pipeline.config.external_teacher_section import (
    ExternalTeacherConfig,
    ScoresTeacherConfig,
)
from recdistill.pipeline.config.teacher_section import (
    EnsembleTeacherConfig,
    LinearTeacherConfig,
    RankerConfig,
    ReferenceTeacherConfig,
    SequenceRankerConfig,
    SequenceTeacherConfig,
    TransitionTeacherConfig,
    folds_in,
    is_linear,
    same_before,
)
from recdistill.pipeline.config.teacher_section import members_of as configured_members
from recdistill.pipeline.memory import (
    require_for_attention,
    require_for_linear_model,
    require_for_student,
    require_for_transitions,
)
from recdistill.pipeline.models.teacher_opening import ExternalTeachers
from recdistill.pipeline.models.weights_file import load_weights, read_member_weights
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.seeding import begin_like_a_new_process
from recdistill.teachers import ExternalTeacher, ScoreTable
from recdistill.teachers.model_files import imported

FULL_SOFTMAX = 20_000
"""Largest number of items over all of which a sequence ranker computes the softmax."""

NEGATIVES = 4_096
"""Number of items from which it estimates the softmax over more items."""

TRANSITION_LISTS = 1_000_000
"""Largest number of training lists that a transition model is fitted on."""

Teacher: TypeAlias = keras.Model | ExternalTeacher | ScoreTable
"""A teacher: a Keras model with weights in the workspace, or an external one."""


def build_student(config: StudentConfig, prepared: Prepared) -> keras.Model:
    """A student with initial weights, of the built-in towers or of a factory's.

    Raises:
        ConfigError: If the factory cannot be imported, or does not return two towers
            that fit the features; or if the machine has too little memory.
    """
    if config.factory is None:
        require_for_student(config, prepared.schema)
        student: keras.Model = TwoTowerStudent(
            prepared.schema, prepared.catalogue, **config.part(TwoTowerConfig)
        )
        _build_weights(student, prepared)
        return student
    try:
        factory = imported(config.factory)
        towers = factory(prepared.schema.for_student(), prepared.catalogue)
        query_tower, candidate_tower = towers
        student = TwoTowers(
            prepared.schema,
            prepared.catalogue,
            query_tower,
            candidate_tower,
            l2=config.l2,
            id_dropout=config.id_dropout,
        )
        _build_weights(student, prepared)
    except (TeacherError, TypeError, ValueError) as error:
        raise ConfigError(
            "`student.factory` must return a query tower and a candidate tower for the "
            f"features. Received: {config.factory!r}, which fails: "
            f"{' '.join(str(error).split())}"
        ) from error
    return student


def load_student(
    config: StudentConfig, prepared: Prepared, folder: Path
) -> keras.Model:
    """The student whose weights a step saved in the folder."""
    student = build_student(config, prepared)
    load_weights(student, folder)
    return student


class TeacherBuilder:
    """Builds the teacher of a configuration, member by member.

    The matrix of a linear item model is fitted once and shared by all members with the
    same settings.

    Args:
        config: The pipeline's configuration.
        prepared: The prepared data.
        external: Opens external teachers.
        fit: Whether to fit linear models; otherwise the caller loads their weights.
        member_weights: The factors of an ensemble's members that were found on
            validation, 0 for members that are left out; None for the weights of the
            configuration.
    """

    def __init__(
        self,
        config: Config,
        prepared: Prepared,
        external: ExternalTeachers,
        *,
        fit: bool,
        member_weights: Sequence[float] | None = None,
    ) -> None:
        self._config, self._prepared, self._fit = config, prepared, fit
        self._member_weights = member_weights
        self._external = external
        self._fitted: dict[tuple[float, int, LinearForm], list[np.ndarray]] = {}

    def build(self) -> Teacher:
        """The teacher with all its weights; a ranker has its initial ones."""
        numbers, configured = self._kept(), configured_members(self._config.teacher)
        same = same_before(configured)
        return self.joined([self.member(configured[k], same[k]) for k in numbers])

    def member(self, config: Any, same: int = 0) -> Teacher:
        """A member with all its weights; a ranker has its initial ones.

        Its initial weights and the names of its layers do not depend on what was built
        before.

        Args:
            config: The member's settings.
            same: Number of members before it that have the same settings.
        """
        if self._fit:
            begin_like_a_new_process(self._config.seed + same)
        member = self._build(config)
        if isinstance(member, keras.Model):
            _build_weights(member, self._prepared)
        return member

    def joined(self, members: Sequence[Teacher]) -> Teacher:
        """The teacher that has these members.

        Args:
            members: The members of an ensemble that are not left out, or the teacher.
        """
        config = self._config.teacher
        if not isinstance(config, EnsembleTeacherConfig):
            return members[0]
        weights = self._member_weights or config.fixed_weights
        kept = [weights[k] for k in self._kept()]
        how = "none" if config.normalize == "scale" else config.normalize
        ensemble = EnsembleTeacher(list(members), kept, how)
        ensemble.built = True  # It has only the weights of its members.
        return ensemble

    def cross_fitted(self, teacher: Teacher, folder: Path) -> Teacher:
        """The teacher of the training lists: trained members are those of the folds.

        Args:
            teacher: The teacher that was trained on all training lists.
            folder: Folder of the step `teacher`.
        """
        configured = configured_members(self._config.teacher)
        members = []
        for number, member in zip(self._kept(), members_of(teacher), strict=True):
            settings = configured[number]
            models: list[keras.Model] = []
            for fold in range(folds_in(settings)):
                model: Any = self.member(settings)
                load_weights(model, fold_folder(folder, number, fold))
                models.append(model)
            members.append(CrossFittedTeacher(models) if models else member)
        return self.joined(members)

    def _kept(self) -> list[int]:
        """Numbers of the members that are not left out."""
        weights = self._member_weights
        if weights is None:
            return list(range(len(configured_members(self._config.teacher))))
        return [number for number, weight in enumerate(weights) if weight]

    def _build(self, config: Any) -> Teacher:
        if isinstance(config, ExternalTeacherConfig | ScoresTeacherConfig):
            return self._external.open(config)
        if isinstance(config, LinearTeacherConfig):
            return self._linear(self._affinity(config), "linear_teacher")
        if isinstance(config, TransitionTeacherConfig):
            return self._linear(self._transitions(config), "transition_teacher")
        if isinstance(config, ReferenceTeacherConfig):
            return self._ranker(config)
        if isinstance(config, SequenceTeacherConfig):
            return self._sequence_ranker(config)
        raise ValueError(f"`teacher` has an unknown kind. Received: {config!r}")

    def _ranker(self, config: ReferenceTeacherConfig) -> RankingTeacher:
        schema = self._prepared.schema
        require_for_attention(config, schema)
        read = schema.affinity if config.affinities else {}
        affinities = {k: self._affinity(spec) for k, spec in read.items()}
        return RankingTeacher(
            schema,
            self._prepared.catalogue,
            affinities,
            **config.part(RankerConfig),
        )

    def _sequence_ranker(self, config: SequenceTeacherConfig) -> SequenceRanker:
        schema = self._prepared.schema
        if schema.history is None:
            raise ConfigError(
                "A teacher of kind `sequence` needs a history in `[query]`, such as "
                'history = { kind = "history" }. Received: none'
            )
        require_for_attention(config, schema)
        items = schema.history.size
        return SequenceRanker(
            schema,
            self._prepared.catalogue,
            negatives=None if items <= FULL_SOFTMAX else NEGATIVES,
            **config.part(SequenceRankerConfig),
        )

    def _linear(self, scores: HistoryScores, name: str) -> LinearTeacher:
        history = self._prepared.schema.history
        return LinearTeacher(
            scores,
            self._prepared.item_index,
            history=history.feature if history else "history",
            name=name,
        )

    def _transitions(self, spec: TransitionTeacherConfig) -> Transitions:
        prepared, history = self._prepared, self._prepared.schema.history
        layer = Transitions(transition_items(spec, prepared), spec.decay, spec.floor)
        layer.build()
        if self._fit and history is not None:
            require_for_transitions(layer.size, PAIR_BYTES)
            folds = folds_of(prepared.training_rows, FOLDS)
            pieces = next_items(
                prepared.shards("train"),
                history.feature,
                prepared.item_index,
                TRANSITION_LISTS,
            )
            examples = (Examples(past, new, folds[row]) for past, new, row in pieces)
            layer.set_weights([layer.fitted(examples, spec.l2)])
        return layer

    def _affinity(self, spec: Any) -> Affinity:
        size, form = linear_form(spec, self._prepared)
        layer = Affinity(size, spec.decay, spec.floor, form.form, form.rank)
        weights = None
        if self._fit:
            key = (spec.l2, size, form)
            if key not in self._fitted:
                require_for_linear_model(form, size)
                matrix = self._prepared.training_matrix(size)
                self._fitted[key] = layer.fitted(matrix, spec.l2)
            weights = self._fitted[key]
        # Not before the fit, which needs most of the memory.
        layer.build()
        if weights is not None:
            layer.set_weights(weights)
        return layer


def transition_items(spec: TransitionTeacherConfig, prepared: Prepared) -> int:
    """Number of items in a transition model: those that fit into its memory."""
    largest = int((spec.memory_gib * 2**30 / PAIR_BYTES) ** 0.5)
    return max(1, min(largest, len(prepared.schema.items.vocabulary)))


def linear_form(spec: Any, prepared: Prepared) -> tuple[int, LinearForm]:
    """Number of items and form of a linear item model or of an affinity.

    Args:
        spec: Its settings.
        prepared: The prepared data.

    Raises:
        ConfigError: If no form fits into the configured memory.
    """
    known = len(prepared.schema.items.values)
    size = min(spec.max_items or known, known)
    queries = len(prepared.training_rows)
    try:
        form = choose_form(queries, size, int(spec.memory_gib * 2**30), spec.form)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return size, form


def linear_forms(config: Config, prepared: Prepared) -> dict[str, dict[str, Any]]:
    """Each linear item model of the teacher, for the record of the step.

    Args:
        config: The pipeline's configuration.
        prepared: The prepared data.

    Returns:
        `items`, `form`, `rank` and `exact` by name: "linear" and, with a number,
        further teachers of this kind, and the names of the affinities.
    """
    specs: dict[str, Any] = {}
    for member in configured_members(config.teacher):
        if is_linear(member):
            same = sum(name.startswith(member.kind) for name in specs)
            specs[f"{member.kind}_{same}" if same else member.kind] = member
        elif reads_affinities(member, prepared):
            specs |= prepared.schema.affinity
    return {name: _described(spec, prepared) for name, spec in specs.items()}


def _described(spec: Any, prepared: Prepared) -> dict[str, Any]:
    """A linear item model for the record; see `linear_forms`."""
    if isinstance(spec, TransitionTeacherConfig):
        items = transition_items(spec, prepared)
        return {"items": items, "form": "transitions", "rank": 0, "exact": True}
    items, form = linear_form(spec, prepared)
    exact = form.form != "low_rank"
    return {"items": items, "form": form.form, "rank": form.rank, "exact": exact}


def fold_folder(folder: Path, number: int, fold: int) -> Path:
    """Folder with the weights of a member that was trained without a fold.

    Args:
        folder: Folder of the step `teacher`.
        number: Number of the member in the configuration.
        fold: Number of the fold.
    """
    return folder / "folds" / f"member-{number}-without-{fold}"


def load_teacher(
    config: Config, prepared: Prepared, external: ExternalTeachers, folder: Path
) -> Teacher:
    """The teacher that the step `teacher` saved; an external one is opened."""
    weights = read_member_weights(folder)
    builder = TeacherBuilder(
        config, prepared, external, fit=False, member_weights=weights
    )
    teacher = builder.build()
    if isinstance(teacher, keras.Model):
        load_weights(teacher, folder)
    return teacher


def cross_fitted(
    teacher: Teacher,
    config: Config,
    prepared: Prepared,
    external: ExternalTeachers,
    folder: Path,
) -> Teacher:
    """The teacher of the training lists; see `recdistill.models.cross_fitting`.

    Args:
        teacher: The teacher from `load_teacher`, which is returned if it has no folds.
        config: The pipeline's configuration.
        prepared: The prepared data.
        external: Opens external teachers.
        folder: Folder of the step `teacher`.
    """
    if not any(map(folds_in, configured_members(config.teacher))):
        return teacher
    weights = read_member_weights(folder)
    builder = TeacherBuilder(
        config, prepared, external, fit=False, member_weights=weights
    )
    return builder.cross_fitted(teacher, folder)


def members_of(teacher: Teacher) -> list[Any]:
    """The members of an ensemble, or the teacher itself."""
    if isinstance(teacher, EnsembleTeacher):
        return list(teacher.members)
    return [teacher]


def needs_training_rows(config: Config, prepared: Prepared) -> bool:
    """Whether the teacher's scores of a training list depend on its query.

    A linear item model leaves the query out, and a cross-fitted teacher its fold.
    """
    return any(
        is_linear(member) or folds_in(member) or reads_affinities(member, prepared)
        for member in configured_members(config.teacher)
    )


def reads_affinities(config: Any, prepared: Prepared) -> bool:
    """Whether a teacher's configuration is a ranker that reads pair features."""
    ranker = isinstance(config, ReferenceTeacherConfig)
    return ranker and config.affinities and bool(prepared.schema.affinity)


def parameters(model: Teacher) -> int | None:
    """Number of weights, trained or not; None if unknown."""
    return _total(
        model, lambda own: int(sum(np.prod(weight.shape) for weight in own.weights))
    )


def size_bytes(model: Teacher) -> int | None:
    """Bytes of all weights, or of an external model's files; None if unknown."""
    return _total(
        model,
        lambda own: int(
            sum(
                np.prod(weight.shape) * tf.as_dtype(weight.dtype).size
                for weight in own.weights
            )
        ),
        of_files=True,
    )


def _total(
    model: Teacher, weigh: Callable[[keras.Model], int], *, of_files: bool = False
) -> int | None:
    total = 0
    for member in members_of(model):
        if isinstance(member, keras.Model):
            size: int | None = weigh(member)
        else:
            size = member.size_bytes if of_files else member.parameters
        if size is None:
            return None
        total += size
    return total


def _build_weights(model: keras.Model, prepared: Prepared) -> None:
    """Creates the weights by a call with two lists."""
    lists = next(in_order(prepared.shards("train"), 2))
    x, _, _ = Collator(prepared.catalogue_size)(lists, np.random.default_rng(0))
    x["candidate_index"] = x["candidate_index"][:2]
    x["mask"] = x["mask"][:, :2]
    model(tf.nest.map_structure(tf.convert_to_tensor, x))
