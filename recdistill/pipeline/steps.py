"""The steps of the pipeline, each a method that gives an artefact.

    prepare → teacher → score → student → distill → evaluate → export

A step first asks for the artefacts it stands on, so any step can be asked for; what is
there already is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill import losses
from recdistill.batches import Collator
from recdistill.datasets import (
    Dataset,
    fetch,
    read_movielens,
    read_recbole,
    read_tables,
    synthetic,
)
from recdistill.distiller import Distiller
from recdistill.export import export_student
from recdistill.files import held
from recdistill.pipeline.artefacts import Artefact, Draft, Workspace
from recdistill.pipeline.comparison import (
    decide,
    popularity_scorer,
    rank_test_lists,
)
from recdistill.pipeline.config import Config, DatasetConfig
from recdistill.pipeline.models import (
    WEIGHTS,
    TeacherBuilder,
    load_student,
    load_teacher,
    needs_profiles,
    parameters,
)
from recdistill.pipeline.partitions import Progress
from recdistill.pipeline.prepare import prepare
from recdistill.pipeline.prepared import Prepared
from recdistill.pipeline.reporting import build_report
from recdistill.pipeline.scoring import write_scores
from recdistill.pipeline.training import (
    Trainer,
    Validation,
    compiled,
    training_batches,
)
from recdistill.ranker import RankingTeacher
from recdistill.report import GatePart, Report
from recdistill.student import TwoTowerStudent

STEPS = ("prepare", "teacher", "score", "student", "distill", "evaluate", "export")


class GateError(RuntimeError):
    """The teacher is not good enough to distil; the message has the figures."""


def load_dataset(config: DatasetConfig, progress: Progress) -> Dataset:
    """The data set of a configuration, downloaded first where it says so.

    Args:
        config: The `dataset` section.
        progress: Told how far a download is.

    Raises:
        DataError: If it cannot be had, or is bad.
    """
    if config.reader == "synthetic":
        size = config.synthetic
        return synthetic(
            n_queries=size.queries,
            n_items=size.items,
            n_interactions=size.interactions,
            seed=size.seed,
        )
    path = config.path
    if config.fetch is not None:
        label = f"Downloading {config.fetch}"
        path = fetch(
            config.fetch, progress=lambda done, total: progress(label, done, total)
        )
    if path is None:
        raise ValueError("`path` or `fetch` must be given. Received: neither")
    if config.reader == "tables":
        return read_tables(path, {str(k): v for k, v in config.columns.items()})
    return {"movielens": read_movielens, "recbole": read_recbole}[config.reader](path)


class Pipeline:
    """All steps of one configuration, on one workspace.

    Args:
        config: The configuration.
        progress: Told about work that takes time.
        announce: Told of each finished step and its artefact.
    """

    def __init__(
        self,
        config: Config,
        progress: Progress = lambda label, done, total: None,
        announce: Callable[[str, Artefact], None] = lambda step, artefact: None,
    ) -> None:
        self.config, self._progress, self._announce = config, progress, announce
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
        with held(self.workspace.root):
            return self._artefact(until)

    def _artefact(self, step: str) -> Artefact:
        if step not in self._done:
            # A step's inputs are the keys of the steps it stands on: they come first.
            inputs, work, resumes = getattr(self, f"_{step}")()
            with self.workspace.produce(step, inputs, _is_whole) as draft:
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
        return self._done[step]

    def _publish_report(self) -> None:
        """Copies the report to where people look for it."""
        report = Report.load(self._done["evaluate"].path / "report.json")
        report.save(self.workspace.root / "report.json")

    # What several steps share.

    @cached_property
    def prepared(self) -> Prepared:
        """The prepared data."""
        return Prepared(self._artefact("prepare").path)

    @cached_property
    def _validation(self) -> Validation:
        settings = self.config.evaluate
        return Validation.of(
            self.prepared, settings.metrics, settings.valid_lists, self.config.seed
        )

    @cached_property
    def _trainer(self) -> Trainer:
        return Trainer(self.config, self.prepared, self._validation, self._progress)

    @cached_property
    def _teacher_model(self) -> keras.Model:
        folder = self._artefact("teacher").path
        return load_teacher(self.config, self.prepared, folder)

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
        }

        def work(draft: Draft) -> None:
            draft.record = prepare(dataset, config, draft.path, self._progress)

        return inputs, work, False

    def _teacher(self) -> _Step:
        config = self.config
        inputs = {
            "prepare": self._artefact("prepare").key,
            "valid_lists": config.evaluate.valid_lists,
            **_dump(config, "seed", "teacher"),
            "metrics": config.evaluate.metrics,
        }

        def work(draft: Draft) -> None:
            builder = TeacherBuilder(config, self.prepared, fit=True)
            teacher = builder.build()
            fitted = []
            members = getattr(config.teacher, "members", (config.teacher,))
            models = getattr(teacher, "members", [teacher])
            for settings, model in zip(members, models, strict=True):
                if isinstance(model, RankingTeacher):
                    fitted += self._trainer.ranker(model, settings)
            teacher.save_weights(draft.path / WEIGHTS)
            rows = self._validation.rows(compiled(teacher))
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
            }

        return inputs, work, False

    def _score(self) -> _Step:
        config = self.config
        inputs = {
            "prepare": self._artefact("prepare").key,
            "teacher": self._artefact("teacher").key,
            **_dump(config, "seed", "lists"),
        }

        def work(draft: Draft) -> None:
            draft.record = write_scores(
                compiled(self._teacher_model),
                self.prepared,
                config.lists,
                draft.path,
                config.seed,
                self._progress,
                own_rows=needs_profiles(config, self.prepared),
            )

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

        def work(draft: Draft) -> None:
            collate = Collator(
                self.prepared.catalogue_size, self._trainer.tail, shared=True
            )
            dataset = training_batches(
                self.prepared.shards("train"),
                collate,
                config.student.batch_size,
                config.seed,
            )
            draft.record = self._trainer.student(
                draft.path,
                lambda student: Distiller(None, student, student_loss_weight=1.0),
                dataset,
                "Training the twin (no distillation)",
            )

        return inputs, work, False

    def _distill(self) -> _Step:
        config, settings = self.config, self.config.distill
        scores, twin = self._artefact("score"), self._artefact("student")
        inputs = {
            "score": scores.key,
            "twin": twin.key,
            "resamples": config.evaluate.bootstrap,
            **_dump(config, "seed", "student", "distill"),
        }

        def work(draft: Draft) -> None:
            gate = self._gate()
            if not gate.passed and not gate.overridden:
                raise GateError(
                    f"{gate.message} Distilling it would waste the run. Improve the "
                    "teacher, or go on all the same with --set distill.gate=warn."
                )
            loss = getattr(losses, settings.loss)(temperature=settings.temperature)
            collate = Collator(self.prepared.catalogue_size, with_teacher=True)
            dataset = training_batches(
                sorted(scores.path.glob("scores-*.parquet")),
                collate,
                config.student.batch_size,
                config.seed,
                settings.scores,
            )
            draft.record = self._trainer.student(
                draft.path,
                lambda student: Distiller(
                    None,
                    student,
                    loss,
                    distillation_loss_weights=[settings.weight],
                    student_loss_weight=1.0 - settings.weight,
                ),
                dataset,
                "Distilling",
            )
            draft.record["gate"] = gate.model_dump(mode="json")

        return inputs, work, False

    def _gate(self) -> GatePart:
        config, teacher = self.config, self._artefact("teacher").path
        twin = self._artefact("student").path
        return decide(
            pq.read_table(teacher / "valid.parquet"),
            {
                "popularity": pq.read_table(teacher / "valid-popularity.parquet"),
                "student_alone": pq.read_table(twin / "valid.parquet"),
            },
            config.evaluate.metrics[0],
            samples=config.evaluate.bootstrap,
            seed=config.seed,
            override=config.distill.gate == "warn",
        )

    def _evaluate(self) -> _Step:
        config = self.config
        inputs = {
            step: self._artefact(step).key for step in ("distill", "student", "teacher")
        } | _dump(config, "seed", "evaluate")

        def work(draft: Draft) -> None:
            models = {
                "student_alone": self._student_model("student"),
                "distilled": self._student_model("distill"),
                "teacher": self._teacher_model,
            }
            scorers = {"popularity": popularity_scorer(self.prepared.popularity)}
            scorers |= {name: compiled(model) for name, model in models.items()}
            rows = rank_test_lists(
                scorers, self.prepared, config.evaluate.metrics, self._progress
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
                gate=self._artefact("distill").record["gate"],
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
            published = _published(folder / config.name, draft.key)
            if published is None:
                report = Report.load(self._artefact("evaluate").path / "report.json")
                published = export_student(
                    self._student_model("distill"),
                    self.prepared.schema,
                    self.prepared.items,
                    folder,
                    name=config.name,
                    top_k=min(config.export.top_k, self.prepared.catalogue_size),
                    rows=self.prepared.raw_queries(config.export.parity_rows),
                    metadata={
                        "key": draft.key,
                        "fingerprint": report.metrics_fingerprint(),
                        "metrics": report.model_dump(mode="json")["models"][
                            "distilled"
                        ]["metrics"],
                    },
                ).path
            draft.record = {"path": str(published)}

        return inputs, work, False

    def _mean(self, path: Path) -> float:
        metric = self.config.evaluate.metrics[0]
        return float(np.nanmean(pq.read_table(path)[metric].to_numpy()))


def _is_whole(artefact: Artefact) -> bool:
    """False for the record of an export that somebody has removed."""
    return Path(artefact.record.get("path", artefact.path)).is_dir()


def _published(folder: Path, key: str) -> Path | None:
    """The version that an export step with this key published before it was killed."""
    for manifest in folder.glob("*/assets.extra/recdistill.json"):
        metadata = json.loads(manifest.read_text(encoding="utf-8"))["metadata"]
        version = manifest.parent.parent
        if version.name.isdecimal() and metadata.get("key") == key:
            return version
    return None


_Step = tuple[dict[str, Any], Callable[[Draft], None], bool]


def _dump(config: Config, *sections: str) -> dict[str, Any]:
    """Sections as JSON-ready values, for the hash of a step's inputs."""
    return {k: json.loads(config.model_dump_json(include={k}))[k] for k in sections}
