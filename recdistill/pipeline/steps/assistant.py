"""The step `assistant`: a wider student, whose scores a narrow student learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.pilot import check_gate, distillation_inputs
from recdistill.pipeline.steps.step import StudentStep

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext


class Assistant(StudentStep):
    """Distils a teacher assistant, if the teacher is good enough.

    It has the settings of the student, except its width, and learns from the stored
    scores. The student then learns from both, as in densely guided distillation (Son et
    al., 2021). The assistant's scores are computed batch by batch, so that no second
    copy of the lists is stored.
    """

    name = "assistant"
    summary = "Distil a teacher assistant (with `distill.assistant`)."

    def needs(self, config: Config) -> tuple[str, ...]:
        """The stored scores; students of all widths that learn from them share it."""
        return ("teacher", "score")

    def reads(self, config: Config) -> tuple[str, ...]:
        """The prepared data and the stored scores."""
        return ("prepare", "score")

    def before(self, run: RunContext) -> None:
        """Stops the run if the gate is closed, if there is a baseline to compare."""
        _require_assistant(run.config)
        if "baseline" in run.artefacts:
            check_gate(run)

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """The assistant, its training and the distillation."""
        return {
            **distillation_inputs(run),
            "student": run.assistant_config.student.model_dump(mode="json"),
            "distill": run.config.distill.on_scores.model_dump(
                mode="json", exclude={"gate", "assistant"}
            ),
            "from_baseline": False,
        }

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the weights and the metrics of the validation lists."""
        return run.assistant_trainer.distil(
            draft.path,
            run.score_files("score"),
            run.soft_targets,
            "Distilling the assistant",
        )


def _require_assistant(config: Config) -> None:
    """Checks that the student of a configuration has an assistant.

    Raises:
        ConfigError: If not.
    """
    from recdistill.errors import ConfigError

    if not config.uses_assistant:
        settings = config.distill.assistant
        received = "none" if settings is None else f"dim={settings.dim}"
        raise ConfigError(
            "The step `assistant` needs `distill.assistant` with a `dim` above that of "
            f"the student, {config.student.dim}. Received: {received}. Run the step "
            "`distill`, which does not need it."
        )
