"""Building an index: exact or IVF, with its recall measured on real queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recdistill.retrieval.clustering import InvertedLists, build_lists, recall_by_probes
from recdistill.retrieval.exact import ExactIndex, Index, check_embeddings
from recdistill.retrieval.item_storage import Storage, as_stored
from recdistill.retrieval.ivf import IVFIndex

IVF_FROM = 50_000
"""Smallest catalogue for which "auto" tries IVF; below, exact search takes 1 ms."""

WORTH_IT = 0.25
"""Largest share of the lists that a search may read for "auto" to choose IVF."""


@dataclass(frozen=True)
class IndexSettings:
    """Settings of an index.

    Attributes:
        kind: "exact", "ivf" or "auto". "auto" chooses IVF for a catalogue of at least
            50,000 items if it reaches the recall by reading at most a quarter of it.
        storage: Storage type of the embeddings.
        target_recall: Share of the true top k that IVF must find, above 0 and up to 1.
        seed: Seed of k-means.
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
    """An index and the measurements of it.

    Attributes:
        index: The index.
        kind: "exact" or "ivf".
        expected_recall: Recall of the index's top k on all queries.
        facts: All measurements, JSON-ready, for the manifest.
    """

    index: Index
    kind: Literal["exact", "ivf"]
    expected_recall: float
    facts: dict[str, Any]


def build_index(
    embeddings: np.ndarray, queries: np.ndarray, k: int, settings: IndexSettings
) -> BuiltIndex:
    """Builds the index of a catalogue and measures its recall on real queries.

    For IVF, the number of lists to read (probes) is chosen on every second query, and
    the reported recall is measured on the others, so it is not biased by the choice.

    Args:
        embeddings: `(items, dim)` float32.
        queries: `(queries, dim)` float32, embeddings of real queries.
        k: Number of items for which the recall is measured; all if there are fewer.
        settings: Settings of the index.

    Raises:
        ValueError: If an embedding is not finite or too large.
    """
    embeddings = check_embeddings(embeddings)
    k = min(k, len(embeddings))
    stored = as_stored(embeddings, settings.storage)
    facts: dict[str, Any] = {"storage": settings.storage, "k": k}
    facts["queries"] = len(queries)
    if settings.storage != "float32":
        truth = _true_best(queries, embeddings, k)
        facts["storage_recall"] = _overlap(_true_best(queries, stored, k), truth)
    small = settings.kind == "auto" and len(embeddings) < IVF_FROM
    if settings.kind != "exact" and not small:
        lists = build_lists(stored, settings.seed)
        best = _true_best(queries, stored, k)
        measured = _choose(lists, queries, best, len(stored), settings.target_recall)
        expected = measured.pop("expected")
        if settings.kind == "ivf" or measured["share_read"] <= WORTH_IT:
            ivf = IVFIndex(embeddings, lists, measured["probes"], k, settings.storage)
            facts = {"kind": "ivf", **facts, **measured}
            return BuiltIndex(ivf, "ivf", expected, facts)
    exact = ExactIndex(embeddings, settings.storage)
    return BuiltIndex(exact, "exact", 1.0, {"kind": "exact", **facts})


def _choose(
    lists: InvertedLists,
    queries: np.ndarray,
    best: np.ndarray,
    items: int,
    target: float,
) -> dict[str, Any]:
    """Chooses the number of lists to read and measures the recall curve."""
    found = recall_by_probes(lists, queries, best, items)
    choosing, judging = found[::2].mean(axis=0), found[1::2]
    # A mean of 0.98 may be inexact in its last bit.
    enough = choosing >= target - 1e-9
    probes = int(enough.argmax()) + 1
    count, capacity = lists.members.shape
    if 2 * probes > count:  # Then `IVFIndex` scores all items.
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
    """Rows of the true top k `(queries, k)`, computed a few queries at a time."""
    pieces = []
    for start in range(0, len(queries), 16):
        scores = queries[start : start + 16] @ items.T
        pieces.append(np.argpartition(-scores, k - 1, axis=1)[:, :k])
    return np.concatenate(pieces)


def _overlap(rows: np.ndarray, truth: np.ndarray) -> float:
    shared = [len(np.intersect1d(*pair)) for pair in zip(rows, truth, strict=True)]
    return float(np.mean(shared) / truth.shape[1])
