"""The result of a check for drift: a table for the terminal, metrics for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.moved_means import FEWEST, Change
from recdistill.pipeline.runs.drift_check import Drift
from recdistill.serving.server.server_metrics import label_text

METRICS = {
    "recdistill_drift_distil_again": "1 if a number became worse beyond noise, else 0.",
    "recdistill_drift_lists": "Number of new lists that were scored.",
    "recdistill_drift_checked_seconds": "Time of the check, in seconds since 1970.",
    "recdistill_drift_mean": "Mean of a metric on the run's lists, or on the new ones.",
    "recdistill_drift_worse": "1 if a mean became worse beyond noise, else 0.",
}
"""Names and descriptions of the metrics."""


def as_textfile(drift: Drift, now: float | None = None) -> str:
    """The result in Prometheus's text format, for the textfile collector.

    Args:
        drift: The result.
        now: Time of the check in seconds since 1970; None for the current time.
    """
    own = {"model": drift.model, "version": str(drift.version)}
    values: dict[str, list[tuple[dict[str, str], float]]] = {
        "recdistill_drift_distil_again": [(own, float(bool(drift.worse)))],
        "recdistill_drift_lists": [(own, float(drift.lists))],
        "recdistill_drift_checked_seconds": [
            (own, time.time() if now is None else now)
        ],
        "recdistill_drift_mean": [],
        "recdistill_drift_worse": [],
    }
    for change in drift.changes:
        kind, name = change.part or ("", "")
        labels = {
            **own,
            "kind": change.kind,
            "metric": change.name,
            "slice": f"{kind} {name}".strip() or "all",
        }
        for data, interval in (("run", change.before), ("new", change.now)):
            if interval.value is not None:
                mean = {**labels, "data": data}, interval.value
                values["recdistill_drift_mean"].append(mean)
        values["recdistill_drift_worse"].append((labels, float(change.is_worse)))
    lines = []
    for name, samples in values.items():
        lines += [f"# HELP {name} {METRICS[name]}", f"# TYPE {name} gauge"]
        lines += [
            f"{name}{label_text(labels, labels.values())} {value!r}"
            for labels, value in samples
        ]
    return "\n".join(lines) + "\n"


def as_table(drift: Drift) -> Group:
    """The verdict, the means over all lists, and the slices that became worse."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "run", "new lists", "change", ""):
        table.add_column(name, overflow="fold")
    kind = ""
    for change in _shown(drift):
        if change.kind != kind:
            kind = change.kind
            table.add_row(Text(kind, style="bold"))
        where = f", {' '.join(change.part)}" if change.part else ""
        table.add_row(
            f"  {change.name}{where}",
            _interval(change.before),
            _interval(change.now),
            _difference(change),
            Text("worse", style="bold red") if change.is_worse else Text(),
        )
    compared = len([change for change in drift.changes if change.part])
    return Group(
        Text(f"Drift of {drift.model}, version {drift.version}", style="bold"),
        Text(f"{drift.lists:,} new lists of {drift.queries:,} queries"),
        Text(),
        table,
        Text(),
        Text(f"{compared} comparisons in slices; those that became worse are above."),
        _verdict(drift),
    )


def _shown(drift: Drift) -> Iterator[Change]:
    """Changes over all lists, and those of slices that became worse, by kind."""
    for kind in dict.fromkeys(change.kind for change in drift.changes):
        own = [change for change in drift.changes if change.kind == kind]
        yield from (change for change in own if change.part is None)
        yield from (change for change in own if change.part and change.is_worse)


def _verdict(drift: Drift) -> Text:
    counts = [change.queries for change in drift.changes if change.part is None]
    before, now = max(counts, key=min)
    if min(before, now) < FEWEST:
        return Text(
            f"At least {FEWEST} queries are needed to tell a change from noise. "
            f"Received: {before:,} of the run, {now:,} new ones.",
            style="yellow",
        )
    if not drift.worse:
        return Text("Nothing became worse beyond noise.", style="green")
    count = len(drift.worse)
    return Text(
        f"It is time to distil again: {count} number{'s' * (count > 1)} became worse "
        "beyond noise.",
        style="bold red",
    )


def _interval(one: Interval) -> str:
    if one.value is None:
        return one.reason or "not known"
    if one.low is None:
        return f"{one.value:.3f}"
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


def _difference(change: Change) -> str:
    value = change.difference.value
    return "" if value is None else f"{value:+.3f}"
