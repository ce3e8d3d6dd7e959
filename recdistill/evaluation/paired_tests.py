"""Paired permutation tests over queries, corrected for many comparisons.

Two models are compared on the same lists. Under the null hypothesis the two are
interchangeable, so that exchanging them for all lists of a query only changes the sign
of the query's difference. The p-value is the share of such exchanges that give a
difference of means at least as large as the observed one. It needs no assumption on the
distribution of a metric, and is exact for a few queries, where a bootstrap interval is
too narrow.

Lists of one query are not independent, so a query is exchanged as a whole. Wins, losses
and the effect size are counted over queries for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recdistill.evaluation.intervals import (
    Interval,
    aligned,
    means_and_difference,
)
from recdistill.evaluation.rows import metric_names
from recdistill.lists.numpy_ranks import FloatArray, IntArray

LEVEL = 0.05
"""Significance level: largest adjusted p-value of a difference that is not noise."""

MOST_RESAMPLES, FEWEST_RESAMPLES, _DRAWS = 10_000, 1_000, 200_000_000
"""Limits of `resamples`, and the number of draws that it aims at."""

_CHUNK_SIGNS = 2**20  # signs drawn at once: 8 MiB as float64

# An exchange that gives the observed difference again counts as at least as large.
_ROUNDING = 1e-9

_TIE = 1e-12  # largest difference of a query that is due to rounding


@dataclass(frozen=True)
class PairedTest:
    """Comparison of two models by one metric, on the same lists.

    Attributes:
        reference: Mean of the reference with its interval.
        other: Mean of the other model with its interval.
        difference: Mean of other - reference, with its paired bootstrap interval.
        p_value: Two-sided p-value of the paired permutation test; None if no list has a
            value.
        adjusted_p: The same, corrected for the number of comparisons (`adjusted`); None
            before the correction.
        effect_size: Mean of the queries' differences divided by their standard
            deviation (Cohen's d for paired samples); None if it is not defined.
        wins: Number of queries for which the other model is better.
        ties: Number of queries with equal values.
        losses: Number of queries for which the other model is worse.
        lists: Number of lists with a value.
    """

    reference: Interval
    other: Interval
    difference: Interval
    p_value: float | None
    adjusted_p: float | None
    effect_size: float | None
    wins: int
    ties: int
    losses: int
    lists: int

    @property
    def queries(self) -> int:
        """Number of queries with a value."""
        return self.wins + self.ties + self.losses

    @property
    def relative(self) -> float | None:
        """Difference as a share of the reference's mean; None if that is 0."""
        if not self.reference.value or self.difference.value is None:
            return None
        return self.difference.value / self.reference.value

    @property
    def is_significant(self) -> bool:
        """Whether the adjusted p-value is at most `LEVEL`."""
        p = self.p_value if self.adjusted_p is None else self.adjusted_p
        return p is not None and p <= LEVEL


def paired_tests(
    reference: pa.Table,
    other: pa.Table,
    metrics: Sequence[str] | None = None,
    *,
    samples: int | None = None,
    seed: int = 0,
) -> dict[str, PairedTest]:
    """Compares two models by paired bootstrap and permutation test over queries.

    Args:
        reference: Rows of the model to compare with, one row per list.
        other: Rows of the other model for the same lists, in any order.
        metrics: Names of the columns; None for all of `reference`.
        samples: Number of resamples of the queries and of random exchanges; None
            chooses it from the number of queries (`resamples`).
        seed: Seed of both.

    Returns:
        The comparison by each metric, without correction; see `adjusted`.

    Raises:
        ValueError: As `paired_difference`.
    """
    names = metric_names(reference) if metrics is None else list(metrics)
    query, values = aligned([reference, other], names)
    total = int(query.max(initial=-1)) + 1
    draws = resamples(total) if samples is None else samples
    sums = _sum_by_query(query, np.nan_to_num(values[1] - values[0]), total)
    p_values = permutation_p_values(sums, samples=draws, seed=seed)
    settings = {"samples": draws, "seed": seed}
    return {
        name: _paired_test(reference, other, name, float(p), settings)
        for name, p in zip(names, p_values, strict=True)
    }


def _paired_test(
    reference: pa.Table,
    other: pa.Table,
    metric: str,
    p_value: float,
    settings: Mapping[str, Any],
) -> PairedTest:
    """The comparison by one metric, with the intervals of these settings."""
    query, values = aligned([reference, other], [metric])
    known = ~np.isnan(values[0, :, 0])
    change = (values[1] - values[0])[known, 0]
    counts = np.bincount(query[known])
    of_query = np.bincount(query[known], change)[counts > 0] / counts[counts > 0]
    found = means_and_difference(other, reference, metric, **settings)
    return PairedTest(
        reference=found[1],
        other=found[0],
        difference=found[2],
        p_value=p_value if len(of_query) else None,
        adjusted_p=None,
        effect_size=_effect_size(of_query),
        wins=int((of_query > _TIE).sum()),
        ties=int((np.abs(of_query) <= _TIE).sum()),
        losses=int((of_query < -_TIE).sum()),
        lists=int(known.sum()),
    )


def permutation_p_values(
    differences: FloatArray, *, samples: int, seed: int = 0
) -> FloatArray:
    """Two-sided p-values of the sign-flip permutation test.

    Args:
        differences: `(queries, metrics)`, the sum of each query's differences.
        samples: Number of random exchanges. If there are no more exchanges than that,
            all are evaluated, and the p-value is exact.
        seed: Seed of the exchanges.

    Returns:
        `(metrics,)`. The observed assignment is counted as one of the drawn ones, so
        that no p-value is 0 (Phipson and Smyth, 2010).

    Raises:
        ValueError: If `samples` is below 1.

    Reference: Fisher (1935); Smucker, Allan and Carterette (2007) for its use with
        retrieval metrics.

    Examples:
        >>> permutation_p_values(np.array([[1.0], [2.0], [3.0]]), samples=100)
        array([0.25])
    """
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1. Received: samples={samples}")
    observed = np.abs(differences.sum(axis=0)) * (1 - _ROUNDING)
    extreme = np.zeros(differences.shape[1])
    for signs in _random_signs(len(differences), samples, seed):
        extreme += (np.abs(signs @ differences) >= observed).sum(axis=0)
    p_values = (1 + extreme) / (1 + samples)
    for i, column in enumerate(differences.T):
        changed = column[column != 0]
        if 2 ** min(len(changed), 60) <= samples:
            p_values[i] = (np.abs(_all_sums(changed)) >= observed[i]).mean()
    return p_values


def resamples(queries: int) -> int:
    """Number of resamples for so many queries: from 10,000 down to 1,000.

    A million queries need no more: their intervals hardly depend on the number.
    """
    return int(np.clip(_DRAWS // max(1, queries), FEWEST_RESAMPLES, MOST_RESAMPLES))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values adjusted for the number of comparisons.

    The probability of at least one false finding among all comparisons is at most the
    level, whatever their dependence. The metrics of one ranking depend on each other
    strongly, and one false finding is enough for a wrong decision, so this is used
    instead of a control of the false discovery rate (Benjamini-Hochberg).

    Args:
        p_values: One for each comparison.

    Returns:
        The adjusted p-values, in the same order.

    Reference: Holm (1979).

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    result, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        result[i] = highest
    return result


def adjusted(tests: Iterable[PairedTest]) -> list[PairedTest]:
    """The comparisons with p-values corrected for their number, by `holm`.

    Comparisons without a p-value are not counted.
    """
    tests = list(tests)
    known = [test.p_value for test in tests if test.p_value is not None]
    corrected = iter(holm(known))
    return [
        test if test.p_value is None else replace(test, adjusted_p=next(corrected))
        for test in tests
    ]


def p_value_text(p: float | None) -> str:
    """A p-value with three digits after the point: "= 0.012", "< 0.001", "unknown"."""
    if p is None:
        return "unknown"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


@dataclass(frozen=True)
class SliceTest:
    """Comparison of two models on part of the lists.

    Attributes:
        kind: Kind of slice, for example "item".
        name: Name of the slice, for example "tail".
        test: The comparison; its p-value is corrected for the number of slices.
    """

    kind: str
    name: str
    test: PairedTest


def slice_tests(
    reference: pa.Table,
    other: pa.Table,
    slices: Mapping[str, Mapping[str, npt.NDArray[np.bool_]]],
    metric: str,
    *,
    samples: int | None = None,
    interval_samples: int = FEWEST_RESAMPLES,
    seed: int = 0,
) -> list[SliceTest]:
    """Compares two models on each slice of the lists.

    Args:
        reference: Rows of the model to compare with.
        other: Rows of the other model, in the same order.
        slices: For each kind of slice and each slice, `(lists,)` bool: whether a list
            belongs to it. A list may belong to several slices.
        metric: Name of the metric.
        samples: Number of random exchanges; None chooses it from the number of
            queries (`resamples`).
        interval_samples: Number of resamples of the intervals.
        seed: Seed of both.

    Returns:
        The slices in the given order, with p-values corrected for their number.

    Raises:
        ValueError: As `paired_tests`.
    """
    places = [(kind, name) for kind, members in slices.items() for name in members]
    members = [np.asarray(slices[kind][name], np.bool_) for kind, name in places]
    query, values = aligned([reference, other], [metric])
    order = np.argsort(reference["list_id"].to_numpy())  # as `aligned` sorts the lists
    change = np.nan_to_num(values[1] - values[0])
    inside = np.stack([each[order] for each in members], axis=1) if members else change
    total = int(query.max(initial=-1)) + 1
    draws = resamples(total) if samples is None else samples
    # All slices are tested with the same exchanges, which is as fast as one of them.
    sums = _sum_by_query(query, change * inside, total)
    p_values = permutation_p_values(sums, samples=draws, seed=seed)
    settings = {"samples": interval_samples, "seed": seed}
    tests = [
        _paired_test(
            reference.filter(pa.array(rows)),
            other.filter(pa.array(rows)),
            metric,
            float(p),
            settings,
        )
        for rows, p in zip(members, p_values, strict=False)
    ]
    return [
        SliceTest(*place, test)
        for place, test in zip(places, adjusted(tests), strict=True)
    ]


def _sum_by_query(query: IntArray, values: FloatArray, total: int) -> FloatArray:
    """`(queries, metrics)`. Sums of `(lists, metrics)` over the lists of each query."""
    columns = [np.bincount(query, column, total) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.zeros((total, 0))


def _effect_size(differences: FloatArray) -> float | None:
    if len(differences) < 2:
        return None
    spread = differences.std(ddof=1)
    return float(differences.mean() / spread) if spread > _TIE else None


def _random_signs(queries: int, samples: int, seed: int) -> Iterable[FloatArray]:
    """Random signs, `(a few samples, queries)` at once."""
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK_SIGNS // max(1, queries))
    for start in range(0, samples, step):
        size = min(step, samples - start)
        width = (queries + 7) // 8
        octets = generator.integers(0, 256, (size, width), dtype=np.uint8)
        bits = np.unpackbits(octets, axis=1, count=queries)
        yield np.where(bits, 1.0, -1.0)


def _all_sums(values: FloatArray) -> FloatArray:
    """The sum for every combination of signs, `(2 ** len(values),)`."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums
