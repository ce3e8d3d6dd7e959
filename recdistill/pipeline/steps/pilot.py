"""The step `pilot`: the student of the first round, for the lists of the second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.step import StudentStep, compared, sections

if TYPE_CHECKING:
    from pathlib import Path

    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext


class Pilot(StudentStep):
    """Distils a student on the lists of the first round, if the teacher is good enough.

    Its own highest items become candidates in the step `closure`, and its weights are
    the first ones of the step `distill`. It is trained with half of the steps, and
    `distill` with the other half, so that the second round takes no more training.
    """

    name = "pilot"
    summary = "Distil a pilot student, which proposes candidates (retrieved lists)."

    def needs(self, config: Config) -> tuple[str, ...]:
        """The stored scores; the gate compares teacher and baseline."""
        return (*compared(config), "score", *assistant_of(config))

    def reads(self, config: Config) -> tuple[str, ...]:
        """The data, the scores, a baseline to start from, and the assistant."""
        start = ("baseline",) if starts_from_baseline(config) else ()
        return ("prepare", *start, "score", *assistant_of(config))

    def before(self, run: RunContext) -> None:
        """Stops the run if the gate is closed."""
        require_second_round(run.config, self.name)
        check_gate(run)

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """The student, its training and the distillation."""
        return distillation_inputs(run)

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the weights and the metrics of the validation lists."""
        return run.trainer.distil(
            draft.path,
            run.score_files("score"),
            run.soft_targets,
            "Distilling the pilot student",
            steps=first_steps(run.config.student.steps),
            start=first_weights(run),
            assistant=run.assistant_model,
        )


def check_gate(run: RunContext) -> None:
    """Stops the run if the gate is closed, or warns once as it is configured."""
    from recdistill.pipeline.evaluation.gate import enter

    warning = enter(run.gate)
    if warning is not None and not run.entered:
        run.warn(warning)
    run.entered = True


def starts_from_baseline(config: Config) -> bool:
    """Whether the student starts with the weights of the baseline of this run."""
    return config.student.warm_start == "baseline"


def assistant_of(config: Config) -> tuple[str, ...]:
    """The step that trains the student's assistant, if it has one."""
    return ("assistant",) if config.uses_assistant else ()


def first_weights(run: RunContext) -> Path | None:
    """Folder with the student's first weights if it starts from the baseline."""
    return run.intact("baseline").path if starts_from_baseline(run.config) else None


def first_steps(steps: int) -> int:
    """Training steps of the pilot student; the step `distill` makes the others."""
    return max(1, steps // 2)


def require_second_round(config: Config, step: str) -> None:
    """Checks that a step of the second round is part of the pipeline.

    Raises:
        ConfigError: If the lists have no second round.
    """
    from recdistill.errors import ConfigError

    if not config.lists.has_second_round:
        raise ConfigError(
            f"The step `{step}` needs lists with a second round: `lists.size` must be "
            "'retrieved' and `lists.student_top` above 0. Received: "
            f"size={config.lists.size!r}, student_top={config.lists.student_top}. "
            "Run the step `distill`, which does not need it."
        )


def distillation_inputs(run: RunContext) -> dict[str, Any]:
    """The student, its training and the distillation, for the inputs of a step."""
    settings = run.config.distill
    return {
        **run.validation_inputs,
        "student": run.student_inputs,
        # The gate decides whether to distil; the student does not depend on it.
        # An assistant is an artefact that the step needs.
        "distill": settings.model_dump(mode="json", exclude={"gate", "assistant"}),
        "from_baseline": starts_from_baseline(run.config),
        **sections(run.config, "seed"),
    }
