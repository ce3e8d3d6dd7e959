"""The distillation receipt: the report of a run on one screen of the terminal.

Its first sentence says whether distillation helped; it claims an effect only if the
confidence interval excludes zero. It fits 80 columns and does not depend on colour.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.paired_tests import p_value_text
from recdistill.evaluation.report.run_report import (
    GuardPart,
    ModelName,
    ModelPart,
    ProtocolPart,
    Report,
    SeedsPart,
    Spread,
)
from recdistill.evaluation.report.terminal_tables import (
    BYTES,
    COUNTS,
    MISSING,
    WIDE,
    estimate_text,
    interval_text,
    metric_label,
    number_table,
    number_text,
    pair_table,
    short_number,
    soft_targets_line,
    teacher_line,
    unbroken_line,
)

HEADLINE_METRICS = ("ndcg@10", "recall@10", "mrr")
"""Metrics of the receipt, after the run's first one."""

MOST_METRICS = 3
"""Largest number of metrics in the receipt; the page and the report have all."""

_CANDIDATE_SETS = {
    "catalogue": "full catalogue",
    "listed": "candidates of each list",
}


def render(
    report: Report,
    *,
    artefacts: Mapping[str, str] | None = None,
    next_steps: Sequence[str] = (),
) -> RenderableType:
    """Receipt of a report, for `rich.console.Console.print`.

    Args:
        report: The report.
        artefacts: Paths of artefacts by name ("SavedModel", "report").
        next_steps: Commands to suggest.

    Returns:
        A renderable that fits the width it is printed in, from 80 columns. Paths and
        commands are never wrapped, so print it with `crop=False`.
    """
    parts = report.models.values()
    known = dict.fromkeys(name for part in parts for name in part.metrics)
    # The first metric decides; others fill in for headline metrics that are missing.
    order = [*list(known)[:1], *HEADLINE_METRICS, *known]
    shown = [name for name in dict.fromkeys(order) if name in known][:MOST_METRICS]
    return _Receipt(report, shown, artefacts or {}, next_steps)


def verdict(report: Report, metric: str) -> str:
    """One sentence on whether distillation helped by a metric.

    Args:
        report: The report.
        metric: Name of the metric, for example "ndcg@10".

    Returns:
        The sentence. It claims help or harm only if the interval of the difference
        between the distilled student and the baseline excludes 0. It also says whether
        the teacher is better than the baseline at all, how much faster the student is,
        and whether training diverged.
    """
    label = f"{metric_label(metric)}{_among(report)}"
    gap, gained = (
        report.differences.get(pair, {}).get(metric, Interval(None))
        for pair in ("teacher_minus_baseline", "distilled_minus_baseline")
    )
    if gained.value is None or gained.low is None:
        return f"This run cannot tell whether distillation improved {label}."
    effect = _effect(gained)
    if gap.high is not None and gap.high < 0:
        found = f"the teacher is worse than the baseline; distillation {effect}"
    elif gap.low is not None and not gap.excludes(0):
        found = (
            "teacher and baseline do not differ beyond noise, so there is nothing to "
            f"distil; distillation {effect}"
        )
    elif not gained.excludes(0) or gained.value < 0:
        found = f"distillation {effect}"
    else:
        found = f"distillation {_closed(report.gap_closed.get(metric))}"
    return f"By {label}, {found}{_fallen(report)}{_speed(report)}{_divergence(report)}."


def _among(report: Report) -> str:
    """The candidates that were ranked, if they are not the whole catalogue."""
    kind, number = kind_and_number(report.protocol.candidates)
    if kind == "sampled":
        items = report.dataset.items
        if number >= items:
            return f" among all {items:,} items"
        return f" among {number:,} sampled candidates"
    return f" after retrieval of {number:,} items" if kind == "retrieved" else ""


def kind_and_number(candidates: str) -> tuple[str, int]:
    """The kind of the protocol's candidates, and their number; 0 if it has none."""
    kind, _, number = candidates.partition(":")
    return kind, int(number or 0)


def _effect(gained: Interval) -> str:
    """The effect of distillation on the student."""
    if not gained.excludes(0):
        return "changed nothing beyond noise"
    if gained.value is not None and gained.value < 0:
        return "made the student worse than the baseline"
    return "made the student better than the baseline"


