"""Confidence intervals by cluster bootstrap: means, paired differences and ratios.

- Lists of one query are not independent, so the bootstrap resamples *queries*
  (clusters), not lists.
- Models are compared on the same resamples of the same lists (paired bootstrap), so the
  variance between easy and hard queries cancels.
- A number that cannot be estimated from the data is None, with a reason.

All functions take tables with one row per list (`recdistill.evaluation.ListRows`) and
the same three settings: number of resamples, seed and confidence level.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from recdistill.evaluation.rows import metric_names
from recdistill.lists.numpy_ranks import BoolArray, FloatArray, IntArray

_ToInterval = Callable[[FloatArray], "Interval"]

# Number of queries drawn at once: 8 MiB of integers.
_CHUNK_DRAWS = 2**20


@dataclass(frozen=True)
class Interval:
    """Estimate with its confidence interval.

    Attributes:
        value: The estimate; None if it cannot be computed from the data.
        low: Lower end of the interval; None if there is no interval.
        high: Upper end of the interval; None if there is no interval.
        reason: Why a number is missing; None if no number is missing.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def excludes(self, number: float) -> bool:
        """Whether there is an interval and the number is outside it."""
        if self.low is None or self.high is None:
            return False
        return not self.low <= number <= self.high

    def to_json(self) -> dict[str, Any]:
        """JSON-ready value and ends, and the reason if a number is missing.

        Examples:
            >>> Interval(0.25, 0.24, 0.26).to_json()
            {'value': 0.25, 'ci': [0.24, 0.26]}
        """
        ends = None if self.low is None else [self.low, self.high]
        reason = {} if self.reason is None else {"reason": self.reason}
        return {"value": self.value, "ci": ends, **reason}


@dataclass(frozen=True)
class Slice:
    """Metrics of part of the lists.

    Attributes:
        lists: Number of lists in the slice.
        queries: Number of distinct queries of these lists.
        metrics: Mean of each metric over these lists, with its interval.
    """

    lists: int
    queries: int
    metrics: dict[str, Interval]


