"""IVF retrieval in the graph: only the inverted lists near the query are scored.

This is an inverted file with flat lists (Jégou, Douze, Schmid, 2011). The lists come
from `recdistill.retrieval.clustering`. Their embeddings are stored one list after
another in one variable, and all lists have the same capacity. A search therefore copies
and multiplies a few long contiguous blocks of memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from recdistill.retrieval.clustering import InvertedLists
from recdistill.retrieval.exact import (
    Index,
    best,
    best_of_all,
    check_embeddings,
    is_listed,
    mark_missing,
    stored_scales,
)
from recdistill.retrieval.item_storage import (
    Storage,
    column_scales,
    from_storage,
    products,
    to_storage,
)


class IVFIndex(Index):
    """IVF index: a search scores only the lists whose centroids are nearest.

    A search for up to `probes_k` items, including excluded ones, reads `probes` lists;
    a search for more items reads proportionally more lists. If these lists have too few
    items, or are more than half of all lists, the search scores all items. It therefore
    returns `k` items whenever the catalogue has them.

    Args:
        embeddings: `(items, dim)`, entries within ±`LARGEST`.
        lists: The inverted lists.
        probes: Number of lists read for up to `probes_k` items; at least 1.
        probes_k: The k for which `probes` was chosen.
        storage: Storage type of the embeddings; scores are float32.

    Raises:
        ValueError: If the lists do not have each row once, or `probes` or `probes_k` is
            out of range.

    Examples:
        Item 2 would be the best, but its list is not read.

        >>> lists = InvertedLists(
        ...     np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0, 2], [1, -1]])
        ... )
        >>> items = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, -2.0]])
        >>> index = IVFIndex(items, lists, probes=1, probes_k=1)
        >>> rows, scores = index.top_k(tf.constant([[0.5, 1.0]]), k=1)
        >>> rows.numpy(), scores.numpy()
        (array([[1]], dtype=int32), array([[1.]], dtype=float32))
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        lists: InvertedLists,
        probes: int,
        probes_k: int,
        storage: Storage = "float32",
    ) -> None:
        super().__init__(name="index")
        values, members = check_embeddings(embeddings), lists.members
        if not 1 <= probes <= len(members):
            raise ValueError(
                f"`probes` must be from 1 to the number of lists, {len(members)}. "
                f"Received: probes={probes}"
            )
        if probes_k < 1:
            raise ValueError(f"`probes_k` must be positive. Received: {probes_k}")
        self.size, self.dim = values.shape
        real = members >= 0
        if not np.array_equal(np.sort(members[real]), np.arange(self.size)):
            raise ValueError(
                "`lists` must have each row once. Received: "
                f"{real.sum()} members for {self.size} rows"
            )
        by_list = np.where(real[..., None], values[np.maximum(members, 0)], 0.0)
        place = np.empty(self.size, "int32")
        place[members[real]] = np.flatnonzero(real)

        def variable(value: tf.Tensor, name: str, *fixed: int) -> tf.Variable:
            shape = [None] * (len(value.shape) - len(fixed)) + list(fixed)
            return tf.Variable(value, trainable=False, name=name, shape=shape)

        self.centroids = variable(
            tf.cast(lists.centroids, tf.float32), "centroids", self.dim
        )
        scales = column_scales(values, storage)
        by_list = to_storage(tf.constant(by_list), storage, scales)
        self.lists = variable(by_list, "lists", self.dim)
        self.scales = stored_scales(scales)
        self.members = variable(tf.cast(members, tf.int32), "members")
        self.filled = variable(tf.cast(real.sum(axis=1), tf.int32), "filled")
        self.places = variable(tf.constant(place), "places")
        self.probes = variable(tf.constant(probes), "probes")
        self.probes_k = variable(tf.constant(probes_k), "probes_k")

    def items(self) -> tf.Tensor:
        """The number of items."""
        return tf.shape(self.places)[0]

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the embeddings of catalogue rows."""
        table = tf.reshape(self.lists, [-1, self.dim])
        return from_storage(tf.gather(table, tf.gather(self.places, rows)), self.scales)

    def search(
        self, queries: tf.Tensor, counts: tf.Tensor, k: tf.Tensor, exclude: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the top `k` in the nearest lists, or in all if those are too few.

        Each query reads the lists that its own count and exclusions need.
        """
        # Repeated rows count once, because padding may repeat them.
        ordered = tf.pad(tf.sort(exclude, axis=1), [[0, 0], [1, 0]], constant_values=-1)
        distinct = ordered[:, 1:] != ordered[:, :-1]
        excluded = tf.reduce_sum(tf.cast(distinct, tf.int32), axis=1)
        wanted = tf.minimum(counts + excluded, self.items())
        lists = tf.shape(self.centroids)[0]
        probes = self._probes_for(wanted)
        # Queries that would read more than half of the lists score all items.
        probes = tf.where(probes <= lists // 2, probes, 0)
        near = tf.matmul(queries, self.centroids, transpose_b=True)
        # The maximum over a batch without rows is negative.
        _, chosen = tf.math.top_k(near, tf.maximum(tf.reduce_max(probes), 0))
        read = tf.range(tf.shape(chosen)[1]) < probes[:, None]
        held = tf.where(read, tf.gather(self.filled, chosen), 0)
        few = (probes > 0) & (tf.reduce_sum(held, axis=1) >= wanted)

        given = (queries, exclude, chosen, probes, wanted)

        def near_ones(place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return self._near([tf.gather(each, place) for each in given], k)

        def all_of_them(place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            scores = self._all_scores(tf.gather(queries, place))
            return best_of_all(scores, k, tf.gather(exclude, place))

        rows, scores = tf.cond(
            tf.reduce_all(few) & (tf.size(few) > 0),
            lambda: self._near(given, k),
            lambda: _joined((near_ones, all_of_them), (few, ~few), k),
        )
        return rows, scores

    def _probes_for(self, wanted: tf.Tensor) -> tf.Tensor:
        """Number of lists to read for `wanted` items, at least `probes`."""
        probes, known = (tf.cast(v, tf.int64) for v in (self.probes, self.probes_k))
        lists = (tf.cast(wanted, tf.int64) * probes + known - 1) // known
        return tf.cast(tf.clip_by_value(lists, probes, 2**30), tf.int32)

    def _near(
        self, inputs: Sequence[tf.Tensor], k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the top `k` of each query's lists, without the excluded items.

        Args:
            inputs: Queries `(n, dim)`, at least one; excluded rows `(n, m)`; lists
                `(n, …)`, the nearest first; how many of them to read `(n,)`; how many
                items are needed, the excluded ones included, `(n,)`.
            k: Width of the result.
        """
        queries, exclude, chosen, probes, wanted = inputs
        most = tf.maximum(tf.reduce_max(wanted), k)

        def one(row: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
            query, lists, count, own = row
            lists = lists[:count]
            vectors = tf.reshape(tf.gather(self.lists, lists), [-1, self.dim])
            scores = tf.linalg.matvec(from_storage(vectors, self.scales), query)
            rows = tf.reshape(tf.gather(self.members, lists), [-1])
            scores = tf.where(rows >= 0, scores, -np.inf)
            scores, place = best(scores[None], own)
            gap = [[0, most - own]]
            return (
                tf.pad(tf.gather(rows, place[0]), gap, constant_values=-1),
                tf.pad(scores[0], gap, constant_values=-np.inf),
            )

        # One query at a time: the lists of all queries may not fit into memory.
        rows, scores = tf.map_fn(
            one,
            (queries, chosen, probes, wanted),
            fn_output_signature=(tf.int32, tf.float32),
        )
        scores = tf.where(is_listed(rows, exclude), -np.inf, scores)
        order = tf.argsort(rows, axis=1)
        rows = tf.gather(rows, order, batch_dims=1)
        scores, place = tf.math.top_k(tf.gather(scores, order, batch_dims=1), k)
        return mark_missing(tf.gather(rows, place, batch_dims=1), scores)

    def _all_scores(self, queries: tf.Tensor) -> tf.Tensor:
        """Scores of all items, `(batch, items)`."""
        table = tf.reshape(self.lists, [-1, self.dim])
        scores = products(queries, table, self.scales)
        return tf.gather(scores, self.places, axis=1)


def _joined(
    finders: tuple[Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]], ...],
    masks: tuple[tf.Tensor, ...],
    k: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Results of queries that are searched in different ways, in their order.

    Args:
        finders: Each finds the top `k` of the queries at given places of the batch. It
            is not called if there are none.
        masks: `(batch,)` bool, the queries of each finder.
        k: Width of the results.
    """
    places = [tf.cast(tf.where(mask)[:, 0], tf.int32) for mask in masks]
    found = []
    for find, place in zip(finders, places, strict=True):
        none = tf.zeros([0, k], tf.int32), tf.zeros([0, k])
        some = functools.partial(find, place)
        found.append(tf.cond(tf.size(place) > 0, some, lambda none=none: none))
    rows, scores = zip(*found, strict=True)
    return tf.dynamic_stitch(places, rows), tf.dynamic_stitch(places, scores)
