"""The step `baseline`: the student without distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.step import Step, sections

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext


class Baseline(Step):
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

    def trains(self, config: Config) -> bool:
        """The student is trained."""
        return True

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """The student, its training and the candidates of its lists."""
        lists = run.config.lists
        return {
            **run.validation_inputs,
            "student": run.student_inputs,
            "lists": [lists.size, lists.drawn],
            **sections(run.config, "seed"),
        }

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the weights and the metrics of the validation lists."""
        from recdistill.data.collation import Collator
        from recdistill.distillation.distiller import Distiller

        size = run.prepared.catalogue_size
        if "score" in self.needs(run.config):
            shards = run.score_files("score")
            collate = Collator(size, run.trainer.tail, with_teacher=True)
        else:
            shards = run.prepared.shards("train")
            collate = Collator(size, run.trainer.tail, shared=True)
        earlier = run.earlier_run
        return run.trainer.student(
            draft.path,
            lambda student: Distiller(None, student, student_loss_weight=1.0),
            lambda seed: run.trainer.batches(shards, collate, seed=seed),
            "Training the baseline",
            start=None if earlier is None else earlier.student("baseline"),
        )

    def gist(self, record: Mapping[str, Any]) -> str:
        """The first metric on validation."""
        return f"validation {record['valid']:.4f}"
