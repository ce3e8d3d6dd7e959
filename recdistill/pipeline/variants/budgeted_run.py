"""Run within a budget: the best student on validation whose SavedModel is within it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recdistill.errors import BudgetError
from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.config.budget import misses, parse_budget, quantity_text
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.variants.changed_settings import shown_settings, with_settings
from recdistill.pipeline.variants.student_sweep import MeasuredStudent, sweep


def run_to_export(
    pipeline: Pipeline, announce: Callable[[str], None] = lambda _: None
) -> tuple[Pipeline, Artefact]:
    """Exports the configured student, or with `export.budget` the best one within it.

    With a budget the students are those of a sweep, chosen on validation. The export of
    the chosen one is measured once more before it is published. If that measurement
    misses the budget, the next student is tried.

    Args:
        pipeline: The pipeline.
        announce: Called with a line about each student of a sweep.

    Returns:
        The pipeline of the exported student, and the artefact of the step `export`.

    Raises:
        BudgetError: If no student is within the budget; nothing is exported then.
        RecdistillError: As `Pipeline.run`.
    """
    budget = pipeline.config.export.budget
    if budget is None:
        return pipeline, pipeline.run()
    pipeline.require_export_folder()

    def say(student: MeasuredStudent) -> None:
        state = "misses" if misses(budget, student.measured) else "within"
        announce(f"{_figures(budget, student)}: {state} the budget")

    students = sweep(pipeline, say).students
    missed = []
    for student in best_within(students, budget):
        announce(f"exporting {shown_settings(student.settings)}")
        chosen = pipeline.of(with_settings(pipeline.config, student.settings))
        try:
            return chosen, chosen.run()
        except BudgetError as error:
            missed.append(f"{shown_settings(student.settings)}: {error}")
            announce(missed[-1])
    raise BudgetError(_why(budget, students, missed))


def best_within(
    students: Sequence[MeasuredStudent], budget: str
) -> list[MeasuredStudent]:
    """The students within a budget, the best on validation first.

    Of equally good ones the smallest is first.
    """
    within = [each for each in students if not misses(budget, each.measured)]
    return sorted(within, key=lambda each: (-each.cost.quality, each.cost.size))


def _figures(budget: str, student: MeasuredStudent) -> str:
    names = [limit.quantity for limit in parse_budget(budget)]
    figures = ", ".join(quantity_text(name, student.measured[name]) for name in names)
    value = f"validation {student.quality.value:.4f}"
    return f"{shown_settings(student.settings)}: {value}, {figures}"


def _why(budget: str, students: Sequence[MeasuredStudent], missed: list[str]) -> str:
    measured = "; ".join(_figures(budget, each) for each in students)
    again = f" Measured again before the export: {'; '.join(missed)}." if missed else ""
    return (
        f"No student is within the budget {budget} (`export.budget`). Measured on the "
        f"SavedModels of this machine: {measured}.{again} Nothing was exported. Raise "
        "the budget, measure on a machine without other work, or compare smaller "
        "students with `sweep.vary`."
    )