def _closed(closed: Interval | None) -> str:
    """The share of the gap that distillation closed."""
    if closed is None or closed.value is None:
        why = f": {closed.reason}" if closed is not None and closed.reason else ""
        return f"helped; the gap closed is not defined{why}"
    return f"closed {interval_text(closed, '.0%')} of the gap to the teacher"


def _fallen(report: Report) -> str:
    """Number of slices on which the student falls below the baseline."""
    if report.guard is None or not report.guard.fallen:
        return ""
    return (
        f"; the student falls below the baseline on {len(report.guard.fallen)} of "
        f"{len(report.guard.slices)} slices"
    )


def _speed(report: Report) -> str:
    """The speed-up for the largest number of candidates."""
    if not report.speedup:
        timed = any(part.latency_ms for part in report.models.values())
        whose = "the teacher's latency" if timed else "latency"
        return f"; {whose} was not measured"
    candidates, times = largest_speedup(report.speedup)
    return (
        f"; the student ranks {candidates} candidates {times} times as fast as the "
        "teacher"
    )


def largest_speedup(speedup: Mapping[str, float]) -> tuple[str, str]:
    """The largest number of candidates, and how many times as fast the student is.

    Args:
        speedup: Of the report; not empty.
    """
    candidates = max(speedup, key=int)
    times = speedup[candidates]
    return f"{int(candidates):,}", f"{times:,.0f}" if times >= 10 else f"{times:.2g}"


def _divergence(report: Report) -> str:
    """Learning rates with which the training of baseline or student diverged."""
    found = []
    for name in ("baseline", "distilled"):
        part = report.models.get(name)
        if part is not None and part.diverged:
            rates = " and ".join(f"{rate:g}" for rate in part.diverged)
            model = "the baseline" if name == "baseline" else "the student"
            found.append(f"training of {model} diverged with learning rate {rates}")
    return "".join(f"; {each}" for each in found)


def candidate_set(candidates: str, items: int | None = None) -> str:
    """The candidates of the protocol in words: "catalogue" is the "full catalogue".

    Args:
        candidates: As in the protocol.
        items: Number of items of the catalogue; None if unknown.
    """
    kind, number = kind_and_number(candidates)
    if kind == "sampled":
        if items is not None and number >= items:
            return f"sampled candidates, which are all {items:,} items"
        return f"{number:,} sampled candidates, not the full catalogue"
    if kind == "retrieved":
        return f"the top {number:,} of each retriever, not the full catalogue"
    return _CANDIDATE_SETS[kind]


@dataclass(frozen=True)
class _Receipt:
    report: Report
    metrics: list[str]
    artefacts: Mapping[str, str]
    next_steps: Sequence[str]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        wide = options.max_width >= WIDE
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
        if self.report.guard is not None and self.report.guard.fallen:
            yield from _guard_table(self.report.guard, wide)
            yield Text()
        yield pair_table(_facts(self.report))
        if self.artefacts:
            yield Text()
            width = max(map(len, self.artefacts))
            for name, path in self.artefacts.items():
                yield unbroken_line((f"{name:<{width}}  ", "dim"), path)
        if self.next_steps:
            yield Text("\nNext", style="bold")
            for step in self.next_steps:
                yield unbroken_line((f"  {step}", "cyan"))


def _protocol(report: Report) -> str:
    protocol = report.protocol
    lists = f"{report.dataset.name}, {protocol.split}: {evaluated_lists(protocol)}"
    if protocol.unreachable:
        lists += (
            f" ({protocol.unreachable:,} without a positive in the catalogue count 0)"
        )
    seen = f"seen items {protocol.seen}d"
    if protocol.repeats_left_out:
        seen += f" ({protocol.repeats_left_out:,} repeats left out)"
    ranked = (
        candidate_set(protocol.candidates, report.dataset.items),
        seen,
        f"{protocol.confidence:.0%} intervals over queries",
    )
    found = f"\n{retrieval_line(report)}".rstrip()
    return f"{lists}\n{' · '.join(ranked)}{found}"


def evaluated_lists(protocol: ProtocolPart) -> str:
    """The number of evaluated lists, and of how many they are a sample."""
    if protocol.sampled_from is None:
        return f"{protocol.lists:,} list{'s' * (protocol.lists != 1)}"
    return f"a sample of {protocol.lists:,} of {protocol.sampled_from:,} lists"


