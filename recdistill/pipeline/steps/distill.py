"""The step `distill`: trains the student with the teacher's scores."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.pilot import (
    assistant_of,
    check_gate,
    distillation_inputs,
    first_steps,
    first_weights,
    starts_from_baseline,
)
from recdistill.pipeline.steps.step import StudentStep, compared

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext


class Distill(StudentStep):
    """Distils the student, if the teacher passes the gate."""

    name = "distill"
    summary = "Check the gate, then distil the student."

    def needs(self, config: Config) -> tuple[str, ...]:
        """The stored scores; the gate compares teacher and baseline."""
        first = (*compared(config), "score", *assistant_of(config))
        return (*first, "pilot", "closure") if config.lists.has_second_round else first

    def reads(self, config: Config) -> tuple[str, ...]:
        """The prepared data, the stored scores, and a baseline to start from."""
        if config.lists.has_second_round:
            return ("prepare", *assistant_of(config), "pilot", "closure")
        start = ("baseline",) if starts_from_baseline(config) else ()
        return ("prepare", *start, "score", *assistant_of(config))

    def before(self, run: RunContext) -> None:
        """Stops the run if the gate is closed."""
        check_gate(run)

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """The student, its training and the distillation."""
        return distillation_inputs(run)

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the weights and the metrics of the validation lists."""
        if run.config.lists.has_second_round:
            record = self._second_round(run, draft)
        else:
            files = run.score_files("score")
            record = run.trainer.distil(
                draft.path,
                files,
                run.soft_targets,
                "Distilling",
                start=first_weights(run),
                assistant=run.assistant_model,
            )
        part = run.soft_targets_part.model_dump(mode="json")
        return {**record, "soft_targets": part}

    @staticmethod
    def _second_round(run: RunContext, draft: Draft) -> dict[str, Any]:
        """Trains the pilot student further; it is kept where it was better."""
        steps, pilot = run.config.student.steps, run.intact("pilot")
        record = run.trainer.distil(
            draft.path,
            run.score_files("closure"),
            run.soft_targets,
            "Distilling",
            steps=max(1, steps - first_steps(steps)),
            start=pilot.path,
            assistant=run.assistant_model,
        )
        before, after = pilot.record["valid"], record["valid"]
        if before > after:
            for name in pilot.record["sha256"]:
                (draft.path / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(pilot.path / name, draft.path / name)
            of_seeds = ("seed", "seeds")
            record |= {k: pilot.record[k] for k in of_seeds if k in pilot.record}
        added = run.artefacts["closure"].record["added"]
        second = {"before": before, "after": after, "added": added}
        return {**record, "valid": max(before, after), "second_round": second}

    def details(self, record: Mapping[str, Any]) -> Iterator[str]:
        """The assistant, and what the second round gained on validation."""
        # Records of versions without assistants do not have the key.
        assistant = record["soft_targets"].get("assistant")
        if assistant is not None:
            yield (
                f"learned also from an assistant of width {assistant['dim']}, which "
                f"has {assistant['valid']:.4f} on validation"
            )
        second = record.get("second_round")
        if second is not None:
            kept = "" if second["after"] >= second["before"] else "; the pilot is kept"
            yield (
                f"second round: validation {second['before']:.4f} before, "
                f"{second['after']:.4f} after{kept}"
            )
