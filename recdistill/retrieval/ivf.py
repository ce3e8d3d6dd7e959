"""Approximate retrieval in the graph: only the lists near the query are scored.

An inverted file with flat lists (Jégou, Douze, Schmid, 2011).
`recdistill.retrieval.clustering` makes the lists; here they lie one after another in
one variable, all of one capacity, so a search copies a few long stretches of memory and
multiplies them.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from recdistill.retrieval.clustering import Lists
from recdistill.retrieval.exact import (
    Index,
    Storage,
    best,
    checked,
    finite,
    is_listed,
    products,
    without,
)


class IVFIndex(Index):
    """Items in lists of neighbours, of which a search reads the nearest few.

    A search reads `probes` lists, and in proportion more where more than `probes_k`
    items are wanted, excluded ones included. Where those hold too few items, or make up
    more than half of all lists, everything is scored: `k` items come back whenever the
    catalogue has them.

    Args:
        embeddings: `(items, dim)`, entries within ±`LARGEST`.
        lists: The items' neighbourhoods.
        probes: Lists read for up to `probes_k` items; at least 1.
        probes_k: The k that `probes` was chosen for.
        storage: How embeddings are kept; scores are float32.

    Raises:
        ValueError: If an argument does not fit.

    Example: item 2 is the best, but its list is not read.
        >>> lists = Lists(
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
        lists: Lists,
        probes: int,
        probes_k: int,
        storage: Storage = "float32",
    ) -> None:
        super().__init__(name="index")
        values, members = checked(embeddings), lists.members
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
                "`lists` must hold each of the rows once. Received: "
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
        self.lists = variable(tf.cast(by_list, storage), "lists", self.dim)
        self.members = variable(tf.cast(members, tf.int32), "members")
        self.filled = variable(tf.cast(real.sum(axis=1), tf.int32), "filled")
        self.places = variable(tf.constant(place), "places")
        self.probes = variable(tf.constant(probes), "probes")
        self.probes_k = variable(tf.constant(probes_k), "probes_k")

    def items(self) -> tf.Tensor:
        """The number of items."""
        return tf.shape(self.places)[0]

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Embeddings of catalogue rows."""
        table = tf.reshape(self.lists, [-1, self.dim])
        return tf.cast(tf.gather(table, tf.gather(self.places, rows)), tf.float32)

    def search(
        self, queries: tf.Tensor, k: int | tf.Tensor, exclude: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best `k` of the nearest lists, or of all where those do not suffice."""
        excluded = tf.reduce_sum(tf.cast(exclude >= 0, tf.int32), axis=1)
        # A batch has one width. Without rows there is no largest number: then 0.
        most = tf.maximum(tf.reduce_max(excluded), 0)
        wanted = tf.minimum(k + most, self.items())
        count = tf.shape(self.centroids)[0]
        probes = self._probes_for(wanted)
        near = tf.matmul(queries, self.centroids, transpose_b=True)
        _, chosen = tf.math.top_k(near, tf.minimum(probes, count))
        held = tf.reduce_sum(tf.gather(self.filled, chosen), axis=1)
        few = tf.reduce_all(held >= wanted) & (2 * probes <= count)
        rows, scores = tf.cond(
            few,
            lambda: self._near(queries, k, exclude, chosen, wanted),
            lambda: self._everything(queries, k, exclude),
        )
        return rows, scores

    def _probes_for(self, wanted: tf.Tensor) -> tf.Tensor:
        """Lists to read for so many items, at least `probes`."""
        probes, known = (tf.cast(v, tf.int64) for v in (self.probes, self.probes_k))
        lists = (tf.cast(wanted, tf.int64) * probes + known - 1) // known
        return tf.cast(tf.clip_by_value(lists, probes, 2**30), tf.int32)

    def _near(
        self,
        queries: tf.Tensor,
        k: int | tf.Tensor,
        exclude: tf.Tensor,
        chosen: tf.Tensor,
        wanted: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best of the chosen lists: `wanted` of them, less the excluded ones."""

        def one(inputs: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            query, lists = inputs
            vectors = tf.reshape(tf.gather(self.lists, lists), [-1, self.dim])
            scores = tf.linalg.matvec(tf.cast(vectors, tf.float32), query)
            rows = tf.reshape(tf.gather(self.members, lists), [-1])
            scores = tf.where(rows >= 0, scores, -np.inf)
            scores, place = best(scores[None], wanted)
            return scores[0], tf.gather(rows, place[0])

        # One query after another: the stretches of all at once may not fit in memory.
        scores, rows = tf.map_fn(
            one, (queries, chosen), fn_output_signature=(tf.float32, tf.int32)
        )
        # A map over no query knows no shapes.
        shape = tf.stack([tf.shape(queries)[0], wanted])
        scores, rows = tf.reshape(scores, shape), tf.reshape(rows, shape)
        scores = tf.where(is_listed(rows, exclude), -np.inf, scores)
        order = tf.argsort(rows, axis=1)
        rows = tf.gather(rows, order, batch_dims=1)
        scores, place = tf.math.top_k(tf.gather(scores, order, batch_dims=1), k)
        return finite(tf.gather(rows, place, batch_dims=1), scores)

    def _everything(
        self, queries: tf.Tensor, k: int | tf.Tensor, exclude: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        table = tf.reshape(self.lists, [-1, self.dim])
        scores = tf.gather(products(queries, table), self.places, axis=1)
        scores, rows = best(without(scores, exclude), k)
        return finite(rows, scores)
