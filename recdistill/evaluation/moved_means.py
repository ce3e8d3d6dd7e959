"""Means of two independent samples of lists: which of them moved beyond noise.

Two tables of rows, one of a run and one of newer lists, are compared metric by metric
and slice by slice. With many comparisons some differ by chance, so the confidence of
each interval of a difference is raised until all intervals together hold with
`CONFIDENCE` (Bonferroni's correction). Half of the error is for the means over all
lists, so that many slices do not hide a change of everything.

A metric that is 0 on most lists is 0 on all lists of some small samples, and then the
sample does not show how uncertain its mean is. If both samples had the same
distribution, the deviation between queries would be that of the other sample as well,
so the larger of the two standard errors is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from recdistill.evaluation.intervals import Interval, bootstrap

CONFIDENCE = 0.99
"""Confidence with which all intervals of differences hold together."""

MARGIN = 0.01
"""A mean that changed by less than this has not moved, however sure the change is."""

FEWEST = 30
"""Queries with a value that both samples must have for a comparison, in each slice."""

Kind = Literal["agreement", "quality", "unknown values"]


@dataclass(frozen=True)
class Change:
    """A mean in two samples.

    Attributes:
        kind: What the mean is about. Unknown values are worse if there are more of
            them, and everything else if it is less.
        name: Name of the metric or of the feature.
        part: Kind and name of the slice; None for all lists.
        before: The mean of the run, with its 95 % interval.
        now: The mean of the new lists, with its 95 % interval.
        difference: The second minus the first, with the interval that takes the number
            of comparisons into account.
        queries: Number of queries of the two samples that have a value.
    """

    kind: Kind
    name: str
    part: tuple[str, str] | None
    before: Interval
    now: Interval
    difference: Interval
    queries: tuple[int, int]

    @property
    def is_worse(self) -> bool:
        """Whether the mean became worse by more than noise and `MARGIN`."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return False
        value = self.difference.value or 0.0
        if self.kind == "unknown values":
            return low > 0 and value > MARGIN
        return high < 0 and value < -MARGIN

    def in_words(self) -> str:
        """The change in one sentence."""
        where = f" in the slice {' '.join(self.part)}" if self.part else ""
        verb = "rose" if self.kind == "unknown values" else "fell"
        what = "The share of unknown values of " * (self.kind == "unknown values")
        return (
            f"{what}{self.name}{where} {verb} from {self.before.value:.4f} to "
            f"{self.now.value:.4f}."
        )


@dataclass(frozen=True)
class Comparison:
    """Some metrics of two samples, and the slices in which they are compared too.

    Attributes:
        kind: What the metrics are about.
        before: Rows of the run, one for each list.
        now: Rows of the new lists.
        names: Names of the metrics.
        slices: For each slice, by kind and name, `(lists,)` bool of both samples: the
            lists that belong to it.
    """

    kind: Kind
    before: pa.Table
    now: pa.Table
    names: Sequence[str]
    slices: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]


def changes(
    comparisons: Sequence[Comparison], *, samples: int = 1000, seed: int = 0
) -> list[Change]:
    """Compares the means of two samples.

    Args:
        comparisons: The metrics and slices.
        samples: Number of bootstrap resamples.
        seed: Seed of the resamples.

    Returns:
        A change for each metric, and for each slice with enough queries. Without enough
        queries in all, the differences have no interval.
    """
    found = []
    for each in comparisons:
        parts: list[tuple[tuple[str, str] | None, pa.Table, pa.Table]] = [
            (None, each.before, each.now)
        ]
        for where, (before, now) in each.slices.items():
            rows = each.before.filter(pa.array(before)), each.now.filter(pa.array(now))
            parts.append((where, *rows))
        for part, *tables in parts:
            queries = {
                n: (_queries(tables[0], n), _queries(tables[1], n)) for n in each.names
            }
            names = [n for n in each.names if part is None or min(queries[n]) >= FEWEST]
            first, second = (
                bootstrap(table, names, samples=samples, seed=seed) if names else {}
                for table in tables
            )
            found += [
                Change(
                    each.kind,
                    name,
                    part,
                    first[name],
                    second[name],
                    Interval(None),
                    queries[name],
                )
                for name in names
            ]
    sliced = sum(change.part is not None for change in found)
    widths = {True: _width(sliced), False: _width(len(found) - sliced)}
    return [
        replace(c, difference=_difference(c, widths[c.part is not None])) for c in found
    ]


def _queries(table: pa.Table, name: str) -> int:
    """Number of queries with a value of a metric."""
    known = ~np.isnan(table[name].to_numpy())
    return len(table["query_id"].filter(pa.array(known)).unique())


def _width(comparisons: int) -> float:
    """Standard errors to the end of an interval of which one end counts."""
    return NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / max(1, comparisons))


def _difference(change: Change, width: float) -> Interval:
    """Second mean minus first, with an interval of `width` standard errors."""
    for each in (change.before, change.now):
        if each.value is None or each.low is None:
            return Interval(None, reason=each.reason)
    if min(change.queries) < FEWEST:
        return Interval(None, reason=f"fewer than {FEWEST} queries")
    value = float(change.now.value or 0.0) - float(change.before.value or 0.0)
    # If nothing changed, both samples have the same deviation between queries.
    own = (_standard_error(each) for each in (change.before, change.now))
    pairs = zip(own, change.queries, strict=True)
    deviation = max(each * math.sqrt(queries) for each, queries in pairs)
    error = math.hypot(*(deviation / math.sqrt(n) for n in change.queries))
    return Interval(value, value - width * error, value + width * error)


def _standard_error(interval: Interval) -> float:
    """Standard error of a mean, from its bootstrap interval."""
    both = 2 * NormalDist().inv_cdf(0.975)
    return (float(interval.high or 0.0) - float(interval.low or 0.0)) / both


def change_json(change: Change) -> dict[str, Any]:
    """A change, JSON-ready."""
    return {
        "kind": change.kind,
        "name": change.name,
        "slice": None if change.part is None else list(change.part),
        "run": change.before.to_json(),
        "new": change.now.to_json(),
        "difference": change.difference.to_json(),
        "worse": change.is_worse,
    }