def bootstrap(
    rows: pa.Table,
    metrics: Sequence[str] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Mean of each metric over the lists, with its percentile bootstrap interval.

    This is a cluster bootstrap: each resample draws as many queries as the data has,
    with replacement, and takes all lists of each. Lists of one query are not
    independent, so resampling single lists would make the interval too narrow.

    Args:
        rows: One row per list, from `ListRows`.
        metrics: Names of the columns; None for all.
        samples: Number of resamples, at least 1.
        seed: Seed of the resamples. Equal seeds and rows, in any order, give equal
            intervals.
        confidence: Confidence level, above 0 and below 1.

    Returns:
        The interval of each metric. Rows with NaN are left out. With only one query
        there is no interval, and without rows there is no value either.

    Raises:
        ValueError: If a column is missing or a setting is out of range.

    Reference: Efron and Tibshirani (1993), chapter 13, for the percentile interval;
        Field and Welsh (2007) for resampling clusters.
    """
    settings = samples, seed, confidence
    return _estimates(lambda interval, mean: interval(mean), [rows], metrics, settings)


def paired_difference(
    rows_a: pa.Table,
    rows_b: pa.Table,
    metrics: Sequence[str] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Paired difference: mean of a minus mean of b, on the same resamples of queries.

    If the interval excludes 0, the models differ by more than the sampling noise of the
    queries.

    Args:
        rows_a: Rows of one model, one row per list.
        rows_b: Rows of another model for the same lists, in any order.
        metrics: Names of the columns; None for all of `rows_a`.
        samples, seed, confidence: As for `bootstrap`.

    Returns:
        The interval of each metric.

    Raises:
        ValueError: If the tables differ in lists or queries, a list has a metric in one
            table only, a column is missing or a setting is out of range.
    """
    return _estimates(
        lambda interval, a, b: interval(a - b),
        [rows_a, rows_b],
        metrics,
        (samples, seed, confidence),
    )


def means_and_difference(
    rows_a: pa.Table,
    rows_b: pa.Table,
    metric: str,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Interval, Interval, Interval]:
    """The mean of a, that of b, and a minus b, all from the same resamples.

    They are those of `bootstrap` and of `paired_difference`, in a third of the time.

    Args:
        rows_a, rows_b: As for `paired_difference`.
        metric: Name of the column.
        samples, seed, confidence: As for `bootstrap`.

    Raises:
        ValueError: As `paired_difference`.
    """
    means, queries = _resample([rows_a, rows_b], [metric], samples, seed)
    interval = partial(_interval, queries=queries[0], confidence=confidence)
    a, b = means[:, :, 0].T
    with np.errstate(divide="ignore", invalid="ignore"):
        return interval(a), interval(b), interval(a - b)


def gap_closed(
    baseline: pa.Table,
    distilled: pa.Table,
    teacher: pa.Table,
    metrics: Sequence[str] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Gap closed: the ratio (distilled - baseline) / (teacher - baseline) of means.

    It is 0 if distillation changed nothing, 1 if the student is as good as the teacher,
    and below 0 if distillation made the student worse. All three means are taken on the
    same resamples of queries.

    Args:
        baseline: Rows of the student trained without distillation.
        distilled: Rows of the distilled student, for the same lists.
        teacher: Rows of the teacher, for the same lists.
        metrics: Names of the columns; None for all of `baseline`.
        samples, seed, confidence: As for `bootstrap`.

    Returns:
        The interval of each metric. The value is None, with a reason, if the interval
        of teacher - baseline is not above 0, so that there is no gap to close.

    Raises:
        ValueError: As `paired_difference`.
    """

    def closed(
        interval: _ToInterval, base: FloatArray, student: FloatArray, best: FloatArray
    ) -> Interval:
        reason = _why_no_gap(interval(best - base))
        if reason:
            return Interval(None, reason=reason)
        return interval((student - base) / (best - base))

    tables = [baseline, distilled, teacher]
    return _estimates(closed, tables, metrics, (samples, seed, confidence))


def kept(
    distilled: pa.Table,
    teacher: pa.Table,
    metrics: Sequence[str] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Share kept: the ratio distilled / teacher of means.

    Args:
        distilled: Rows of the distilled student.
        teacher: Rows of the teacher, for the same lists.
        metrics: Names of the columns; None for all of `distilled`.
        samples, seed, confidence: As for `bootstrap`.

    Returns:
        The interval of each metric. The value is None, with a reason, if the teacher's
        mean is 0.

    Raises:
        ValueError: As `paired_difference`.
    """

    def share(interval: _ToInterval, student: FloatArray, best: FloatArray) -> Interval:
        if best[0] == 0:
            return Interval(None, reason="the teacher's mean is 0")
        return interval(student / best)

    tables = [distilled, teacher]
    return _estimates(share, tables, metrics, (samples, seed, confidence))


def compare_slices(
    models: Mapping[str, pa.Table],
    members: Mapping[str, BoolArray],
    differences: Mapping[str, tuple[str, str]],
    metrics: Sequence[str] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, dict[str, Slice]]:
    """Metrics and paired differences of several models on each slice of the lists.

    All models of a slice are measured on the same resamples of its queries.

    Args:
        models: Rows of each model, for the same lists in the same order.
        members: For each slice, `(lists,)`, whether a list belongs to it. A list may
            belong to several slices.
        differences: Names of pairs of models; the estimate is first minus second.
        metrics, samples, seed, confidence: As for `bootstrap`.

    Returns:
        By model, and by name of the difference, the slices in the given order.

    Raises:
        ValueError: As `paired_difference`.
    """
    names = list(models)
    found: dict[str, dict[str, Slice]] = {name: {} for name in (*names, *differences)}
    for label, inside in members.items():
        keep = pa.array(np.asarray(inside, np.bool_))
        tables = [models[name].filter(keep) for name in names]
        size = len(tables[0]), len(tables[0]["query_id"].unique())
        chosen = metric_names(tables[0]) if metrics is None else list(metrics)
        means, queries = _resample(tables, chosen, samples, seed)
        draws = {name: means[:, number] for number, name in enumerate(names)}
        for name, (one, other) in differences.items():
            draws[name] = draws[one] - draws[other]
        for name, values in draws.items():
            found[name][label] = Slice(
                *size,
                {
                    metric: _interval(
                        values[:, i], queries=queries[i], confidence=confidence
                    )
                    for i, metric in enumerate(chosen)
                },
            )
    return found


def _estimates(
    estimate: Callable[..., Interval],
    tables: Sequence[pa.Table],
    metrics: Sequence[str] | None,
    settings: tuple[int, int, float],
) -> dict[str, Interval]:
    """Estimate from the tables' means, with its interval, for each metric.

    Args:
        estimate: Function that takes `_interval` with its settings filled in, and the
            means of each table, `(1 + samples,)`, as `_resample` returns them.
        tables: Tables of rows for the same lists.
        metrics: Names of the columns; None for all of the first table.
        settings: Number of resamples, seed and confidence level.
    """
    names = metric_names(tables[0]) if metrics is None else list(metrics)
    samples, seed, confidence = settings
    means, queries = _resample(tables, names, samples, seed)
    result = {}
    for i, name in enumerate(names):
        interval = partial(_interval, queries=queries[i], confidence=confidence)
        with np.errstate(divide="ignore", invalid="ignore"):
            result[name] = estimate(interval, *means[:, :, i].T)
    return result


def _resample(
    tables: Sequence[pa.Table], metrics: Sequence[str], samples: int, seed: int
) -> tuple[FloatArray, IntArray]:
    """Means over resamples of queries, the same resamples for all tables.

    Returns:
        The means, `(1 + samples, tables, metrics)`, first over all queries and then
        over each resample; and the number of queries with a list that has the metric,
        `(metrics,)`.
    """
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1. Received: samples={samples}")
    query, values = aligned(tables, metrics)
    total = int(query.max(initial=-1)) + 1
    present = ~np.isnan(values[0])  # the same for all tables
    columns = np.concatenate([present, *np.nan_to_num(values)], axis=1)
    sums = np.stack([np.bincount(query, one, total) for one in columns.T], axis=1)

    generator = np.random.default_rng(seed)
    drawn = np.empty((1 + samples, sums.shape[1]))
    drawn[0] = sums.sum(axis=0)
    step = max(1, _CHUNK_DRAWS // max(1, total))
    for start in range(1, 1 + samples, step):
        size = min(step, 1 + samples - start)
        picks = generator.integers(max(1, total), size=(size, total))
        picks += np.arange(size)[:, None] * total  # one bincount for all resamples
        times = np.bincount(picks.ravel(), minlength=size * total).reshape(size, total)
        drawn[start : start + size] = times @ sums

    width = len(metrics)
    counts = np.tile(drawn[:, :width], len(tables))
    undefined = np.full_like(counts, np.nan)
    means = np.divide(drawn[:, width:], counts, out=undefined, where=counts > 0)
    queries = np.count_nonzero(sums[:, :width], axis=0)
    return means.reshape(1 + samples, len(tables), width), queries


def aligned(
    tables: Sequence[pa.Table], metrics: Sequence[str]
) -> tuple[IntArray, FloatArray]:
    """Query numbers `(lists,)` and values `(tables, lists, metrics)`, by list id.

    Raises:
        ValueError: If the tables do not hold the same lists with a value, or a column
            is missing.
    """
    for table in tables:
        missing = {"list_id", "query_id", *metrics} - set(table.column_names)
        if missing:
            raise ValueError(
                f"`rows` must have the columns {sorted(missing)}. "
                f"Received: {table.column_names}"
            )
    first, *others = [table.sort_by("list_id") for table in tables]
    for other in others:
        for key in ("list_id", "query_id"):
            if not first[key].combine_chunks().equals(other[key].combine_chunks()):
                raise ValueError(
                    f"`rows` must hold the same lists to be compared. Received: {key} "
                    f"differs between tables of {len(first)} and {len(other)} rows"
                )
    values = np.stack(
        [
            np.stack([table[name].to_numpy() for name in metrics], axis=1)
            for table in (first, *others)
        ]
    )
    if (np.isnan(values) != np.isnan(values[0])).any():
        raise ValueError(
            "`rows` must have values (not NaN) for the same lists to be compared. "
            "Received: NaN in one table only"
        )
    query = first["query_id"].combine_chunks().dictionary_encode().indices
    return query.to_numpy().astype(np.int64), values


def _interval(means: FloatArray, queries: int, confidence: float) -> Interval:
    """Percentile interval: the first mean, with quantiles of the other means."""
    if not 0 < confidence < 1:
        raise ValueError(
            f"`confidence` must be between 0 and 1. Received: confidence={confidence}"
        )
    if queries == 0:
        return Interval(None, reason="no list has a value")
    value, draws = float(means[0]), means[1:]
    if queries == 1:
        return Interval(value, reason="one query is too few for an interval")
    if not np.isfinite(draws).all():
        return Interval(value, reason="the estimate is undefined for some resamples")
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def _why_no_gap(gap: Interval) -> str | None:
    """Reason why teacher - baseline is not a gap to close; None if it is one."""
    if gap.low is None or gap.high is None:
        return gap.reason
    if gap.high < 0:
        return "the teacher is worse than the baseline"
    if gap.low <= 0:
        return "teacher and baseline do not differ beyond noise"
    return None
