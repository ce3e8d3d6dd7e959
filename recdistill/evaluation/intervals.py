"""From rows to claims: means, differences and ratios, each with its interval.

What makes the numbers honest:

- Lists of one query are alike, so intervals come from resampling *queries*, not lists.
- Models are compared on the same resamples of the same lists, so the difference between
  two close models is not drowned in the difference between easy and hard queries.
- A number that the data cannot support is None, with the reason beside it.

All functions take tables with one row a list (`evaluation.ListRows`) and the same three
settings: the number of resamples, their seed and the confidence of the interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recdistill.evaluation.rows import metric_names
from recdistill.lists.numpy_ranks import FloatArray, IntArray

# Draws of queries held at once: 8 MiB of integers.
_CHUNK_DRAWS = 2**20


@dataclass(frozen=True)
class Interval:
    """A number and the confidence interval around it.

    Attributes:
        value: The number; None where the data cannot support one.
        low: Lower end of the interval; None where there is none.
        high: Upper end of the interval; None where there is none.
        reason: Why a number is missing; None where nothing is.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def excludes(self, number: float) -> bool:
        """True where there is an interval and the number lies outside it."""
        if self.low is None or self.high is None:
            return False
        return not self.low <= number <= self.high


@dataclass(frozen=True)
class Slice:
    """The metrics of some of the lists.

    Attributes:
        lists: How many lists the slice has.
        queries: How many different queries they belong to.
        metrics: The mean of each metric over the lists, with its interval.
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
    """The mean of each metric over the lists, with a percentile bootstrap interval.

    A resample draws as many queries as there are, with replacement, and takes all lists
    of each: a cluster bootstrap. Lists of one query are not independent, and drawing
    single lists would make the interval too narrow.

    Args:
        rows: One row a list, as from `ListRows`.
        metrics: The columns wanted; None for all.
        samples: How many resamples, at least 1.
        seed: The same seed and rows give the same interval, in whatever order the rows.
        confidence: Above 0 and below 1.

    Returns:
        An interval a metric. Rows with NaN are left out. With fewer than two queries
        there is a value and no interval; without rows there is no value either.

    Raises:
        ValueError: A column is missing or a setting is out of range.

    Reference: Efron and Tibshirani (1993), chapter 13, for the percentile interval;
        Field and Welsh (2007) for resampling clusters.
    """
    names = metric_names(rows) if metrics is None else list(metrics)
    drawn = _resample([rows], names, samples, seed)
    return {
        name: _interval(drawn.of(0, i), drawn.queries[i], confidence)
        for i, name in enumerate(names)
    }


def paired_difference(
    rows_a: pa.Table,
    rows_b: pa.Table,
    metrics: Sequence[str] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """The mean of a less the mean of b, both on the same resamples of queries.

    An interval that excludes 0 says that the models differ beyond what another draw of
    queries would change.

    Args:
        rows_a: One row a list.
        rows_b: The same lists under another model, in any order.
        metrics: The columns wanted; None for all of `rows_a`.
        samples, seed, confidence: As for `bootstrap`.

    Returns:
        An interval a metric.

    Raises:
        ValueError: The tables differ in lists or queries, a list can be judged in one
            table only, a column is missing or a setting is out of range.
    """
    names = metric_names(rows_a) if metrics is None else list(metrics)
    drawn = _resample([rows_a, rows_b], names, samples, seed)
    return {
        name: _interval(drawn.of(0, i) - drawn.of(1, i), drawn.queries[i], confidence)
        for i, name in enumerate(names)
    }


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
    """How much of the way from the baseline to the teacher distillation went.

    It is (distilled - baseline) / (teacher - baseline): 0 where distillation changed
    nothing, 1
    where the student reached the teacher, below 0 where it did harm.

    Args:
        baseline: Rows of the student trained without distillation.
        distilled: Rows of the distilled student, for the same lists.
        teacher: Rows of the teacher, for the same lists.
        metrics: The columns wanted; None for all of `baseline`.
        samples, seed, confidence: As for `bootstrap`.

    Returns:
        An interval a metric. The value is None, with a reason, where the interval of
        teacher - baseline includes 0 or lies below it: there is no gap to close.

    Raises:
        ValueError: As `paired_difference`.
    """
    names = metric_names(baseline) if metrics is None else list(metrics)
    drawn = _resample([baseline, distilled, teacher], names, samples, seed)
    result = {}
    for i, name in enumerate(names):
        alone, student, best = (drawn.of(table, i) for table in range(3))
        reason = _no_gap(_interval(best - alone, drawn.queries[i], confidence))
        with np.errstate(divide="ignore", invalid="ignore"):
            closed = (student - alone) / (best - alone)
        result[name] = (
            Interval(None, reason=reason)
            if reason
            else _interval(closed, drawn.queries[i], confidence)
        )
    return result


def kept(
    distilled: pa.Table,
    teacher: pa.Table,
    metrics: Sequence[str] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """The mean of the distilled student as a share of the teacher's.

    Args:
        distilled: Rows of the distilled student.
        teacher: Rows of the teacher, for the same lists.
        metrics: The columns wanted; None for all of `distilled`.
        samples, seed, confidence: As for `bootstrap`.

    Returns:
        An interval a metric; no value, with a reason, where the teacher's mean is 0.

    Raises:
        ValueError: As `paired_difference`.
    """
    names = metric_names(distilled) if metrics is None else list(metrics)
    drawn = _resample([distilled, teacher], names, samples, seed)
    result = {}
    for i, name in enumerate(names):
        student, best = drawn.of(0, i), drawn.of(1, i)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = student / best
        result[name] = (
            Interval(None, reason="the teacher's mean is 0")
            if best[0] == 0
            else _interval(share, drawn.queries[i], confidence)
        )
    return result


def by_slice(
    rows: pa.Table,
    labels: Sequence[str | None],
    metrics: Sequence[str] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Slice]:
    """The metrics of each part of the lists, say of cold and of warm queries.

    Args:
        rows: One row a list.
        labels: The slice of each row, in the order of the rows; None for no slice.
        metrics, samples, seed, confidence: As for `bootstrap`.

    Returns:
        A slice a label, the labels in alphabetical order.

    Raises:
        ValueError: There is not one label for each row, or as `bootstrap`.
    """
    if len(labels) != len(rows):
        raise ValueError(
            "`labels` must have one entry for each row. "
            f"Received: {len(labels)} labels for {len(rows)} rows"
        )
    given = np.array(labels, dtype=object)
    slices = {}
    for label in sorted({label for label in labels if label is not None}):
        part = rows.filter(pa.array(given == label))
        slices[label] = Slice(
            lists=len(part),
            queries=len(part["query_id"].unique()),
            metrics=bootstrap(
                part, metrics, samples=samples, seed=seed, confidence=confidence
            ),
        )
    return slices


@dataclass(frozen=True)
class _Resampled:
    """Means of some tables over all queries and over each resample of them.

    `means` is `(1 + samples, tables, metrics)`: all queries come first, the resamples
    after. `queries`, `(metrics,)`, counts those with a list that can be judged.
    """

    means: FloatArray
    queries: IntArray

    def of(self, table: int, metric: int) -> FloatArray:
        """`(1 + samples,)`. The means of one table by one metric."""
        means: FloatArray = self.means[:, table, metric]
        return means


def _resample(
    tables: Sequence[pa.Table], metrics: Sequence[str], samples: int, seed: int
) -> _Resampled:
    """Draw queries with replacement and take means, the same draws for all tables."""
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1. Received: samples={samples}")
    query, values = _aligned(tables, metrics)
    total = int(query.max(initial=-1)) + 1
    judged = ~np.isnan(values[0])  # the same for all tables
    columns = np.concatenate([judged, *np.nan_to_num(values)], axis=1)
    sums = np.stack([np.bincount(query, one, total) for one in columns.T], axis=1)

    generator = np.random.default_rng(seed)
    drawn = np.empty((1 + samples, sums.shape[1]))
    drawn[0] = sums.sum(axis=0)
    step = max(1, _CHUNK_DRAWS // max(1, total))
    for start in range(1, 1 + samples, step):
        size = min(step, 1 + samples - start)
        picks = generator.integers(max(1, total), size=(size, total))
        picks += np.arange(size)[:, None] * total  # so that one count serves them all
        times = np.bincount(picks.ravel(), minlength=size * total).reshape(size, total)
        drawn[start : start + size] = times @ sums

    width = len(metrics)
    counts = np.tile(drawn[:, :width], len(tables))
    undefined = np.full_like(counts, np.nan)
    means = np.divide(drawn[:, width:], counts, out=undefined, where=counts > 0)
    return _Resampled(
        means=means.reshape(1 + samples, len(tables), width),
        queries=np.count_nonzero(sums[:, :width], axis=0),
    )


def _aligned(
    tables: Sequence[pa.Table], metrics: Sequence[str]
) -> tuple[IntArray, FloatArray]:
    """Query numbers `(lists,)` and values `(tables, lists, metrics)`, by list id."""
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
            "`rows` must be judged (not NaN) for the same lists to be compared. "
            "Received: NaN in one table only"
        )
    query = first["query_id"].combine_chunks().dictionary_encode().indices
    return query.to_numpy().astype(np.int64), values


def _interval(means: FloatArray, queries: int, confidence: float) -> Interval:
    """The first of the means, with the percentile interval of the others."""
    if not 0 < confidence < 1:
        raise ValueError(
            f"`confidence` must be between 0 and 1. Received: confidence={confidence}"
        )
    if queries == 0:
        return Interval(None, reason="no list can be judged")
    value, draws = float(means[0]), means[1:]
    if queries == 1:
        return Interval(value, reason="one query is too few for an interval")
    if not np.isfinite(draws).all():
        return Interval(value, reason="some resamples of the queries give no number")
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def _no_gap(teacher_over_twin: Interval) -> str | None:
    """Why there is no gap to close; None where there is one."""
    if teacher_over_twin.low is None or teacher_over_twin.high is None:
        return teacher_over_twin.reason
    if teacher_over_twin.high < 0:
        return "the teacher is worse than the baseline"
    if teacher_over_twin.low <= 0:
        return "teacher and baseline do not differ beyond noise"
    return None
