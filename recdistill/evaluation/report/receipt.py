"""The distillation receipt: a report on one screen of the terminal.

It says first what a reader came for, whether distillation helped, and says so only
where the interval allows. It fits 80 columns and reads as well without colour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import (
    Console,
    ConsoleOptions,
    Group,
    RenderableType,
    RenderResult,
)
from rich.table import Table
from rich.text import Text

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.report.run_report import ModelName, ModelPart, Report

if TYPE_CHECKING:
    from recdistill.distillation.score_doctor import Examination

HEADLINE_METRICS = ("ndcg@10", "recall@10", "mrr")

_LABELS: dict[ModelName, str] = {
    "popularity": "popularity",
    "baseline": "baseline",
    "distilled": "distilled",
    "teacher": "teacher",
}
_CANDIDATES = ("100", "1000")
_WIDE = 110  # columns from which whole intervals stand beside their values
_MISSING = "-"


def render(
    report: Report,
    *,
    artefacts: Mapping[str, str] | None = None,
    next_steps: Sequence[str] = (),
    metrics: Sequence[str] = HEADLINE_METRICS,
) -> RenderableType:
    """Make the receipt of a report, for `rich.console.Console.print`.

    Args:
        report: What is shown.
        artefacts: Where things lie, by what they are ("SavedModel", "report").
        next_steps: Commands to type next.
        metrics: The metrics shown; those that the report lacks are left out.

    Returns:
        A renderable that fits the width it is printed in, from 80 columns; only paths
        and commands are as long as they are. Print it with `crop=False`.
    """
    judged = report.models.values()
    shown = [name for name in metrics if any(name in part.metrics for part in judged)]
    return _Receipt(report, shown, dict(artefacts or {}), next_steps)


@dataclass(frozen=True)
class _Receipt:
    report: Report
    metrics: list[str]
    artefacts: dict[str, str] = field(default_factory=dict)
    next_steps: Sequence[str] = ()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        wide = options.max_width >= _WIDE
        yield Text.assemble(("Distillation receipt", "bold"), f" · {self.report.name}")
        yield Text(_protocol(self.report), style="dim")
        yield Text()
        for metric in self.metrics[:1]:
            yield Text(verdict(self.report, metric), style="bold")
        yield Text()
        yield _models_table(self.report, self.metrics, wide)
        yield Text()
        if self.report.gap_closed or self.report.differences:
            yield _effect_table(self.report, self.metrics, wide)
            yield Text()
        yield _facts(self.report)
        if self.artefacts:
            yield Text()
            width = max(map(len, self.artefacts))
            for name, path in self.artefacts.items():
                yield _whole((f"{name:<{width}}  ", "dim"), path)
        if self.next_steps:
            yield Text("\nNext", style="bold")
            for step in self.next_steps:
                yield _whole((f"  {step}", "cyan"))


def render_examination(
    found: "Examination", soft_targets: Mapping[str, Any] | None = None
) -> RenderableType:
    """Make the score doctor's sheet, for `rich.console.Console.print`.

    Args:
        found: What the doctor found.
        soft_targets: What the run does, as `SoftTargetsPart` says it; None for none.

    Returns:
        A renderable that fits 80 columns.
    """
    ends = _MISSING if found.low is None else f"{found.low:.4g} to {found.high:.4g}"
    tied = f"{found.ties:.1%} of neighbours, {found.top_ties:.1%} in the top ten"
    at_rank = [f"{z:.3g} at rank {rank}" for rank, z in found.z_at_rank.items()]
    facts = {
        "Lists": f"{found.lists:,}, of {found.list_size:,.0f} candidates (median)",
        "Range": ends,
        "At the ends": f"{found.at_lowest:.1%} lowest, {found.at_highest:.1%} highest",
        "NaN, infinite": f"{found.not_finite:,}",
        "Constant lists": f"{found.constant:.1%}",
        "Ties": tied,
    }
    if found.deviations is not None and found.kurtosis is not None:
        low, middle, high = found.deviations
        facts["Deviation"] = f"{middle:.3g}, a tenth below {low:.3g}, above {high:.3g}"
        facts["z-scores"] = ", ".join(at_rank)
        facts["Kurtosis"] = f"{found.kurtosis:.3g} (normal 0, exponential 6)"
    parts: list[RenderableType] = [Text("Score doctor", style="bold"), _pairs(facts)]
    if found.effective:
        parts += [Text("\nCandidates that count, by temperature"), _curves(found)]
    for finding in found.findings:
        parts.append(Text.assemble(("\nFinding  ", "bold yellow"), finding))
    if found.proposal is not None:
        way = f"distill.scores={found.proposal.transform} distill.teacher_temperature=auto. "
        parts.append(
            Text.assemble(("\nProposal  ", "bold"), way, found.proposal.reason)
        )
    if soft_targets is not None:
        said = _soft_targets(soft_targets)
        parts.append(Text.assemble(("\nThis run  ", "bold"), said))
    return Group(*parts)


def _curves(found: "Examination") -> Table:
    shown = ("0.125", "0.25", "0.5", "1", "2", "4")
    table = _table(shown, wide=True)
    for name, curve in found.effective.items():
        table.add_row(name, *(f"{curve[temperature]:,.3g}" for temperature in shown))
    return table


def _soft_targets(part: Mapping[str, Any]) -> str:
    """What the student is shown, in one sentence; `part` is a `SoftTargetsPart`."""
    temperature, number = part["temperature"], part["effective"]
    softened = "" if temperature is None else f", temperature {temperature:g}"
    counted = (
        ""
        if number is None
        else (f": about {number:.3g} of {part['list_size']:,.0f} candidates count")
    )
    by = " (chosen by the doctor)" if part["chosen_by"] == "doctor" else ""
    return f"{part['transform']}{softened}{by}{counted}"


def verdict(report: Report, metric: str) -> str:
    """Whether distillation helped by this metric, in one sentence that can be defended.

    Args:
        report: What is judged.
        metric: A name such as "ndcg@10".

    Returns:
        The sentence. It claims help or harm only where the interval of the difference
        between the distilled student and the baseline excludes 0.
    """
    label = metric_label(metric)
    differences = report.differences.get("distilled_minus_baseline", {})
    gained = differences.get(metric)
    if gained is None or gained.value is None or gained.low is None:
        return f"Whether distillation helped by {label} cannot be told from this run."
    if not gained.excludes(0):
        return f"By {label}, distillation changed nothing beyond noise."
    if gained.value < 0:
        return f"By {label}, distillation made the student worse."
    closed = report.gap_closed.get(metric, Interval(None))
    if closed.value is None:
        why = f": {closed.reason}" if closed.reason else ""
        return f"By {label}, distillation helped; gap closed is not defined{why}."
    share = f"{closed.value:.0%} {_ends(closed, '.0%')}".rstrip()
    return f"By {label}, distillation closed {share} of the gap to the teacher."


def metric_label(name: str) -> str:
    """A metric's name as people write it: "ndcg@10" is NDCG@10, "hit@5" is Hit@5."""
    family, at, cutoff = name.partition("@")
    known = {"ndcg": "NDCG", "map": "MAP", "mrr": "MRR"}
    return known.get(family, family.capitalize()) + at + cutoff