def retrieval_line(report: Report) -> str:
    """The recall of the retrieval in one sentence; "" without retrieval."""
    part = report.retrieval
    if part is None or not part.recall:
        return ""
    depth, share = list(part.recall.items())[-1]
    text = MISSING if share.value is None else f"{share.value:.1%}"
    return (
        f"The retrievers' first {depth} items hold {text} of the positives; "
        "all models miss the others."
    )


def _models_table(report: Report, metrics: Sequence[str], wide: bool) -> Table:
    timed = {n for part in report.models.values() for n in part.latency_ms}
    # The fewest candidates and the most.
    sizes = sorted({min(timed, key=int), max(timed, key=int)}, key=int) if timed else []
    costs = ["para-\nmeters", "size", *(f"ms for\n{int(n):,}" for n in sizes)]
    table = number_table(["", *map(metric_label, metrics), *costs], wide)
    for name in get_args(ModelName):
        part = report.models.get(name)
        if part is not None:
            cells = [_mean(part.metrics.get(metric), wide) for metric in metrics]
            style = "bold" if name == "distilled" else ""
            table.add_row(Text(name, style=style), *cells, *_costs(part, sizes))
    return table


def _costs(part: ModelPart, sizes: Sequence[str]) -> list[str]:
    latencies = [part.latency_ms.get(n) for n in sizes]
    return [
        short_number(part.parameters, COUNTS),
        short_number(part.size_bytes, BYTES),
        *(MISSING if one is None else number_text(one.p50) for one in latencies),
    ]


def _effect_table(report: Report, metrics: Sequence[str], wide: bool) -> Table:
    headings = [
        "",
        "gap closed",
        "share of\nteacher kept",
        "teacher\n- baseline",
        "distilled\n- baseline",
    ]
    table = number_table(headings, wide)
    gap = report.differences.get("teacher_minus_baseline", {})
    gained = report.differences.get("distilled_minus_baseline", {})
    for metric in metrics:
        table.add_row(
            metric_label(metric),
            estimate_text(report.gap_closed.get(metric), ".0%", wide),
            estimate_text(report.kept.get(metric), ".0%", wide),
            estimate_text(gap.get(metric), "+.3f", wide),
            estimate_text(gained.get(metric), "+.3f", wide),
        )
    return table


def _guard_table(guard: GuardPart, wide: bool) -> Iterator[RenderableType]:
    """The slices on which the student has fallen below the baseline."""
    yield Text(
        f"Below the baseline by more than {guard.largest_fall:.0%}, beyond noise",
        style="bold red",
    )
    headings = ["slice", "lists", "baseline", "distilled", "difference", "change", "p"]
    title = f"{metric_label(guard.metric)} by slice"
    table = number_table([title, *headings[1:]], wide)
    for each in guard.fallen:
        table.add_row(
            Text(f"{each.kind}: {each.name}"),
            f"{each.lists:,}",
            MISSING if each.baseline is None else f"{each.baseline:.3f}",
            MISSING if each.distilled is None else f"{each.distilled:.3f}",
            estimate_text(each.difference, "+.3f", wide),
            MISSING if each.change is None else f"{each.change:+.0%}",
            p_value_text(each.adjusted_p).removeprefix("= "),
        )
    yield table


def seeds_line(part: SeedsPart, metric: str) -> str:
    """Mean and standard deviation over seeds in one line.

    Args:
        part: The report's part.
        metric: The metric.
    """

    def shown(spread: Spread, form: str) -> str:
        deviation = spread.deviation
        return f"{spread.mean:{form}}" + (
            "" if deviation is None else f" ± {deviation:{form}}"
        )

    found = [
        f"{model} {shown(metrics[metric], '.4f')}"
        for model, metrics in part.models.items()
        if metric in metrics
    ]
    if metric in part.gap_closed:
        found.append(f"gap closed {shown(part.gap_closed[metric], '.0%')}")
    number = len(part.seeds)
    return (
        f"{metric_label(metric)}, mean ± standard deviation over {number} seeds: "
        + ", ".join(found)
    )


def _guard_fact(guard: GuardPart) -> str:
    """Result of the guard in a sentence."""
    fallen, every = len(guard.fallen), len(guard.slices)
    return (
        f"{fallen or 'none'} of {every} slice{'s' * (every != 1)} of the test lists "
        f"{'are' if fallen > 1 else 'is'} more than {guard.largest_fall:.0%} below the "
        "baseline beyond noise"
    )


