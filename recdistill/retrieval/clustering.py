"""Inverted lists by k-means, and the recall for a number of lists searched (IVF).

All lists have the same capacity, so the cost of a search does not depend on the data.
k-means finds coarse clusters. Each cluster is then split in two along its principal
axis, repeatedly, until its parts fit into a list.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.cluster.vq import kmeans2, vq

SAMPLE = 64
"""Rows in the sample of k-means for each centroid."""

ROUNDS = 8
"""Iterations of k-means; further iterations hardly change the recall."""


@dataclass(frozen=True)
class InvertedLists:
    """Inverted lists: each item is in one list, together with similar items.

    Attributes:
        centroids: `(lists, dim)` float32, the mean of each list's items.
        members: `(lists, capacity)` int32 rows, in ascending order, padded with -1.
    """

    centroids: np.ndarray
    members: np.ndarray


def capacity_of(items: int) -> int:
    """Capacity of a list: near √items / 8, a power of 2 from 16 to 256.

    Shorter lists are cheaper, because a search with half the capacity reads only
    slightly more lists. Below a certain capacity, however, choosing the lists costs
    more than reading them.

    Examples:
        >>> capacity_of(1_000_000), capacity_of(100_000), capacity_of(100)
        (128, 32, 16)
    """
    return int(np.clip(2 ** round(np.log2(np.sqrt(items) / 8)), 16, 256))


def build_lists(embeddings: np.ndarray, seed: int) -> InvertedLists:
    """Builds inverted lists with k-means; each item is in one list.

    Args:
        embeddings: `(items, dim)` float32.
        seed: Seed of the sample and the initial centroids of k-means.

    Returns:
        The lists. No list is empty, and the lists of a cluster have similar lengths.

    Reference: Lloyd (1982) for k-means; Jégou, Douze, Schmid (2011) for inverted
        lists.
    """
    items, capacity = len(embeddings), capacity_of(len(embeddings))
    rng = np.random.default_rng(seed)
    count = max(1, round(np.sqrt(items)))
    sample = rng.permutation(items)[: SAMPLE * count]
    start = embeddings[sample[:count]]
    with warnings.catch_warnings():
        # A centroid without items is harmless: its cluster gets no list.
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        learned, _ = kmeans2(embeddings[sample], start, ROUNDS, minit="matrix")
    cluster, _ = vq(embeddings, learned.astype("float32"))
    order = np.argsort(cluster, kind="stable")
    ends = np.cumsum(np.bincount(cluster, minlength=count))
    parts = [
        np.sort(part)
        for rows in np.split(order, ends[:-1])
        if len(rows)
        for part in _halved(embeddings, rows, -(-len(rows) // capacity))
    ]
    members = np.full((len(parts), capacity), -1, "int32")
    for place, part in enumerate(parts):
        members[place, : len(part)] = part
    centroids = np.stack([embeddings[part].mean(axis=0) for part in parts])
    return InvertedLists(centroids.astype("float32"), members)


def _halved(
    embeddings: np.ndarray, rows: np.ndarray, parts: int
) -> Iterator[np.ndarray]:
    """Splits the rows into `parts`, along the axis with the largest variance."""
    if parts == 1:
        yield rows
        return
    vectors = embeddings[rows].astype("float64")
    vectors -= vectors.mean(axis=0)
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    order = rows[np.argsort(vectors @ axes[:, -1], kind="stable")]
    cut = len(rows) * (parts // 2) // parts
    yield from _halved(embeddings, order[:cut], parts // 2)
    yield from _halved(embeddings, order[cut:], parts - parts // 2)


def recall_by_probes(
    lists: InvertedLists, queries: np.ndarray, best: np.ndarray, items: int
) -> np.ndarray:
    """Recall@k of an IVF search for each number of lists read (probes).

    A search reads the lists whose centroids score highest and is exact within them. It
    therefore finds an item if and only if it reads the item's list.

    Args:
        lists: The lists.
        queries: `(queries, dim)`.
        best: `(queries, k)`, rows of the true top k.
        items: Number of items.

    Returns:
        `(queries, lists)`: entry `p` is the recall@k with `p + 1` lists read.

    Examples:
        One of the two best items is in the first list, the other in the second.

        >>> two = InvertedLists(np.array([[1.0], [0.5]]), np.array([[0], [1]]))
        >>> recall_by_probes(two, np.array([[1.0]]), np.array([[0, 1]]), 2)
        array([[0.5, 1. ]])
    """
    count = len(lists.centroids)
    list_of_row = np.empty(items, int)
    real = lists.members >= 0
    list_of_row[lists.members[real]] = np.nonzero(real)[0]
    order = np.argsort(-(queries @ lists.centroids.T), axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(count)[None], axis=1)
    needed = np.take_along_axis(place, list_of_row[best], axis=1)
    found = np.zeros((len(queries), count))
    for row, places in enumerate(needed):
        found[row] = np.bincount(places, minlength=count).cumsum() / len(places)
    return found