def _protocol(report: Report) -> str:
    protocol = report.protocol
    lists = f"{report.dataset.name}, {protocol.split}: {protocol.lists:,} lists"
    if protocol.unreachable:
        lists += f" ({protocol.unreachable:,} of them unreachable, count 0)"
    sampled = protocol.candidates.removeprefix("sampled:")
    known = {"full": "full catalogue", "listed": "the candidates the teacher scored"}
    ranked = (
        known.get(sampled, f"{sampled} sampled candidates"),
        "seen items left out" if protocol.masked_seen else "seen items ranked too",
        f"{protocol.confidence:.0%} intervals over queries",
    )
    return f"{lists}\n{' · '.join(ranked)}"


def _table(headings: Sequence[str], wide: bool) -> Table:
    gap = (0, 1 if wide else 0, 0, 0)  # beside the column that the box itself adds
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=gap)
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, vertical="top")
    return table


def _models_table(report: Report, metrics: Sequence[str], wide: bool) -> Table:
    costs = ["para-\nmeters", "size", *(f"ms for\n{int(n):,}" for n in _CANDIDATES)]
    table = _table([*map(metric_label, metrics), *costs], wide)
    for name, label in _LABELS.items():
        part = report.models.get(name)
        if part is not None:
            cells = [_mean(part.metrics.get(metric), wide) for metric in metrics]
            style = "bold" if name == "distilled" else ""
            table.add_row(Text(label, style=style), *cells, *_costs(part))
    return table