def _facts(report: Report) -> dict[str, str]:
    # Imports TensorFlow, which the other functions here do not need.
    from recdistill.features.unknown_values import in_words

    facts = {
        f"Gap, {metric_label(metric)}": note
        for metric, closed in report.gap_closed.items()
        if (note := _gap_note(closed))
    }
    if report.seeds is not None:
        facts["Seeds"] = seeds_line(report.seeds, next(iter(report.gap_closed)))
    if report.speedup:
        facts["Speed"] = "relative to the teacher: " + ", ".join(
            f"{number_text(times)} times at {int(candidates):,} candidates"
            for candidates, times in report.speedup.items()
        )
    unknown = [
        f"{part} {shares}"
        for part in ("test", "items", "teacher")
        if (shares := in_words(report.dataset.unknown.get(part, {})))
    ]
    if report.dataset.uncounted:
        inputs = ", ".join(report.dataset.uncounted)
        unknown.append(f"teacher {inputs}: not known (no vocabulary declared)")
    if unknown:
        facts["Unknown values"] = " · ".join(unknown)
    facts |= {
        name: text
        for name, text in {
            "New items": _new_items(report),
            "Agreement": _agreement(report),
            "Beyond accuracy": _beyond_accuracy(report),
        }.items()
        if text
    }
    if report.teacher is not None:
        facts["Teacher"] = teacher_line(report.teacher.model_dump())
    if report.soft_targets is not None:
        facts["Soft targets"] = soft_targets_line(report.soft_targets.model_dump())
    if report.gate is not None:
        state = "passed" if report.gate.passed else "not passed"
        overridden = ", overridden" if report.gate.overridden else ""
        facts["Gate"] = f"{state}{overridden}: {report.gate.message}"
    if report.guard is not None and report.guard.slices:
        facts["Guard"] = _guard_fact(report.guard)
    return facts


def _agreement(report: Report) -> str:
    """Agreement of the distilled student with the teacher."""
    return " · ".join(
        f"{name.replace('_', ' ')} {interval.value:.2f}"
        for name, interval in report.agreement.items()
        if interval.value is not None
    )


def _beyond_accuracy(report: Report) -> str:
    """Coverage, novelty and so on of the distilled student, and of the teacher."""
    student, teacher = (report.models.get(n) for n in ("distilled", "teacher"))
    found = []
    for name, one in (student.beyond_accuracy if student else {}).items():
        best = teacher.beyond_accuracy.get(name) if teacher else None
        if one.value is not None and best is not None and best.value is not None:
            values = number_text(one.value), number_text(best.value)
            found.append(f"{name} {values[0]} (teacher {values[1]})")
    return " · ".join(found)


def _new_items(report: Report) -> str | None:
    """Quality on the lists whose relevant item has no training interactions."""
    values, lists, metric = {}, 0, ""
    for name in get_args(ModelName):
        part = report.models.get(name)
        new = part and part.slices.get("item", {}).get("new")
        if new:
            lists, (metric, interval) = new.lists, next(iter(new.metrics.items()))
            if interval.value is not None:
                values[name] = f"{name} {interval.value:.3f}"
    if not values:
        return None
    return (
        f"{metric_label(metric)} of the {lists:,} list{'s' * (lists != 1)} whose item "
        f"has no training interactions: {', '.join(values.values())}"
    )


def _gap_note(closed: Interval) -> str | None:
    """Explanation of a gap closed without an interval, undefined or above 100 %."""
    if closed.value is None:
        return f"not defined: {closed.reason}"
    if closed.low is None:
        return f"no interval: {closed.reason}"
    if closed.value <= 1 or closed.excludes(1):
        return None
    return "a gap closed above 100 % is within noise here: the interval includes 100 %"


def _mean(interval: Interval | None, wide: bool) -> Text:
    """Mean with its interval, or with half the interval's width if space is short."""
    if wide or interval is None or interval.low is None or interval.high is None:
        return estimate_text(interval, ".3f", wide)
    half = f"{(interval.high - interval.low) / 2:.3f}".removeprefix("0")
    return Text.assemble(f"{interval.value:.3f} ", (f"±{half}", "dim"))
