"""A comparison of models as tables for the terminal, and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from recdistill.evaluation.comparison import Comparison, ModelComparison
from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.paired_tests import (
    FEWEST_RESAMPLES,
    PairedTest,
    SliceTest,
    p_value_text,
)
from recdistill.evaluation.report.terminal_tables import (
    MISSING,
    WIDE,
    estimate_text,
    metric_label,
    number_table,
)

NOTE = (
    "Differences with their 95% bootstrap intervals over queries. p: permutation test "
    "over queries, corrected for all comparisons (Holm). d: mean difference of the "
    "queries divided by its standard deviation. Differences and p weight lists "
    "equally, wins and d queries, so their signs can differ. One training run of each "
    "model says nothing about the noise between training runs with other seeds."
)
"""What the columns are, and what the comparison cannot tell."""


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as a JSON document."""
    return {
        "schema_version": 1,
        "lists": comparison.lists,
        "queries": comparison.queries,
        "resamples": comparison.resamples,
        "slice_resamples": min(comparison.resamples, FEWEST_RESAMPLES),
        "test": "paired permutation test over queries",
        "correction": "Holm",
        "comparisons": [
            {
                "reference": pair.reference,
                "other": pair.other,
                "verdict": pair.verdict,
                "metrics": {name: _test(test) for name, test in pair.metrics.items()},
                "slices": [
                    {"kind": each.kind, "name": each.name, **_test(each.test)}
                    for each in pair.slices
                ],
                "changes": [vars(each) for each in pair.changes],
            }
            for pair in comparison.pairs
        ],
    }


def _test(test: PairedTest) -> dict[str, Any]:
    return {
        "reference": test.reference.to_json(),
        "other": test.other.to_json(),
        "difference": test.difference.to_json(),
        "relative": test.relative,
        "p_value": test.p_value,
        "adjusted_p": test.adjusted_p,
        "significant": test.is_significant,
        "effect_size": test.effect_size,
        "wins": test.wins,
        "ties": test.ties,
        "losses": test.losses,
        "lists": test.lists,
        "queries": test.queries,
    }


def render_comparison(
    comparison: Comparison, facts: Mapping[str, str]
) -> RenderableType:
    """The comparison for `rich.console.Console.print`, from 80 columns.

    Args:
        comparison: The comparison.
        facts: What was compared, by name: data, protocol, runs.
    """
    return _Tables(comparison, facts)


class _Tables:
    def __init__(self, comparison: Comparison, facts: Mapping[str, str]) -> None:
        self._comparison, self._facts = comparison, facts

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        wide = options.max_width >= WIDE
        yield Text("Comparison", style="bold")
        for name, value in self._facts.items():
            yield Text(f"{name}: {value}", style="dim")
        for pair in self._comparison.pairs:
            yield Text()
            yield Group(*_pair(pair, wide))
        yield Text()
        yield Text(NOTE, style="dim")


def _pair(pair: ModelComparison, wide: bool) -> Iterator[RenderableType]:
    yield Text(pair.verdict, style="bold")
    yield Text()
    table = _table("", wide)
    for name, test in pair.metrics.items():
        table.add_row(metric_label(name), *_cells(test, wide))
    yield table
    if not pair.slices:
        return
    changed = [each for each in pair.slices if each.test.is_significant]
    others = len(pair.slices) - len(changed)
    metric = metric_label(next(iter(pair.metrics)))
    yield Text()
    if changed:
        table = _table(f"{metric} by slice", wide)
        for each in changed:
            table.add_row(_short(slice_label(each), wide), *_cells(each.test, wide))
        yield table
        yield Text()
    if others:
        yield Text(
            f"Slices on which {metric} does not differ beyond noise: {others}.",
            style="dim",
        )


def _table(first: str, wide: bool) -> Table:
    headings = ["reference", "other", "difference", "p", "wins/ties/\nlosses", "d"]
    return number_table([first, *headings], wide)


def _cells(test: PairedTest, wide: bool) -> list[Text]:
    style = ""
    if test.is_significant and test.difference.value is not None:
        style = "green" if test.difference.value > 0 else "red"
    return [
        Text(_mean(test.reference)),
        Text(_mean(test.other)),
        estimate_text(test.difference, "+.4f", wide),
        Text(p_value_text(test.adjusted_p).removeprefix("= "), style=style),
        Text(f"{test.wins}/{test.ties}/{test.losses}"),
        Text(MISSING if test.effect_size is None else f"{test.effect_size:+.2f}"),
    ]


def _mean(one: Interval) -> str:
    return MISSING if one.value is None else f"{one.value:.4f}"


def _short(label: str, wide: bool) -> Text:
    """A label that leaves space for the numbers."""
    text = Text(label)
    text.truncate(40 if wide else 18, overflow="ellipsis")
    return text


def slice_label(each: SliceTest) -> str:
    """Display name of a slice: "item: tail"."""
    return f"{each.kind}: {each.name}"