def _costs(part: ModelPart) -> list[str]:
    latencies = [part.latency_ms.get(n) for n in _CANDIDATES]
    return [
        _short(part.parameters, 1000, ("", "k", "M", "G")),
        _short(part.size_bytes, 1000, (" B", " kB", " MB", " GB")),
        *(_MISSING if one is None else f"{one.p50:.3g}" for one in latencies),
    ]


def _effect_table(report: Report, metrics: Sequence[str], wide: bool) -> Table:
    headings = ["gap closed", "teacher kept", "teacher - alone", "distilled - alone"]
    table = _table(headings, wide)
    over_alone = report.differences.get("teacher_minus_baseline", {})
    gained = report.differences.get("distilled_minus_baseline", {})
    for metric in metrics:
        table.add_row(
            metric_label(metric),
            _estimate(report.gap_closed.get(metric), ".0%", wide),
            _estimate(report.kept.get(metric), ".0%", wide),
            _estimate(over_alone.get(metric), "+.3f", wide),
            _estimate(gained.get(metric), "+.3f", wide),
        )
    return table


def _facts(report: Report) -> Table:
    facts = {
        f"Gap, {metric_label(metric)}": f"not defined: {interval.reason}"
        for metric, interval in report.gap_closed.items()
        if interval.value is None
    }
    if report.speedup:
        facts["Speed"] = "relative to the teacher: " + ", ".join(
            f"{times:.3g} times at {int(candidates):,} candidates"
            for candidates, times in report.speedup.items()
        )
    agreed = [
        f"{name.replace('_', ' ')} {interval.value:.2f}"
        for name, interval in report.agreement.items()
        if interval.value is not None
    ]
    if agreed:
        facts["Agreement"] = " · ".join(agreed)
    if report.soft_targets is not None:
        facts["Soft targets"] = _soft_targets(report.soft_targets.model_dump())
    if report.gate is not None:
        state = "passed" if report.gate.passed else "not passed"
        overridden = ", overridden" if report.gate.overridden else ""
        facts["Gate"] = f"{state}{overridden}: {report.gate.message}"
    return _pairs(facts)


def _whole(*parts: str | tuple[str, str]) -> Text:
    """A line that is not broken, so that what it says can be copied."""
    return Text.assemble(*parts, no_wrap=True, overflow="ignore")


def _pairs(pairs: Mapping[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        grid.add_row(name, Text(value))
    return grid


def _mean(interval: Interval | None, wide: bool) -> Text:
    """A mean with its interval, or with half its width where space is short."""
    if wide or interval is None or interval.low is None or interval.high is None:
        return _estimate(interval, ".3f", wide)
    half = f"{(interval.high - interval.low) / 2:.3f}".removeprefix("0")
    return Text.assemble(f"{interval.value:.3f} ", (f"±{half}", "dim"))


def _estimate(interval: Interval | None, spec: str, wide: bool) -> Text:
    """A number with its whole interval, which goes below it where space is short.

    Half a width would not do here: whether a lopsided interval excludes 0 must show.
    """
    if interval is None or interval.value is None:
        return Text(_MISSING)
    ends = _ends(interval, spec)
    space = "" if not ends else " " if wide else "\n"
    return Text.assemble(format(interval.value, spec), space, (ends, "dim"))


def _ends(interval: Interval, spec: str) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"[{format(interval.low, spec)}, {format(interval.high, spec)}]"


def _short(number: int | None, step: int, units: Sequence[str]) -> str:
    if number is None:
        return _MISSING
    size = float(number)
    for unit in units[:-1]:
        if size < step:
            return f"{size:.3g}{unit}"
        size /= step
    return f"{size:.3g}{units[-1]}"
