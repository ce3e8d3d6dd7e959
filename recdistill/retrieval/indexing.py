"""Which index a catalogue gets, and what it costs in recall: measured, not assumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recdistill.retrieval.clustering import Lists, neighbourhoods, recall_by_probes
from recdistill.retrieval.exact import ExactIndex, Index, Storage, as_stored, checked
from recdistill.retrieval.ivf import IVFIndex

IVF_FROM = 50_000
"""Items from which "auto" tries IVF: below, scoring all of them takes a millisecond."""

WORTH_IT = 0.25
"""Largest share of the catalogue that a search of "auto"'s IVF may read."""


@dataclass(frozen=True)
class IndexSettings:
    """How a catalogue is to be searched.

    Attributes:
        kind: "exact", "ivf", or "auto": IVF for a catalogue of 50,000 items or more
            where it reaches the recall by reading a quarter of it or less.
        storage: How embeddings are kept.
        target_recall: Share of the true top k that IVF must find, above 0 and up to 1.
        seed: Of k-means.
    """

    kind: Literal["exact", "ivf", "auto"] = "exact"
    storage: Storage = "float32"
    target_recall: float = 0.98
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.target_recall <= 1.0:
            raise ValueError(
                "`target_recall` must be above 0 and up to 1. "
                f"Received: target_recall={self.target_recall}"
            )


@dataclass(frozen=True)
class BuiltIndex:
    """An index and what is known about it.

    Attributes:
        index: The index.
        kind: "exact" or "ivf".
        expected_recall: The recall of its top k on the queries, from their scores.
        facts: All that was measured, JSON-ready; goes into the manifest.
    """

    index: Index
    kind: Literal["exact", "ivf"]
    expected_recall: float
    facts: dict[str, Any]


def build_index(
    embeddings: np.ndarray, queries: np.ndarray, k: int, settings: IndexSettings
) -> BuiltIndex:
    """Builds the index of a catalogue, and measures it on real queries.

    For IVF, every other query decides how many lists are read, and the rest say what
    recall that gives: the figure is not one that was chosen for being high.

    Args:
        embeddings: `(items, dim)` float32.
        queries: `(queries, dim)` float32, of real queries.
        k: The recall is that of the top `k`.
        settings: What is wanted.

    Raises:
        ValueError: If the embeddings cannot be scored.
    """
    stored = as_stored(embeddings, settings.storage)
    facts: dict[str, Any] = {"storage": settings.storage, "k": k}
    facts["queries"] = len(queries)
    if settings.storage != "float32":
        truth = _true_best(queries, embeddings, k)
        facts["storage_recall"] = _overlap(_true_best(queries, stored, k), truth)
    small = settings.kind == "auto" and len(embeddings) < IVF_FROM
    if settings.kind != "exact" and not small:
        lists = neighbourhoods(checked(stored), settings.seed)
        best = _true_best(queries, stored, k)
        measured = _choose(lists, queries, best, len(stored), settings.target_recall)
        expected = measured.pop("expected")
        if settings.kind == "ivf" or measured["share_read"] <= WORTH_IT:
            ivf = IVFIndex(stored, lists, measured["probes"], k, settings.storage)
            facts = {"kind": "ivf", **facts, **measured}
            return BuiltIndex(ivf, "ivf", expected, facts)
    exact = ExactIndex(embeddings, settings.storage)
    return BuiltIndex(exact, "exact", 1.0, {"kind": "exact", **facts})


def _choose(
    lists: Lists, queries: np.ndarray, best: np.ndarray, items: int, target: float
) -> dict[str, Any]:
    """The number of lists to read, and the curve that it is a point of."""
    found = recall_by_probes(lists, queries, best, items)
    choosing, judging = found[::2].mean(axis=0), found[1::2]
    # Whole lists found make sums like 0.98 inexact in the last bit.
    enough = choosing >= target - 1e-9
    probes = int(enough.argmax()) + 1
    count, capacity = lists.members.shape
    if 2 * probes > count:  # Then `IVFIndex` scores everything.
        probes = count
    points = sorted({*(2**p for p in range(count.bit_length())), probes, count})
    curve = found.mean(axis=0)
    return {
        "lists": count,
        "capacity": capacity,
        "filled": round(items / (count * capacity), 4),
        "target_recall": target,
        "probes": probes,
        "share_read": round(probes / count, 6),
        "recall": float((judging if len(judging) else found)[:, probes - 1].mean()),
        "recall_curve": [[p, round(float(curve[p - 1]), 6)] for p in points],
        "expected": float(curve[probes - 1]),
    }


def _true_best(queries: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Rows of the true top k `(queries, k)`, a few queries at a time."""
    pieces = []
    for start in range(0, len(queries), 16):
        scores = queries[start : start + 16] @ items.T
        pieces.append(np.argpartition(-scores, k - 1, axis=1)[:, :k])
    return np.concatenate(pieces)


def _overlap(rows: np.ndarray, truth: np.ndarray) -> float:
    shared = [len(np.intersect1d(*pair)) for pair in zip(rows, truth, strict=True)]
    return float(np.mean(shared) / truth.shape[1])
