"""Metrics beyond accuracy of the items that each model recommends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from recdistill.data.ragged import Ragged
from recdistill.evaluation.intervals import Interval, bootstrap
from recdistill.features.encoders import UNKNOWN, VocabularyEncoder
from recdistill.metrics import beyond_accuracy
from recdistill.pipeline.preparation.prepared_data import Prepared

TOGETHER = "a property of all lists together has no interval"
NO_CATEGORY = "no candidate feature is of kind category or categories"

MOST_VALUES, LISTS_AT_ONCE = 1_000, 500
"""Categories that diversity distinguishes, and lists that are measured at once."""


def measure_recommended(
    rows: Mapping[str, pa.Table], prepared: Prepared, k: int, **draws: Any
) -> dict[str, dict[str, Interval]]:
    """Coverage, Gini index, popularity, novelty and diversity of the first k items.

    Args:
        rows: For each model one row per list, with the first items in `top`.
        prepared: The prepared data.
        k: Number of items, for the names of the metrics.
        draws: Settings of `bootstrap`.

    Returns:
        For each model, by metric: `coverage@k` and `gini@k` of all lists together, and
        the means over the lists of `popularity@k` (training interactions of an item),
        `novelty@k` (bits) and `diversity@k` (cosine distance between the categories of
        the items of a list).
    """
    size = prepared.catalogue_size
    categories = _Categories(prepared)
    found = {}
    for name, table in rows.items():
        top = Ragged.from_arrow(table["top"].combine_chunks()).padded(-1)
        top = top.reshape(len(table), -1).astype("int64")
        of_lists = {
            f"popularity@{k}": beyond_accuracy.mean_popularity(
                top, prepared.popularity
            ),
            f"novelty@{k}": beyond_accuracy.novelty(top, prepared.popularity),
            f"diversity@{k}": categories.diversity(top),
        }
        keys = table.select(["list_id", "query_id"])
        for metric, values in of_lists.items():
            keys = keys.append_column(metric, pa.array(values))
        coverage = beyond_accuracy.catalogue_coverage(top, size)
        gini = beyond_accuracy.gini_index(top, size)
        found[name] = {
            f"coverage@{k}": Interval(coverage, reason=TOGETHER),
            f"gini@{k}": Interval(gini, reason=TOGETHER),
            **bootstrap(keys, **draws),
        }
        if not categories.known:
            found[name][f"diversity@{k}"] = Interval(None, reason=NO_CATEGORY)
    return found


class _Categories:
    """The categories of the items, as vectors of a few items at once."""

    def __init__(self, prepared: Prepared) -> None:
        columns, first = [], 0
        for encoder in prepared.schema.candidate:
            if isinstance(encoder, VocabularyEncoder) and encoder.spec.kind != "id":
                values = prepared.catalogue[encoder.feature]
                values = values.reshape(prepared.catalogue_size, -1)
                columns.append(np.where(values > UNKNOWN, values + first, -1))
                first += encoder.size
        self.known = bool(columns)
        self._values = np.concatenate(columns, axis=1) if columns else None
        if self._values is not None:
            counts = np.bincount(self._values[self._values >= 0], minlength=first)
            kept = np.argsort(-counts, kind="stable")[:MOST_VALUES]
            self._place = np.full(first + 1, -1)  # the last one for -1
            self._place[kept] = np.arange(len(kept))
            self._width = len(kept)

    def diversity(self, top: np.ndarray) -> np.ndarray:
        """`(lists,)`. NaN without categories."""
        diverse = np.full(len(top), np.nan)
        if self._values is None:
            return diverse
        for start in range(0, len(top), LISTS_AT_ONCE):
            part = top[start : start + LISTS_AT_ONCE]
            items, places = np.unique(part, return_inverse=True)
            vectors = np.zeros((len(items), self._width + 1))
            values = self._place[self._values[np.maximum(items, 0)]]
            np.put_along_axis(vectors, values, 1.0, axis=1)
            rows = np.where(part >= 0, places.reshape(part.shape), -1)
            diverse[start : start + LISTS_AT_ONCE] = (
                beyond_accuracy.intra_list_diversity(rows, vectors[:, :-1])
            )
        return diverse
