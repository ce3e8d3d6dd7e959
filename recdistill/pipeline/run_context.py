"""Objects that the steps of one run share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from recdistill.data import Dataset
from recdistill.data.batches import Lists
from recdistill.data.dataset import Progress
from recdistill.distillation.score_doctor import Examination
from recdistill.errors import ConfigError, DataError
from recdistill.evaluation.report.run_report import GatePart
from recdistill.evaluation.report.training_parts import AssistantPart, SoftTargetsPart
from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.config import Config
from recdistill.pipeline.config.teacher_section import has_partial_scores, needs_raw
from recdistill.pipeline.engine import Engine, LocalEngine
from recdistill.pipeline.evaluation.gate import compare_on_validation
from recdistill.pipeline.evaluation.training_overlap import (
    lists_seen_before,
    lists_trained_on,
)
from recdistill.pipeline.models.model_building import (
    Teacher,
    cross_fitted,
    load_student,
    load_teacher,
)
from recdistill.pipeline.models.scorers import (
    PopularityScorer,
    Scorer,
    compiled,
    with_progress,
)
from recdistill.pipeline.models.teacher_opening import ExternalTeachers, identity
from recdistill.pipeline.models.weights_file import seed_folder
from recdistill.pipeline.preparation.dataset_loading import (
    load_dataset,
    reading_options,
)
from recdistill.pipeline.preparation.prepared_data import TEST_FILES, Prepared
from recdistill.pipeline.ranking.candidate_ranker import CandidateRanker
from recdistill.pipeline.ranking.retrieved_candidates import (
    Retrieval,
    lists_for_teacher,
    reranks,
)
from recdistill.pipeline.ranking.validation import Validation
from recdistill.pipeline.scores.score_store import stored_files
from recdistill.pipeline.training.soft_targets import SoftTargets, choose
from recdistill.pipeline.training.trainer import Trainer
from recdistill.pipeline.training.warm_start import EarlierRun
from recdistill.teachers import ScoreTable
from recdistill.teachers.model_files import source_digest

if TYPE_CHECKING:
    import pandas as pd


VALID = "valid.parquet"
"""File of an artefact with a model's metrics on the validation lists."""

_SHARED = (
    "dataset",
    "prepared",
    "validation",
    "external",
    "teacher_identity",
    "score_tables",
    "teacher_model",
    "cross_fitted_teacher",
    "training_overlap",
)
"""Objects that do not depend on the student's settings."""


