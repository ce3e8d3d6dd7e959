"""Figures of the report page: charts with alternative text and a table of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.latency.stopwatch import QUANTILES
from recdistill.evaluation.report import page_charts as charts
from recdistill.evaluation.report.figure import Figure, Table, figure_of
from recdistill.evaluation.report.page_details import PageDetails
from recdistill.evaluation.report.run_report import ModelPart, Report
from recdistill.evaluation.report.student_choice import Cost, pareto_places
from recdistill.evaluation.report.terminal_tables import (
    MISSING,
    interval_text,
    metric_label,
    number_text,
)
from recdistill.evaluation.report.training_figure import training_figure
from recdistill.evaluation.rows import cut_off


def figures(report: Report, details: PageDetails) -> dict[str, Figure]:
    """The figures whose numbers exist, by name.

    Args:
        report: The report.
        details: Further content of the page.
    """
    made = {
        "quality": _quality(report),
        "tradeoff": _tradeoff(report, details.variants),
        "slices": _slices(report),
        "survival": _survival(report),
        "retrieval": _retrieval(report),
        "latency": _latency(report),
        "training": training_figure(report, details.training),
        "scores": _scores(report, details.examination),
    }
    return {name: one for name, one in made.items() if one is not None}


def _quality(report: Report) -> Figure | None:
    metrics = list(next(iter(report.models.values())).metrics) if report.models else []
    panels: dict[str, dict[str, Interval]] = {
        metric: {
            name: part.metrics[metric]
            for name, part in report.models.items()
            if metric in part.metrics
        }
        for metric in metrics
    }
    if not panels:
        return None
    words = "; ".join(
        f"{metric_label(metric)}: "
        + ", ".join(f"{name} {interval_text(one)}" for name, one in panel.items())
        for metric, panel in list(panels.items())[:1]
    )
    return figure_of(
        [charts.dots(metric_label(metric), panel) for metric, panel in panels.items()],
        f"Metrics of all models with confidence intervals. {words}. The table below "
        "has all numbers.",
    )


def _points(
    report: Report, variants: Mapping[str, ModelPart]
) -> Iterator[charts.Point]:
    """Models with a latency for the largest number of candidates, students first."""
    metric = next(iter(report.models["distilled"].metrics))
    own = report.models["distilled"]
    size = max(own.latency_ms, key=int, default="")

    def median(part: ModelPart) -> float | None:
        return part.latency_ms[size].p50 if size in part.latency_ms else None

    students = {"Student": own}
    students |= {f"{n}": other for n, other in enumerate(variants.values(), 1)}
    for label, part in students.items():
        latency, one = median(part), part.metrics.get(metric)
        if latency is not None and one is not None and one.value is not None:
            colour = charts.colour_of("distilled")
            yield charts.Point(label, colour, latency, one, strong=part is own)
    # The baseline has the towers of the student, so it takes the same time.
    for name, of in (("baseline", own), ("teacher", report.models["teacher"])):
        one = report.models[name].metrics[metric]  # type: ignore[index]
        latency = median(of)
        if latency is not None and one.value is not None:
            yield charts.Point(name.capitalize(), charts.colour_of(name), latency, one)


def _tradeoff(report: Report, variants: Mapping[str, ModelPart]) -> Figure | None:
    if {"baseline", "distilled", "teacher"} - report.models.keys():
        return None
    metric = next(iter(report.models["distilled"].metrics), None)
    points = list(_points(report, variants)) if metric else []
    if metric is None or not points:
        return None
    students = [p for p in points if p.label not in ("Baseline", "Teacher")]
    costs = [Cost(p.quality.value or 0.0, p.latency, 0.0) for p in students]
    front = [students[place] for place in pareto_places(costs)]
    floors: dict[str, Interval] = {
        name: part.metrics[metric]
        for name, part in report.models.items()
        if name == "popularity" or (name == "teacher" and not part.latency_ms)
    }
    label = metric_label(metric)
    settings = {f"{n}": f"{n}: {name}" for n, name in enumerate(variants, 1)}
    settings["Baseline"] = "Baseline, with the student's latency"
    words = "; ".join(
        f"{settings.get(p.label, p.label)}: {label} {interval_text(p.quality)} at "
        f"{number_text(p.latency)} ms"
        for p in points
    )
    rows = [
        [
            settings.get(p.label, p.label),
            interval_text(p.quality),
            number_text(p.latency),
            "yes" if p in front and variants else MISSING,
        ]
        for p in points
    ]
    rows += [
        [name, interval_text(one), MISSING, MISSING] for name, one in floors.items()
    ]
    return figure_of(
        [charts.tradeoff(points, front, floors, label)],
        f"Quality against latency. {words}.",
        Table(["model", label, "median in ms", "on the Pareto front"], rows),
    )


def _slices(report: Report) -> Figure | None:
    panels = {
        kind: {
            name: next(iter(some.metrics.values()))
            for name, some in slices.items()
            if some.metrics
        }
        for kind, slices in report.slice_differences.items()
    }
    if not any(panels.values()):
        return None
    sure = report.guard.beyond_noise if report.guard is not None else set()
    lost = [
        f"{kind} {name}"
        for kind, panel in panels.items()
        for name, one in panel.items()
        if (kind, name) in sure and (one.value or 0) < 0
    ]
    words = "Difference between student and baseline on each slice of the test lists."
    if lost:
        words += f" The student is worse beyond noise on: {', '.join(lost)}."
    elif report.guard is not None:
        words += " The student is not worse beyond noise on any slice."
    return figure_of(
        [
            charts.forest(kind, panel, [n for n in panel if (kind, n) in sure])
            for kind, panel in panels.items()
            if panel
        ],
        words,
    )


def _survival(report: Report) -> Figure | None:
    found = {
        cut_off(name) or 0: one
        for name, one in report.agreement.items()
        if name.startswith("survival@") and one.value is not None
    }
    if len(found) < 2:
        return None
    at = sorted(found)
    ends = [
        [one.value if end is None else end for one, end in pairs]
        for pairs in (
            [(found[n], found[n].low) for n in at],
            [(found[n], found[n].high) for n in at],
        )
    ]
    line = charts.Line(
        None, charts.colour_of("distilled"), at, [found[n].value for n in at]
    )
    low, high = ([float(e or 0.0) for e in each] for each in ends)
    return figure_of(
        [
            charts.lines(
                "Teacher's top items in the student's first n",
                [line],
                x_label="n, candidates that the student passes on",
                percent=True,
                band=(at, low, high),
            )
        ],
        "Survival curve. "
        + ", ".join(f"at {n}: {found[n].value:.1%}" for n in at)
        + ".",
    )


def _retrieval(report: Report) -> Figure | None:
    """Survival curve of the positives; the table next to it has its numbers."""
    recall = report.retrieval.recall if report.retrieval is not None else {}
    if len(recall) < 2:
        return None
    at, shares = [int(n) for n in recall], list(recall.values())
    line = charts.Line(None, charts.colour_of("teacher"), at, [s.value for s in shares])
    low = [float(s.value or 0.0) if s.low is None else s.low for s in shares]
    high = [float(s.value or 0.0) if s.high is None else s.high for s in shares]
    return figure_of(
        [
            charts.lines(
                "Positives that survive the retrieval",
                [line],
                x_label="n, first items of each retriever",
                percent=True,
                band=(at, low, high),
            )
        ],
        "Survival curve of the positives. "
        + ", ".join(f"at {n}: {interval_text(s, '.1%')}" for n, s in recall.items())
        + ".",
    )


def _latency(report: Report) -> Figure | None:
    times = {
        name: part.latency_ms for name, part in report.models.items() if part.latency_ms
    }
    sizes = sorted({size for each in times.values() for size in each}, key=int)
    panels = []
    for size in sizes:
        drawn = [
            charts.Line(
                name.capitalize(),
                charts.colour_of(name),
                each[size].quantiles,
                [percent / 100 for percent in QUANTILES],
            )
            for name, each in times.items()
            if size in each and each[size].quantiles
        ]
        if drawn:
            panels.append(
                charts.lines(
                    f"Calls answered, {int(size):,} candidates",
                    drawn,
                    x_label="within milliseconds",
                    percent=True,
                    log_x=True,
                )
            )
    if not panels:
        return None
    words = "; ".join(
        f"{name}, {int(size):,} candidates: median {number_text(one.p50)} ms, 99th "
        f"percentile {number_text(one.p99)} ms"
        for name, each in times.items()
        for size, one in each.items()
    )
    rows = [
        [f"{name}, {int(size):,}", *map(number_text, one.quantiles[::2])]
        for name, each in times.items()
        for size, one in each.items()
        if one.quantiles
    ]
    headings = ["model, candidates", *(f"{percent} %" for percent in QUANTILES[::2])]
    return figure_of(
        panels,
        f"Distribution of the latency of a query. {words}.",
        Table(headings, rows),
    )


def _scores(report: Report, found: Mapping[str, Any] | None) -> Figure | None:
    histograms = (found or {}).get("histograms") or {}
    targets = report.soft_targets
    if found is None or targets is None or "none" not in histograms:
        return None
    after, divisor = histograms.get(targets.transform), targets.teacher_temperature
    before = histograms["none"]
    colour = charts.colour_of("teacher")
    title = f"After: {targets.transform}, divided by {divisor:g}"
    panels = []
    for words, one, scale in (
        ("Before: the teacher's scores", before, 1.0),
        (title, after, divisor),
    ):
        if one is not None and one["counts"]:
            panels.append(
                charts.histogram(
                    words,
                    one["low"] / scale,
                    one["high"] / scale,
                    one["counts"],
                    colour,
                )
            )
    curves = found["effective"]
    total = divisor * targets.temperature
    drawn = [
        charts.Line(
            words,
            line_colour,
            [float(t) for t in curves[name]],
            list(curves[name].values()),
            mark=mark,
        )
        for words, name, mark, line_colour in (
            ("before", "none", 1.0, charts.SOFT),
            ("after", targets.transform, total, charts.colour_of("distilled")),
        )
        if name in curves
    ]
    panels.append(
        charts.lines(
            "Effective number of candidates",
            drawn,
            x_label="temperature; dots: before and in this run",
            log_x=True,
            log_y=True,
        )
    )
    raw = curves["none"].get("1")
    words = (
        "Before: unknown" if raw is None else f"Before the transform {number_text(raw)}"
    )
    now = "unknown" if targets.effective is None else number_text(targets.effective)
    return figure_of(
        panels,
        "The teacher's scores before and after the transform. Effective number of "
        f"candidates: {words}, after it {now}, of {targets.list_size:,.0f}.",
        _score_table(before, after, divisor, curves, targets.transform),
    )


def _score_table(
    before: Mapping[str, Any],
    after: Mapping[str, Any] | None,
    divisor: float,
    curves: Mapping[str, Mapping[str, float]],
    transform: str,
) -> Table:
    rows = []
    for words, one, scale in (("before", before, 1.0), ("after", after, divisor)):
        total = max(1, sum(one["counts"])) if one else 1
        for place, count in enumerate(one["counts"] if one else ()):
            width = (one["high"] - one["low"]) / len(one["counts"]) if one else 0.0
            low = (one["low"] if one else 0.0) + place * width
            ends = number_text(low / scale), number_text((low + width) / scale)
            rows.append(
                [
                    f"share of scores, {words}",
                    " to ".join(ends),
                    f"{count / total:.2%}",
                ]
            )
    for words, name in (("before", "none"), ("after", transform)):
        rows += [
            [
                f"effective candidates, {words}",
                f"temperature {temperature}",
                number_text(n),
            ]
            for temperature, n in curves.get(name, {}).items()
        ]
    return Table(["quantity", "at", "value"], rows)
