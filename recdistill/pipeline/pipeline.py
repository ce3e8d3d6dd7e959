"""The steps of the pipeline, each a method that gives an artefact.

    prepare → teacher → score → student → distill → evaluate → export

A step first asks for the artefacts it stands on, so any step can be asked for; what is
there already is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.atomic import locked_folder
from recdistill.data.collation import Collator
from recdistill.distillation.distiller import Distiller
from recdistill.distillation.score_doctor import Examination
from recdistill.evaluation.report.run_report import (
    SCHEMA_VERSION,
    GatePart,
    Report,
)
from recdistill.export.layout import published_with_key
from recdistill.export.publishing import ExportSettings
from recdistill.export.student_export import export_student
from recdistill.models.two_tower import TwoTowerStudent
from recdistill.pipeline.config import Config
from recdistill.pipeline.dataset_loading import load_dataset
from recdistill.pipeline.gate import (
    CountedScorer,
    check_sound,
    enter,
    judge_teacher,
    lists_trained_on,
)
from recdistill.pipeline.model_building import (
    WEIGHTS,
    Teacher,
    TeacherBuilder,
    load_student,
    load_teacher,
    needs_training_rows,
    parameters,
)
from recdistill.pipeline.model_building import members_of as teacher_members
from recdistill.pipeline.model_comparison import popularity_scorer, rank_test_lists
from recdistill.pipeline.partitions import Progress
from recdistill.pipeline.preparation import prepare
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.report_building import ON_CARD, build_report
from recdistill.pipeline.score_store import (
    examine_stored,
    rounding_warning,
    verified_files,
    write_scores,
)
from recdistill.pipeline.soft_targets import SoftTargets, choose, distillation_losses
from recdistill.pipeline.teacher_config import (
    ReferenceTeacherConfig,
    has_partial_scores,
    members_of,
    needs_raw,
)
from recdistill.pipeline.teacher_opening import ExternalTeachers, identity, watched
from recdistill.pipeline.training import Trainer, training_batches
from recdistill.pipeline.validation import (
    Scorer,
    Validation,
    compiled,
    lists_with_scored_candidates,
)
from recdistill.pipeline.workspace import Artefact, Draft, Workspace
from recdistill.retrieval.indexing import IndexSettings
from recdistill.teachers import ScoreTable
from recdistill.teachers.score_table import keep_scored_by_all

STEPS = ("prepare", "teacher", "score", "student", "distill", "evaluate", "export")

SHARED = STEPS[:3]
"""Their artefacts serve every student, whatever its pipeline is called."""


class Pipeline:
    """All steps of one configuration, on one workspace.

    Args:
        config: The configuration.
        progress: Told about work that takes time.
        announce: Told of each finished step and its artefact.
        warn: Told what does not stop the run and should be known.
    """

    def __init__(
        self,
        config: Config,
        progress: Progress = lambda label, done, total: None,
        announce: Callable[[str, Artefact], None] = lambda step, artefact: None,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.config, self._progress, self._announce = config, progress, announce
        self._warn = warn
        # Options that a loss does not take are found out before any work.
        distillation_losses(config.distill, 1.0)
        self.workspace = Workspace(config.workdir / config.name)
        self._done: dict[str, Artefact] = {}

    def run(self, until: str = "export") -> Artefact:
        """Runs a step and what it stands on; finished steps are skipped.

        Args:
            until: The step.

        Raises:
            ValueError: If there is no such step.
            DataError: If the data is bad.
            GateError: If the teacher is not good enough.
        """
        if until not in STEPS:
            raise ValueError(f"`until` must be one of {STEPS}. Received: {until!r}")
        # The same seed must give the same weights, whatever the threads do.
        tf.config.experimental.enable_op_determinism()
        with locked_folder(self.workspace.root):
            return self._artefact(until)

    def _artefact(self, step: str) -> Artefact:
        if step not in self._done:
            # A step's inputs are the keys of the steps it stands on: they come first.
            inputs, work, resumes = getattr(self, f"_{step}")()
            shared = step in SHARED
            with self.workspace.produce(step, inputs, _is_whole, shared) as draft:
                if draft.done is None:
                    if not resumes:
                        draft.restart()
                    keras.utils.set_random_seed(self.config.seed)
                    try:
                        work(draft)
                    except Exception:
                        if not resumes:
                            draft.abandon()
                        raise
            self._done[step] = draft.artefact()
            if step == "evaluate":
                self._publish_report()
            self._announce(step, self._done[step])
            if step == "score":
                record = self._done["score"].record
                self._say(rounding_warning(self.config.lists, record))
                self._say(self.soft_targets.warning)
        return self._done[step]

    def _publish_report(self) -> None:
        """Copies the report to where people look for it."""
        report = Report.load(self._done["evaluate"].path / "report.json")
        report.save(self.workspace.root / "report.json")

    def _say(self, warning: str | None) -> None:
        if warning is not None:
            self._warn(warning)

    # What several steps share.

    @cached_property
    def prepared(self) -> Prepared:
        """The prepared data."""
        return Prepared(self._artefact("prepare").path)

    @cached_property
    def _validation(self) -> Validation:
        settings = self.config.evaluate
        return Validation.of(
            self.prepared,
            settings.metrics,
            settings.valid_lists,
            self.config.seed,
            self._score_tables,
        )

    @cached_property
    def _trainer(self) -> Trainer:
        return Trainer(self.config, self.prepared, self._validation, self._progress)

    @cached_property
    def _external(self) -> ExternalTeachers:
        """Teachers from outside, opened once for all steps."""
        return ExternalTeachers(
            self.prepared, lambda: load_dataset(self.config.dataset, self._progress)
        )

    @cached_property
    def _score_tables(self) -> list[ScoreTable]:
        """What a teacher has that can score only some candidates; else nothing."""
        return self._external.tables(self.config.teacher)

    @cached_property
    def _teacher_model(self) -> Teacher:
        folder = self._artefact("teacher").path
        return load_teacher(self.config, self.prepared, self._external, folder)

    def _watched(self, score: Scorer, label: str, lists: int) -> Scorer:
        raw = needs_raw(self.config.teacher)
        return watched(score, label, lists, self._progress) if raw else score

    def _student_model(self, step: str) -> TwoTowerStudent:
        folder = self._artefact(step).path
        return load_student(self.config.student, self.prepared, folder)

    # The steps: each gives its inputs, its work, and whether it resumes by itself.

    def _prepare(self) -> _Step:
        config = self.config
        dataset = load_dataset(config.dataset, self._progress)
        inputs = {
            "fingerprint": dataset.fingerprint,
            "columns": vars(dataset.columns),
            "per_query": config.lists.per_query,
            **_dump(config, "query", "candidate", "split"),
            **({"with_raw": True} if needs_raw(config.teacher) else {}),
        }

        def work(draft: Draft) -> None:
            draft.record = prepare(dataset, config, draft.path, self._progress)

        return inputs, work, False

    def _teacher(self) -> _Step:
        config = self.config
        inputs = {
            "prepare": self._artefact("prepare").key,
            "valid_lists": config.evaluate.valid_lists,
            "teacher": identity(config.teacher),
            "metrics": config.evaluate.metrics,
            **_dump(config, "seed"),
        }

        def work(draft: Draft) -> None:
            builder = TeacherBuilder(config, self.prepared, self._external, fit=True)
            teacher = builder.build()
            fitted = []
            pairs = zip(
                members_of(config.teacher), teacher_members(teacher), strict=True
            )
            for settings, model in pairs:
                if isinstance(settings, ReferenceTeacherConfig):
                    fitted.append(self._trainer.ranker(model, settings))
            if isinstance(teacher, keras.Model):
                teacher.save_weights(draft.path / WEIGHTS)
            lists = sum(map(len, self._validation.lists))
            scorer = self._watched(compiled(teacher), "Judging the teacher", lists)
            counted = CountedScorer(scorer)
            rows = self._validation.rows(counted)
            pq.write_table(rows, draft.path / "valid.parquet")
            popular = popularity_scorer(self.prepared.popularity)
            rows = self._validation.rows(popular)
            pq.write_table(rows, draft.path / "valid-popularity.parquet")
            draft.record = {
                "kind": config.teacher.kind,
                "trained": fitted,
                "parameters": parameters(teacher),
                "valid": self._mean(draft.path / "valid.parquet"),
                "valid_popularity": self._mean(draft.path / "valid-popularity.parquet"),
                "faults": vars(counted.faults),
            }

        return inputs, work, False

    def _score(self) -> _Step:
        config = self.config
        inputs = {
            "prepare": self._artefact("prepare").key,
            "teacher": self._artefact("teacher").key,
            **_dump(config, "seed", "lists"),
        }
        check_sound(config, self._artefact("teacher"), self._trained_on)

        def work(draft: Draft) -> None:
            label, tables = "Scoring with the teacher", self._score_tables
            score = compiled(self._teacher_model)
            lists = self._artefact("prepare").record["lists"]["train"]
            draft.record = write_scores(
                self._watched(score, label, min(lists, config.lists.contexts)),
                self.prepared,
                config.lists,
                draft.path,
                config.seed,
                self._progress,
                training_rows=needs_training_rows(config, self.prepared),
                restrict=partial(keep_scored_by_all, tables=tables) if tables else None,
            )
            found = examine_stored(draft.path, self.prepared.catalogue_size)
            draft.record["doctor"] = found.model_dump(mode="json")

        return inputs, work, True

    def _student(self) -> _Step:
        config, lists = self.config, self.config.lists
        inputs = {
            "prepare": self._artefact("prepare").key,
            "valid_lists": config.evaluate.valid_lists,
            "metrics": config.evaluate.metrics,
            "list": lists.model_dump(include={"size", "teacher_top", "tail"}),
            **_dump(config, "seed", "student"),
        }
        if has_partial_scores(config.teacher):
            # Both students are evaluated on the teacher's lists, so both train on them.
            inputs["score"] = self._artefact("score").key

        def work(draft: Draft) -> None:
            size = self.prepared.catalogue_size
            collate = Collator(size, self._trainer.tail, shared=True)
            shards = self.prepared.shards("train")
            if "score" in inputs:
                collate = Collator(size, with_teacher=True)
                score = self._artefact("score")
                shards = verified_files(score.path, score.record)
            dataset = training_batches(
                shards,
                collate,
                config.student.batch_size,
                config.seed,
            )
            draft.record = self._trainer.student(
                draft.path,
                lambda student: Distiller(None, student, student_loss_weight=1.0),
                dataset,
                "Training the baseline (no distillation)",
            )

        return inputs, work, False

    def _distill(self) -> _Step:
        config, settings = self.config, self.config.distill
        scores, gate = self._artefact("score"), self._gate
        self._say(enter(gate))
        inputs = {
            "score": scores.key,
            "valid_lists": config.evaluate.valid_lists,
            "metrics": config.evaluate.metrics,
            **_dump(config, "seed", "student"),
            # The gate opens the way to a student, and is no part of it.
            "distill": settings.model_dump(mode="json", exclude={"gate"}),
        }

        def work(draft: Draft) -> None:
            targets = self.soft_targets
            terms, shares = distillation_losses(settings, targets.temperature)
            dataset = training_batches(
                verified_files(scores.path, scores.record),
                Collator(self.prepared.catalogue_size, with_teacher=True),
                config.student.batch_size,
                config.seed,
                targets.transform,
                targets.unit,
            )
            draft.record = self._trainer.student(
                draft.path,
                lambda student: Distiller(
                    None,
                    student,
                    terms,
                    distillation_loss_weights=shares,
                    student_loss_weight=1.0 - settings.weight,
                ),
                dataset,
                "Distilling",
            )
            draft.record["soft_targets"] = targets.part.model_dump(mode="json")

        return inputs, work, False

    @cached_property
    def soft_targets(self) -> SoftTargets:
        """What the student is shown of the stored scores."""
        found = Examination.model_validate(self._artefact("score").record["doctor"])
        return choose(self.config.distill, found)

    @cached_property
    def _trained_on(self) -> dict[str, int] | None:
        return lists_trained_on(self.prepared, self.config.teacher)

    @cached_property
    def _gate(self) -> GatePart:
        teacher, baseline = self._artefact("teacher"), self._artefact("student")
        return judge_teacher(self.config, teacher, baseline, self._trained_on)

    def _evaluate(self) -> _Step:
        config = self.config
        inputs = {
            step: self._artefact(step).key for step in ("distill", "student", "teacher")
        } | _dump(config, "seed", "evaluate")
        # Not the differences, whose last digits a parallel sum may change.
        inputs["report"] = SCHEMA_VERSION
        inputs["gate"] = self._gate.model_dump(mode="json", exclude={"differences"})

        def work(draft: Draft) -> None:
            models = {
                "baseline": self._student_model("student"),
                "distilled": self._student_model("distill"),
                "teacher": self._teacher_model,
            }
            scorers = {"popularity": popularity_scorer(self.prepared.popularity)}
            scorers |= {name: compiled(model) for name, model in models.items()}
            tables = self._score_tables
            rows = rank_test_lists(
                scorers,
                self.prepared,
                config.evaluate.metrics,
                self._progress,
                lists_with_scored_candidates(self.prepared, "test", tables)
                if tables
                else None,
            )
            for name, table in rows.models.items():
                pq.write_table(table, draft.path / f"{name}.parquet")
            pq.write_table(rows.agreement, draft.path / "agreement.parquet")
            report = build_report(
                config,
                self.prepared,
                self._artefact("prepare").record,
                rows,
                models,
                gate=self._gate,
                soft_targets=self.soft_targets.part,
                timings={k: v.record["seconds"] for k, v in self._done.items()},
            )
            report.save(draft.path / "report.json")
            draft.record = {"fingerprint": report.metrics_fingerprint()}

        return inputs, work, False

    def _export(self) -> _Step:
        config = self.config
        inputs = {
            step: self._artefact(step).key for step in ("distill", "evaluate")
        } | _dump(config, "name", "export")

        def work(draft: Draft) -> None:
            folder = config.export.path
            published = published_with_key(folder / config.name, draft.key)
            if published is None:
                report = Report.load(self._artefact("evaluate").path / "report.json")
                settings = config.export
                published = export_student(
                    self._student_model("distill"),
                    self.prepared.schema,
                    self.prepared.items,
                    folder,
                    name=config.name,
                    rows=self.prepared.raw_queries(settings.parity_rows),
                    settings=ExportSettings(
                        min(settings.top_k, self.prepared.catalogue_size),
                        IndexSettings(
                            settings.index,
                            settings.storage,
                            settings.target_recall,
                            config.seed,
                        ),
                        settings.warm_up_batches,
                        {
                            "key": draft.key,
                            "fingerprint": report.metrics_fingerprint(),
                            "report": report.model_dump(mode="json", include=ON_CARD),
                        },
                    ),
                    on_device=settings.on_device,
                ).path
            draft.record = {"path": str(published)}

        return inputs, work, False

    def _mean(self, path: Path) -> float:
        metric = self.config.evaluate.metrics[0]
        return float(np.nanmean(pq.read_table(path)[metric].to_numpy()))


def _is_whole(artefact: Artefact) -> bool:
    """False for the record of an export that somebody has removed."""
    return Path(artefact.record.get("path", artefact.path)).is_dir()


_Step = tuple[dict[str, Any], Callable[[Draft], None], bool]


def _dump(config: Config, *sections: str) -> dict[str, Any]:
    """Sections as JSON-ready values, for the hash of a step's inputs."""
    return {k: json.loads(config.model_dump_json(include={k}))[k] for k in sections}
