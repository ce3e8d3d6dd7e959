"""Comparison of evaluated models on the same lists: the first with each of the others.

The p-values are corrected for all metrics and all pairs together, and those of the
slices for all slices and all pairs (`recdistill.evaluation.paired_tests.holm`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recdistill.evaluation.intervals import aligned
from recdistill.evaluation.paired_tests import (
    PairedTest,
    SliceTest,
    adjusted,
    p_value_text,
    paired_tests,
    resamples,
    slice_tests,
)
from recdistill.evaluation.report.terminal_tables import metric_label

MOST_CHANGED = 10
"""Queries with the largest gains, and with the largest losses, that are listed."""


@dataclass(frozen=True)
class QueryChange:
    """A query with the metric of both models, the mean over its lists.

    Attributes:
        query: Id of the query.
        lists: Number of its lists.
        reference: Metric of the reference.
        other: Metric of the other model.
    """

    query: str
    lists: int
    reference: float
    other: float


@dataclass(frozen=True)
class ModelComparison:
    """One model compared with the reference.

    Attributes:
        reference: Name of the reference.
        other: Name of the other model.
        metrics: The comparison by each metric.
        slices: The comparison by the first metric on each slice of the lists.
        changes: Queries whose first metric changed most, the largest losses first.
    """

    reference: str
    other: str
    metrics: dict[str, PairedTest]
    slices: list[SliceTest]
    changes: list[QueryChange]

    @property
    def verdict(self) -> str:
        """One sentence on the first metric."""
        metric, test = next(iter(self.metrics.items()))
        label = metric_label(metric)
        if test.p_value is None or test.difference.value is None:
            return f"No list has a value of {label}."
        p = f"adjusted p {p_value_text(test.adjusted_p)}"
        if not test.is_significant:
            return (
                f"By {label}, {self.other} does not differ from {self.reference} "
                f"beyond noise ({p})."
            )
        better = "better" if test.difference.value > 0 else "worse"
        share = "" if test.relative is None else f" ({test.relative:+.1%})"
        return (
            f"By {label}, {self.other} is {better} than {self.reference} by "
            f"{abs(test.difference.value):.4f}{share}, {p}."
        )


@dataclass(frozen=True)
class Comparison:
    """Models compared with a reference on the same lists.

    Attributes:
        lists: Number of lists.
        queries: Number of queries, which are resampled and exchanged.
        resamples: Number of resamples and of random exchanges.
        pairs: One comparison for each model but the reference.
    """

    lists: int
    queries: int
    resamples: int
    pairs: list[ModelComparison]


def compare_models(
    models: Mapping[str, pa.Table],
    slices: Mapping[str, Mapping[str, npt.NDArray[np.bool_]]],
    metrics: Sequence[str],
    *,
    seed: int = 0,
) -> Comparison:
    """Compares each model with the first one.

    Args:
        models: For each model the rows of the same lists in the same order; at least
            two.
        slices: For each kind of slice and each slice, `(lists,)` bool: whether a list
            belongs to it.
        metrics: Metrics to compare by; the first one also on each slice.
        seed: Seed of the resamples.

    Raises:
        ValueError: If the models were not evaluated on the same lists, or a metric is
            missing.
    """
    (name, reference), *others = models.items()
    queries = len(reference["query_id"].unique())
    draws = resamples(queries)
    pairs = [
        ModelComparison(
            name,
            other,
            paired_tests(reference, rows, metrics, samples=draws, seed=seed),
            slice_tests(reference, rows, slices, metrics[0], samples=draws, seed=seed),
            most_changed(reference, rows, metrics[0]),
        )
        for other, rows in others
    ]
    return Comparison(len(reference), queries, draws, _corrected(pairs))


def most_changed(
    reference: pa.Table, other: pa.Table, metric: str
) -> list[QueryChange]:
    """The queries whose metric changed most: the largest losses, then gains.

    Args:
        reference: Rows of the reference.
        other: Rows of the other model for the same lists.
        metric: Name of the metric.

    Returns:
        From the largest loss to the largest gain. Queries without a change are left
        out.
    """
    query, values = aligned([reference, other], [metric])
    known = ~np.isnan(values[0, :, 0])
    counts = np.bincount(query[known])
    sums = [np.bincount(query[known], each[known, 0]) for each in values]
    before, after = (np.divide(each, np.maximum(counts, 1)) for each in sums)
    change = np.round(after - before, 12)
    ids = reference.sort_by("list_id")["query_id"].combine_chunks()
    names = ids.dictionary_encode().dictionary
    order = np.argsort(change, kind="stable")
    lost = [i for i in order[:MOST_CHANGED] if change[i] < 0]
    gained = [i for i in order[::-1][:MOST_CHANGED] if change[i] > 0][::-1]
    return [
        QueryChange(names[i].as_py(), int(counts[i]), float(before[i]), float(after[i]))
        for i in (*lost, *gained)
    ]


def _corrected(pairs: Sequence[ModelComparison]) -> list[ModelComparison]:
    """The pairs with p-values corrected for all of them together."""
    tests = iter(adjusted(test for pair in pairs for test in pair.metrics.values()))
    parts = iter(adjusted(each.test for pair in pairs for each in pair.slices))
    return [
        replace(
            pair,
            metrics={name: next(tests) for name in pair.metrics},
            slices=[replace(each, test=next(parts)) for each in pair.slices],
        )
        for pair in pairs
    ]
