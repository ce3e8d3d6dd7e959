"""Lists of neighbouring items, and how many of them a search must look into.

The lists have one capacity, so the cost of a search is known beforehand whatever the
data: k-means finds the coarse clusters, and each is halved along its principal axis,
again and again, until its parts fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.cluster.vq import kmeans2, vq

SAMPLE = 64
"""Rows for each centroid that k-means sees."""

ROUNDS = 8
"""Rounds of k-means; more change little of what a search finds."""


@dataclass(frozen=True)
class Lists:
    """Items by neighbourhood.

    Attributes:
        centroids: `(lists, dim)` float32, the mean of each list's items.
        members: `(lists, capacity)` int32 rows, ascending, then -1 as padding.
    """

    centroids: np.ndarray
    members: np.ndarray

    def list_of_row(self, items: int) -> np.ndarray:
        """The list of each row, `(items,)`."""
        lists = np.empty(items, int)
        real = self.members >= 0
        lists[self.members[real]] = np.nonzero(real)[0]
        return lists


def capacity_of(items: int) -> int:
    """Most items of a list: near √items / 8, a power of 2 from 16 to 256.

    Halving the lists hardly changes how many of them must be read, so short lists are
    cheap, until there are so many that choosing among them costs more than reading.

    Example:
        >>> capacity_of(1_000_000), capacity_of(100_000), capacity_of(100)
        (128, 32, 16)
    """
    return int(np.clip(2 ** round(np.log2(np.sqrt(items) / 8)), 16, 256))


def neighbourhoods(embeddings: np.ndarray, seed: int) -> Lists:
    """Puts every item into one list, together with items like it.

    Args:
        embeddings: `(items, dim)` float32.
        seed: Of the rows that k-means starts from and learns from.

    Returns:
        The lists; none is empty, and all parts of a cluster are filled alike.

    Reference: Lloyd (1982) for k-means; Jégou, Douze, Schmid (2011) for inverted
        lists.
    """
    items, capacity = len(embeddings), capacity_of(len(embeddings))
    rng = np.random.default_rng(seed)
    count = max(1, round(np.sqrt(items)))
    sample = rng.permutation(items)[: SAMPLE * count]
    start = embeddings[sample[:count]]
    with warnings.catch_warnings():
        # A centroid without items keeps its place; its cluster has no list.
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        learnt, _ = kmeans2(embeddings[sample], start, ROUNDS, minit="matrix")
    cluster, _ = vq(embeddings, learnt.astype("float32"))
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
    return Lists(centroids.astype("float32"), members)


def _halved(
    embeddings: np.ndarray, rows: np.ndarray, parts: int
) -> Iterator[np.ndarray]:
    """The rows in so many parts, cut along the axis in which they differ most."""
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
    lists: Lists, queries: np.ndarray, best: np.ndarray, items: int
) -> np.ndarray:
    """The share of the true best items that a search finds, by the lists it reads.

    A search reads the lists whose centroids score highest and is exact within them, so
    an item is found when its list's place in that order is within the lists read.

    Args:
        lists: The lists.
        queries: `(queries, dim)`.
        best: `(queries, k)` rows of the true top k.
        items: Number of items.

    Returns:
        `(queries, lists)`: entry `p` is the recall@k when `p + 1` lists are read.

    Example: of the two best items one is in the first list, one in the second.
        >>> two = Lists(np.array([[1.0], [0.5]]), np.array([[0], [1]]))
        >>> recall_by_probes(two, np.array([[1.0]]), np.array([[0, 1]]), 2)
        array([[0.5, 1. ]])
    """
    count = len(lists.centroids)
    order = np.argsort(-(queries @ lists.centroids.T), axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(count)[None], axis=1)
    needed = np.take_along_axis(place, lists.list_of_row(items)[best], axis=1)
    found = np.zeros((len(queries), count))
    for row, places in enumerate(needed):
        found[row] = np.bincount(places, minlength=count).cumsum() / len(places)
    return found
