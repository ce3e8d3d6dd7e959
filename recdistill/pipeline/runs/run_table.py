"""The runs of a folder as a table for the terminal, and as a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.report.receipt import candidate_set, verdict
from recdistill.evaluation.report.run_report import Report
from recdistill.evaluation.report.terminal_tables import (
    MISSING,
    interval_text,
    metric_label,
    number_table,
)
from recdistill.pipeline.runs.finished_runs import RunState

MODELS = ("baseline", "distilled", "teacher")


def render_runs(runs: Sequence[RunState], *, wide: bool = True) -> Table:
    """Table with one line for each run.

    Args:
        runs: The runs.
        wide: Whether there is space for the data and the teacher, about 150 columns.
    """
    metrics = {_metric(run.report) for run in runs if run.report is not None}
    shared = metrics.pop() if len(metrics) == 1 else None
    title = None if wide or shared is None else f"{shared} of each model"
    table = number_table(["run", "date (UTC)", "gap closed", *MODELS], wide, title)
    for heading in ("metric", "data", "teacher's kind") if wide else ():
        table.add_column(heading, no_wrap=True)
    table.add_column("state", no_wrap=True)
    for run in runs:
        when = f"{run.changed:%Y-%m-%d %H:%M}" if wide else f"{run.changed:%Y-%m-%d}"
        table.add_row(Text(run.name), when, *_cells(run, wide), run.state)
    return table


def _cells(run: RunState, wide: bool) -> list[str | Text]:
    """The cells of a run between its date and its state."""
    if run.report is None:
        return [MISSING] * (len(MODELS) + (4 if wide else 1))
    metric = first_metric(run.report)
    results = [
        _gap_closed(run.report, metric),
        *(_value(run.report, model, metric) for model in MODELS),
    ]
    if not wide:
        return list(results)
    described = (_metric(run.report), run.report.dataset.name, run.teacher or MISSING)
    return [*results, *map(Text, described)]


def runs_json(runs: Sequence[RunState]) -> list[dict[str, Any]]:
    """The runs as a JSON document."""
    return [
        {
            "name": run.name,
            "folder": str(run.folder),
            "changed": run.changed.isoformat(timespec="seconds"),
            "state": run.state,
            **({} if run.report is None else _results(run, run.report)),
        }
        for run in runs
    ]


def first_metric(report: Report) -> str | None:
    """The first metric of a report, by which checkpoints were chosen."""
    part = next(iter(report.models.values()), None)
    return None if part is None else next(iter(part.metrics), None)


def _results(run: RunState, report: Report) -> dict[str, Any]:
    metric = first_metric(report)
    closed = None if metric is None else report.gap_closed.get(metric)
    return {
        "data": report.dataset.name,
        "teacher": run.teacher,
        "candidates": report.protocol.candidates,
        "metric": metric,
        "values": {
            name: None if (one := part.metrics.get(str(metric))) is None else one.value
            for name, part in report.models.items()
        },
        "gap_closed": None if closed is None else closed.value,
        "verdict": None if metric is None else verdict(report, metric),
    }


def _metric(report: Report) -> str:
    """The first metric, with its candidates unless they are the whole catalogue."""
    metric = first_metric(report)
    if metric is None:
        return MISSING
    if report.protocol.candidates == "catalogue":
        return metric_label(metric)
    candidates = candidate_set(report.protocol.candidates, report.dataset.items)
    return f"{metric_label(metric)}, {candidates}"


def _gap_closed(report: Report, metric: str | None) -> str:
    closed = report.gap_closed.get(str(metric), Interval(None))
    gap = report.differences.get("teacher_minus_baseline", {}).get(str(metric))
    if closed.value is None:
        return MISSING if gap is None or gap.low is None else "no gap"
    return interval_text(closed, ".0%")


def _value(report: Report, model: Any, metric: str | None) -> str:
    part = report.models.get(model)
    one = part and part.metrics.get(str(metric))
    return MISSING if not one or one.value is None else f"{one.value:.4f}"