class RunContext:
    """Configuration, finished artefacts, and the objects loaded from them.

    Properties read artefacts, so a step may use only those of the steps it needs.

    Args:
        config: The configuration.
        progress: Callback for progress.
        warn: Callback for warnings.
        tables: DataFrames of the data set, for the reader `frames`.
        observe: As for `Trainer`.
        with_test: Whether the test part may be read.

    Attributes:
        config: The configuration. After the step `prepare`, `lists.size` is no longer
            "auto".
        with_test: Whether the test part may be read.
        artefacts: The artefacts of the finished steps by name.
        engine: Runs the parts of a step, in this process or on a cluster.
        entered: Whether the gate was passed, or its warning was given.
    """

    def __init__(
        self,
        config: Config,
        progress: Progress,
        warn: Callable[[str], None],
        tables: Mapping[str, pd.DataFrame] | None = None,
        observe: Callable[[str, int, Mapping[str, float]], None] | None = None,
        with_test: bool = True,
    ) -> None:
        self.config, self.progress, self.warn = config, progress, warn
        self.tables, self.observe = tables, observe
        self.artefacts: dict[str, Artefact] = {}
        self.engine: Engine[RunContext] = LocalEngine()
        self._intact: set[str] = set()
        self._kept: frozenset[str] = frozenset()
        self.with_test, self.entered = with_test, False

    def variant(
        self,
        config: Config,
        kept: Iterable[str],
        progress: Progress,
        observe: Callable[[str, int, Mapping[str, float]], None],
    ) -> RunContext:
        """A context with other settings that starts from finished steps of this one.

        Args:
            config: The configuration. It has the same data and the same teacher.
            kept: Names of the steps whose artefacts are used; they are verified once.
            progress: Callback for progress.
            observe: As for `Trainer`.
        """
        other = RunContext(
            config,
            progress,
            lambda message: None,
            self.tables,
            observe,
            self.with_test,
        )
        other._kept = frozenset(kept)
        for name in kept:
            other.add(name, self.intact(name))
        other._intact = set(kept)
        # Cached properties store their value under their name.
        loaded = {
            "prepared": self.prepared,
            "validation": self.validation,
            **vars(self),
        }
        vars(other).update({k: loaded[k] for k in _SHARED if k in loaded})
        if "baseline" in other._kept:
            other.gate = self.gate
        return other

    @property
    def root(self) -> Path:
        """Folder of the run."""
        return self.config.local_workdir / self.config.name

    # Artefacts.

    def add(self, step: str, artefact: Artefact) -> None:
        """Adds the artefact of a finished step.

        Then `config.lists.size` is decided, or an automatic `config.teacher` is found
        and `config.lists.scores_dtype` is decided.
        """
        self.artefacts[step] = artefact
        if step == "teacher" and artefact.record.get("probabilities"):
            self.config = self.config.for_probabilities()
        if step == "teacher" and artefact.record.get("chosen"):
            self.config = self.config.for_teacher(artefact.record["chosen"])
            vars(self).pop("teacher_identity", None)
        if step == "prepare":
            self.config = self.config.for_catalogue(artefact.record["items"])

    def intact(self, step: str) -> Artefact:
        """The artefact of a finished step, whose files are verified.

        They are verified once in each step that uses them.

        Raises:
            ArtefactError: If a file is damaged, missing or unexpected.
        """
        artefact = self.artefacts[step]
        if step not in self._intact:
            artefact.verify(self.unread)
            self._intact.add(step)
        return artefact

    def trust(self, steps: Iterable[str]) -> None:
        """Notes that the artefacts of these steps were verified elsewhere."""
        self._intact.update(steps)

    @property
    def unread(self) -> str:
        """Pattern of the files of `prepare` that must not be read; "" for none."""
        return "" if self.with_test else TEST_FILES

    def verify_again(self) -> None:
        """Forgets which artefacts are verified, at the start of a step's work."""
        self._intact &= self._kept

    # Data.

    @cached_property
    def dataset(self) -> Dataset:
        """The data set."""
        self.progress("Opening the data", 0, None)
        return load_dataset(
            self.config.dataset,
            self.progress,
            self.tables,
            reading_options(self.config),
        )

    @property
    def needs_raw(self) -> bool:
        """Whether the teacher reads raw features, which the lists must then keep."""
        return needs_raw(self.config.teacher)

    @cached_property
    def prepared(self) -> Prepared:
        """The prepared data."""
        limit = self.config.evaluate.test_lists
        return Prepared(self.intact("prepare").path, self.with_test, limit)

    @cached_property
    def validation(self) -> Validation:
        """The validation lists, with the metric that decides."""
        settings = self.config.evaluate
        return Validation.sample(
            self.prepared,
            settings.metrics[:1],
            settings.valid_lists,
            self.config.seed,
            self.score_tables,
        )

    @property
    def reranks(self) -> bool:
        """Whether the teacher re-ranks retrieved candidates, not the catalogue."""
        return reranks(self.config, self.prepared)

    @property
    def lists_for_teacher(self) -> int | None:
        """Most validation lists of a teacher; None if it ranks sampled candidates."""
        lists = self.artefacts["prepare"].record["lists"]["valid"]
        return lists_for_teacher(self.config, self.prepared, lists)

    @cached_property
    def teacher_validation(self) -> Validation:
        """The validation lists by which a teacher is trained and checked.

        These are some of the validation lists, where the catalogue is so large that
        ranking it for all of them takes long. If the teacher cannot rank the catalogue,
        they have sampled candidates.
        """
        lists = self.lists_for_teacher
        if lists is not None:
            return self.validation.spread(lists)
        return self.validation.with_sampled_candidates(
            self.prepared.popularity, self.config.evaluate.retrieved, self.config.seed
        )

    def retrieved_validation(self) -> Validation:
        """The validation lists with the items that popularity and baseline retrieve."""
        found = self.retrieved("baseline", lists=self.validation.lists)
        return replace(self.validation, lists=found)

    def retrieved(self, *steps: str, lists: Sequence[Lists]) -> list[Lists]:
        """Lists with retrieved candidates; a positive outside them is missed.

        Args:
            steps: The steps whose students are retrievers, besides popularity.
            lists: The lists, in pieces.
        """
        scorers: dict[str, Scorer] = {
            "popularity": PopularityScorer(self.prepared.popularity),
            **{step: compiled(self.student_model(step)) for step in steps},
        }
        items = self.prepared.catalogue_size
        rankers = {name: CandidateRanker(s, items) for name, s in scorers.items()}
        retrieval = Retrieval(rankers, self.config.evaluate.retrieved)
        return [retrieval.restrict(each, retrieval.rank(each)) for each in lists]

    @property
    def validation_inputs(self) -> dict[str, Any]:
        """The settings of `validation`, for the inputs of a step."""
        settings = self.config.evaluate
        return {"valid_lists": settings.valid_lists, "metric": settings.metrics[0]}

    # The teacher.

    @cached_property
    def external(self) -> ExternalTeachers:
        """Teachers that the pipeline does not train, each opened once."""
        return ExternalTeachers(self.prepared, lambda: self.dataset)

    @cached_property
    def teacher_identity(self) -> dict[str, Any]:
        """Settings and file contents of the teacher when the run first asked."""
        return identity(self.config.teacher)

    def verify_sources(self) -> None:
        """Checks that the user's files that a teacher reads have not changed.

        Raises:
            DataError: If a file changed since it was announced.
        """
        if identity(self.config.teacher) != self.teacher_identity:
            raise DataError(
                "A file of the teacher (section `teacher`) changed while it was read, "
                "so the result would mix two versions of it. Run the command again "
                "when the file is complete."
            )
        if has_partial_scores(self.config.teacher):
            self.dataset.verify()

    @cached_property
    def score_tables(self) -> list[ScoreTable]:
        """The tables of a teacher with partial scores; else empty."""
        return self.external.tables(self.config.teacher)

    @cached_property
    def teacher_model(self) -> Teacher:
        """The teacher."""
        folder = self.intact("teacher").path
        return load_teacher(self.config, self.prepared, self.external, folder)

    @cached_property
    def cross_fitted_teacher(self) -> Teacher:
        """The teacher of the training lists, whose folds have not seen them."""
        folder = self.intact("teacher").path
        return cross_fitted(
            self.teacher_model, self.config, self.prepared, self.external, folder
        )

    def scorer(self, teacher: Teacher, label: str, lists: int) -> Scorer:
        """The teacher as a function of a batch that reports progress.

        Args:
            teacher: The teacher.
            label: The activity, for the progress display.
            lists: Number of lists that it is going to score.
        """
        return with_progress(compiled(teacher), label, lists, self.progress)

    @cached_property
    def training_overlap(self) -> dict[str, int] | None:
        """Number of held-out lists that the teacher was trained on, if known."""
        return lists_trained_on(self.prepared, self.config.teacher)

    @cached_property
    def gate(self) -> GatePart:
        """The decision whether the teacher is worth distilling."""
        judged = self.artefacts["score" if self.reranks else "teacher"]
        return compare_on_validation(
            self.config,
            self.artefacts["teacher"],
            judged.file(VALID),
            self.artefacts["baseline"],
            self.training_overlap,
            self.artefacts["prepare"],
        )

    def score_files(self, step: str) -> list[Path]:
        """The files of the score store of a step, which are verified.

        Args:
            step: "score", or "closure" for the second round.
        """
        return stored_files(self.intact(step).path)

    @cached_property
    def soft_targets(self) -> SoftTargets:
        """The transform and temperatures that turn stored scores into soft targets."""
        record = self.artefacts["score"].record
        found = Examination.model_validate(record["doctor"])
        return choose(self.config.distill, found, record.get("unlabelled", 0))

    @property
    def soft_targets_part(self) -> SoftTargetsPart:
        """The soft targets of the student for the report, with its assistant."""
        part, assistant = self.soft_targets.part, self.config.distill.assistant
        if assistant is None or not self.config.uses_assistant:
            return part
        valid = self.artefacts["assistant"].record["valid"]
        named = AssistantPart(dim=assistant.dim, valid=valid)
        return part.model_copy(update={"assistant": named})

    # The assistant.

    @property
    def assistant_config(self) -> Config:
        """The configuration of the assistant, as if it were the student."""
        settings = self.config.distill.assistant
        if settings is None:
            raise ValueError("`distill.assistant` must be set. Received: none")
        changes = {"dim": settings.dim, "seeds": 1, "warm_start": None}
        student = self.config.student.model_copy(update=changes)
        return self.config.model_copy(update={"student": student})

    @property
    def assistant_trainer(self) -> Trainer:
        """Trains the assistant."""
        return self._trainer(self.assistant_config, self.validation)

    @property
    def assistant_model(self) -> keras.Model | None:
        """The assistant that the student learns from as well, if it has one."""
        if not self.config.uses_assistant:
            return None
        folder = self.intact("assistant").path
        return load_student(self.assistant_config.student, self.prepared, folder)

    # The student.

    @cached_property
    def trainer(self) -> Trainer:
        """Trains rankers and students."""
        return self._trainer(self.config, self.validation, self.earlier_run)

    def _trainer(
        self,
        config: Config,
        validation: Validation,
        earlier: EarlierRun | None = None,
    ) -> Trainer:
        report = self.progress, self.warn, self.observe
        return Trainer(config, self.prepared, validation, *report, earlier)

    @cached_property
    def earlier_run(self) -> EarlierRun | None:
        """The run that the student starts from; None for a start from random weights.

        Raises:
            ConfigError: If it has no finished student, or the split is by chance.
        """
        folder = self.config.student.warm_start
        if folder is None or folder == "baseline":
            return None
        if self.config.split.by == "leave_random_out":
            raise ConfigError(
                "`student.warm_start` needs a split by time, because a random one "
                "holds out interactions that the earlier student was trained on. "
                "Received: `split.by` = 'leave_random_out'"
            )
        return EarlierRun.open(folder, self.root)

    @cached_property
    def seen_before(self) -> dict[str, int]:
        """Number of held-out lists that the earlier run was trained on, by part."""
        run = self.earlier_run
        return {} if run is None else lists_seen_before(self.prepared, run.prepared)

    @cached_property
    def teacher_trainer(self) -> Trainer:
        """Trains teachers, which may be unable to rank the catalogue."""
        return self._trainer(self.config, self.teacher_validation)

    @property
    def student_inputs(self) -> dict[str, Any]:
        """The student's settings and the source of its factory, for a step's inputs."""
        settings = self.config.student
        found = settings.model_dump(mode="json")
        if self.earlier_run is None:
            # A start from the baseline is an input of the distillation only.
            del found["warm_start"]
        else:
            found["warm_start"] = self.earlier_run.distill.key
        if settings.factory is not None:
            found["factory_file"] = source_digest(settings.factory)
        return found

    def student_model(self, step: str, seed: int | None = None) -> keras.Model:
        """The student that a step trained, "baseline", "pilot" or "distill".

        Args:
            step: Name of the step.
            seed: One of several seeds; by default the best on validation.
        """
        folder = self.intact(step).path
        if seed is not None:
            folder = seed_folder(folder, seed)
        return load_student(self.config.student, self.prepared, folder)

    @property
    def common_seeds(self) -> list[int]:
        """The seeds of baseline and student; empty if there is only one."""
        both = [
            [each["seed"] for each in self.artefacts[step].record.get("seeds", ())]
            for step in ("baseline", "distill")
        ]
        return [seed for seed in both[0] if seed in both[1]]
