"""The step `baseline`: the student without distillation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.step import StudentStep, sections

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext


MOST_SEEN_BEFORE = 0.1
"""Largest share of the test lists that the student of an earlier run may have seen: an
interaction may be repeated after the first one has left the data."""


class Baseline(StudentStep):
    """Trains the baseline on the observed relevance alone."""

    name = "baseline"
    summary = "Train the baseline: the student without distillation."

    def needs(self, config: Config) -> tuple[str, ...]:
        """The lists; with partial scores those with the scored candidates.

        Baseline and student are evaluated on the scored candidates, so both train on
        them.
        """
        from recdistill.pipeline.config.teacher_section import has_partial_scores

        return ("score",) if has_partial_scores(config.teacher) else ("prepare",)

    def reads(self, config: Config) -> tuple[str, ...]:
        """The prepared data, and with partial scores the stored scores."""
        return ("prepare", *(name for name in self.needs(config) if name != "prepare"))

    def before(self, run: RunContext) -> None:
        """Checks that an earlier run was not trained on the test lists.

        Raises:
            ConfigError: If it was trained on more than a few of them.
        """
        from recdistill.errors import ConfigError

        seen, lists = run.seen_before, run.artefacts["prepare"].record["lists"]["test"]
        if seen.get("test", 0) > MOST_SEEN_BEFORE * lists:
            raise ConfigError(
                "`student.warm_start` must be a run that was not trained on the test "
                f"lists of this one. Received: {str(run.config.student.warm_start)!r}, "
                f"which was trained on interactions of {seen['test']:,} of {lists:,}. "
                "Use the same `split` by time in both runs, or leave the key out."
            )

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """The student, its training and the candidates of its lists."""
        lists = run.config.lists
        return {
            **run.validation_inputs,
            "student": run.student_inputs,
            "lists": [lists.size, lists.drawn if lists.size == "retrieved" else None],
            **sections(run.config, "seed"),
        }

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the weights and the metrics of the validation lists."""
        from recdistill.data.collation import Collator
        from recdistill.distillation.distiller import Distiller
        from recdistill.pipeline.scores.score_store import labelled

        size = run.prepared.catalogue_size
        if "score" in self.needs(run.config):
            shards = labelled(run.score_files("score"))
            collate = Collator(size, run.trainer.tail, with_teacher=True)
        else:
            shards = run.prepared.shards("train")
            collate = Collator(size, run.trainer.tail, shared=True)
        earlier = run.earlier_run
        return run.trainer.student(
            draft.path,
            lambda student: Distiller(None, student, student_loss_weight=1.0),
            lambda seed, delivered: run.trainer.batches(
                shards, collate, seed=seed, delivered=delivered
            ),
            "Training the baseline",
            start=None if earlier is None else earlier.student("baseline"),
        )

    def warnings(self, run: RunContext) -> Iterator[str]:
        """Held-out lists that the student of an earlier run was trained on."""
        lists = run.artefacts["prepare"].record["lists"]
        for part, words in (("valid", "validation"), ("test", "test")):
            if run.seen_before.get(part):
                yield (
                    f"{run.seen_before[part]:,} of {lists[part]:,} {words} lists have "
                    "an item that the run of `student.warm_start` was trained on for "
                    "the same query, so the metrics of baseline and student are too "
                    "high there."
                )
