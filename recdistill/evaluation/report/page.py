"""The report page (`report.html`): a run's report as one self-contained HTML file.

The page needs no network and no other file; its content security policy forbids both.
It follows the light or dark theme of the system, and can be printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, get_args

import jinja2
from markupsafe import Markup

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.latency.stopwatch import Latency
from recdistill.evaluation.report import page_charts
from recdistill.evaluation.report.receipt import candidate_set, verdict
from recdistill.evaluation.report.run_report import ModelName, Report
from recdistill.evaluation.report.terminal_tables import (
    BYTES,
    COUNTS,
    MISSING,
    metric_label,
    short_number,
    soft_targets_line,
)

MODELS: tuple[str, ...] = get_args(ModelName)


@dataclass(frozen=True)
class QueryExample:
    """One test query with its history and the first items of three models.

    Attributes:
        query: Id of the query.
        history: Items that the query interacted with before, the latest first.
        chosen: Items that the query chose next: the positives of the list.
        top: First items of "teacher", "distilled" and "baseline", the best first.
        overlap: Share of the teacher's first items that are in the student's.
    """

    query: str
    history: Sequence[str]
    chosen: Sequence[str]
    top: Mapping[str, Sequence[str]]
    overlap: float


@dataclass(frozen=True)
class PageDetails:
    """Content of the page that is not in `report.json`.

    Attributes:
        curves: Validation metric after each epoch, by model: one sequence for each
            learning rate tried, the chosen one first.
        examination: Result of the score doctor, in the form of
            `recdistill.distillation.Examination`; None if unknown.
        examples: Test queries to look at.
    """

    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    examination: Mapping[str, Any] | None = None
    examples: Sequence[QueryExample] = ()


def render_page(report: Report, details: PageDetails | None = None) -> str:
    """Renders the report page.

    Args:
        report: The report.
        details: Further content of the page.

    Returns:
        The HTML document.
    """
    details = details or PageDetails()
    parts = report.models.values()
    metrics = list(next(iter(parts)).metrics) if parts else []
    models = [name for name in MODELS if name in report.models]
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = resources.files("recdistill.evaluation.report")
    source = folder.joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report,
        details=details,
        models=models,
        metrics=metrics,
        verdict=verdict(report, metrics[0]) if metrics else "",
        charts=_charts(report, details, metrics),
        examples=Markup(_script_json([vars(each) for each in details.examples])),
        soft_targets=(
            soft_targets_line(report.soft_targets.model_dump())
            if report.soft_targets
            else None
        ),
        config=json.dumps(report.config, indent=2, ensure_ascii=False),
        MISSING=MISSING,
        label=metric_label,
        number=_number,
        percent=_percent,
        difference=_difference,
        count=lambda value: short_number(value, COUNTS),
        size=lambda value: short_number(value, BYTES),
        candidates=candidate_set(report.protocol.candidates),
        slice_metric=_slice_metric(report),
    )


def _charts(
    report: Report, details: PageDetails, metrics: Sequence[str]
) -> dict[str, Markup]:
    """The SVG of each chart whose numbers exist."""
    charts = {}
    if metrics:
        panels: dict[str, dict[str, Interval]] = {
            metric_label(metric): {
                name: part.metrics[metric]
                for name, part in report.models.items()
                if metric in part.metrics
            }
            for metric in metrics[:3]
        }
        charts["quality"] = page_charts.interval_chart(panels)
    latencies: dict[str, dict[str, Latency]] = {
        name: part.latency_ms for name, part in report.models.items() if part.latency_ms
    }
    if latencies:
        charts["latency"] = page_charts.latency_chart(latencies)
    survival = {n: one for n, one in _survival(report).items() if one.value is not None}
    if len(survival) > 1:
        charts["survival"] = page_charts.survival_chart(survival)
    slices = _slice_panels(report)
    if slices:
        charts["slices"] = page_charts.interval_chart(slices)
    if details.curves and metrics:
        label = metric_label(metrics[0])
        charts["training"] = page_charts.training_chart(details.curves, label)
    return {name: Markup(svg) for name, svg in charts.items()}


def _slice_metric(report: Report) -> str | None:
    """The metric of the slices: the first metric of the run."""
    for part in report.models.values():
        for slices in part.slices.values():
            for some in slices.values():
                return next(iter(some.metrics), None)
    return None


def _slice_panels(report: Report) -> dict[str, dict[str, Interval]]:
    """Estimates of each model, by kind and name of the slice."""
    panels: dict[str, dict[str, Interval]] = {}
    metric = _slice_metric(report)
    for name, part in report.models.items():
        for kind, slices in part.slices.items():
            for slice_name, some in slices.items():
                panel = panels.setdefault(f"{kind}: {slice_name}", {})
                panel[name] = some.metrics[str(metric)]
    return panels


def _survival(report: Report) -> dict[int, Interval]:
    """Survival by n, from the agreement of student and teacher."""
    return {
        int(name.partition("@")[2]): one
        for name, one in report.agreement.items()
        if name.startswith("survival@")
    }


def _number(one: Interval | None, spec: str = ".3f") -> str:
    if one is None or one.value is None:
        return MISSING
    text = format(one.value, spec)
    if one.low is None or one.high is None:
        return text
    return f"{text} [{format(one.low, spec)}, {format(one.high, spec)}]"


def _percent(one: Interval | None) -> str:
    return _number(one, ".0%")


def _difference(one: Interval | None) -> str:
    return _number(one, "+.3f")


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element around it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
