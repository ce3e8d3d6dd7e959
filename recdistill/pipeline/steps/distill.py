"""The step `distill`: trains the student with the teacher's scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.step import Step, sections

if TYPE_CHECKING:
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext
    from recdistill.pipeline.workspace import Draft


class Distill(Step):
    """Distils the student, if the teacher passes the gate."""

    name = "distill"
    summary = "Check the gate, then distil the student."

    def needs(self, config: Config) -> tuple[str, ...]:
        """The stored scores; the gate compares teacher and baseline."""
        return ("baseline", "teacher", "score")

    def reads(self, config: Config) -> tuple[str, ...]:
        """The prepared data and the stored scores."""
        return ("prepare", "score")

    def before(self, run: RunContext) -> None:
        """Stops the run if the gate is closed."""
        from recdistill.pipeline.gate import enter

        warning = enter(run.gate)
        if warning is not None:
            run.warn(warning)

    def trains(self, config: Config) -> bool:
        """The student is trained."""
        return True

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """The student, its training and the distillation."""
        settings = run.config.distill
        return {
            **run.validation_inputs,
            "student": run.student_inputs,
            # The gate decides whether to distil; the student does not depend on it.
            "distill": settings.model_dump(mode="json", exclude={"gate"}),
            **sections(run.config, "seed"),
        }

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the weights and the metrics of the validation lists."""
        from recdistill.data.collation import Collator
        from recdistill.distillation.distiller import Distiller
        from recdistill.pipeline.soft_targets import distillation_losses

        weight = run.config.distill.weight
        targets = run.soft_targets
        losses, weights = distillation_losses(run.config.distill)
        size, tail = run.prepared.catalogue_size, run.trainer.tail
        collate = Collator(size, tail, with_teacher=True)
        record = run.trainer.student(
            draft.path,
            lambda student: Distiller(
                None,
                student,
                losses,
                distillation_loss_weights=weights,
                student_loss_weight=1.0 - weight,
            ),
            run.trainer.batches(run.score_files(), collate, targets),
            "Distilling",
        )
        return {**record, "soft_targets": targets.part.model_dump(mode="json")}

    def gist(self, record: Mapping[str, Any]) -> str:
        """The first metric on validation."""
        return f"validation {record['valid']:.4f}"
