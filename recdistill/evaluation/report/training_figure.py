"""The figure of the training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recdistill.evaluation.report import page_charts as charts
from recdistill.evaluation.report.figure import Figure, Table, cell, figure_of
from recdistill.evaluation.report.page_details import TrainingRun
from recdistill.evaluation.report.run_report import Report
from recdistill.evaluation.report.terminal_tables import metric_label

_LOSSES = {
    "loss": "total loss",
    "relevance_loss": "relevance loss",
    "distillation_loss": "distillation loss",
}


def training_figure(
    report: Report, training: Mapping[str, Sequence[TrainingRun]]
) -> Figure | None:
    """The training curves of all models; None if none was trained.

    Args:
        report: The report.
        training: The training runs of each model, the one that was kept first.
    """
    runs = [(name, run) for name, each in training.items() for run in each]
    if not runs:
        return None
    metrics = [m for part in report.models.values() for m in part.metrics]
    label = metric_label(metrics[0]) if metrics else "Metric"
    chosen = {name: each[0] for name, each in training.items() if each}
    panels = [_validation_panel(label, training)]
    students = {n: run for n, run in chosen.items() if n != "teacher"}
    panels += [
        _loss_panel(f"Loss of the {_MODEL.get(name, name)}", name, run)
        for name, run in students.items()
        if run.curve.get("step")
    ]
    for title, quantity in (
        ("Gradient norm", "gradient_norm"),
        ("Learning rate", "learning_rate"),
    ):
        drawn = [
            charts.Line(
                name.capitalize(),
                charts.colour_of(name),
                _steps(run),
                run.curve[quantity],
            )
            for name, run in chosen.items()
            if quantity in run.curve and _has_values(run.curve[quantity])
        ]
        if drawn:
            panels.append(charts.lines(title, drawn, x_label="training step"))
    words = "; ".join(
        f"{name}: best {label} {run.best:.4f} on validation"
        for name, run in chosen.items()
        if run.best > -float("inf")
    )
    return figure_of(panels, f"Training curves. {words}.", _training_table(runs, label))


_MODEL = {"distilled": "distilled student", "baseline": "baseline"}


def _steps(run: TrainingRun) -> list[float]:
    return [float(step or 0) for step in run.curve["step"]]


def _has_values(values: Sequence[float | None]) -> bool:
    return any(value is not None for value in values)


def _validation_panel(label: str, training: Mapping[str, Sequence[TrainingRun]]) -> str:
    drawn = []
    for name, each in training.items():
        for place, run in enumerate(each):
            steps = [run.epoch_steps * n for n in range(1, len(run.validation) + 1)]
            if not _has_values(run.validation):
                continue
            best = run.validation.index(run.best)
            strong = place == 0
            drawn.append(
                charts.Line(
                    name.capitalize() if strong else None,
                    charts.colour_of(name),
                    steps,
                    run.validation,
                    strong=strong,
                    mark=steps[best] if strong else None,
                )
            )
    return charts.lines(
        f"{label} on validation; dots: weights kept", drawn, x_label="training step"
    )


def _loss_panel(title: str, name: str, run: TrainingRun) -> str:
    colours = (charts.colour_of(name), charts.SOFT, charts.colour_of("teacher"))
    drawn = [
        charts.Line(words, colour, _steps(run), run.curve[key], dashed=key != "loss")
        for (key, words), colour in zip(_LOSSES.items(), colours, strict=True)
        if key in run.curve and _has_values(run.curve[key])
    ]
    if len(drawn) == 2 and drawn[0].y == drawn[1].y:
        drawn = drawn[:1]  # relevance is all of the loss
    return charts.lines(title, drawn, x_label="training step")


def _training_table(runs: Sequence[tuple[str, TrainingRun]], label: str) -> Table:
    shown = {**_LOSSES, "gradient_norm": "gradient norm", "learning_rate": "rate"}
    rows = []
    for name, run in runs:
        metric = {
            run.epoch_steps * n: value for n, value in enumerate(run.validation, 1)
        }
        for place, step in enumerate(run.curve.get("step", ())):
            cells = [
                cell(run.curve[key][place] if key in run.curve else None)
                for key in shown
            ]
            value = metric.get(int(step or 0))
            rows.append([f"{name}, {run.name}", f"{step:,.0f}", *cells, cell(value)])
    return Table(["model", "step", *shown.values(), f"{label} on validation"], rows)
