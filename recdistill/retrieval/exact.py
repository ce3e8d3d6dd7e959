"""Exact top-K retrieval in the graph (brute force), with stock TensorFlow ops only.

An index has one embedding for each row of the catalogue; scores are dot products. Every
score that an index returns is finite, because JSON has no infinity: an answer with one
could not be parsed by clients. This module has the base class of all indexes and the
exact index; the approximate one is in `recdistill.retrieval.ivf`.

The number of items is read from the variables and is not part of the graph. A catalogue
can therefore be replaced by writing new variables and keeping the graph.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from recdistill.retrieval.item_storage import (
    Storage,
    column_scales,
    from_storage,
    products,
    to_storage,
)

LOWEST = float(np.finfo("float32").min)
"""Score of an empty place in an answer: the lowest finite float32."""

LARGEST = 1e15
"""Largest magnitude of an embedding's entry; dot products then do not overflow."""

BLOCK = 128
"""Length of the blocks of scores in the first level of `best`."""


def bounded(vectors: tf.Tensor) -> tf.Tensor:
    """Clips vectors so that their dot products are finite.

    Extreme raw numbers in a request can make a tower return infinity or NaN. Non-finite
    entries become 0, and all others are clipped to ±`LARGEST`.

    Args:
        vectors: `(rows, dim)`, of any float type.

    Returns:
        `(rows, dim)` float32; embeddings of usual size are unchanged.

    Examples:
        >>> bounded(tf.constant([[0.5, float("nan"), float("inf"), -1e30]])).numpy()
        array([[ 5.e-01,  0.e+00,  0.e+00, -1.e+15]], dtype=float32)
    """
    vectors = tf.cast(vectors, tf.float32)
    vectors = tf.where(tf.math.is_finite(vectors), vectors, tf.zeros_like(vectors))
    return tf.clip_by_value(vectors, -LARGEST, LARGEST)


def check_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Returns the embeddings as float32, after checking their shape and values.

    Raises:
        ValueError: If the shape is not `(items, dim)` with at least one of each, or an
            entry is not finite or exceeds ±`LARGEST`.
    """
    values = np.asarray(embeddings, "float32")
    if values.ndim != 2 or not values.size:
        raise ValueError(
            "`embeddings` must be (items, dim) with at least one of each. "
            f"Received: shape {values.shape}"
        )
    bad = np.flatnonzero(~(np.abs(values) <= LARGEST).all(axis=1))
    if len(bad):
        raise ValueError(
            f"`embeddings` must be finite and within ±{LARGEST:g}. "
            f"Received: {values[bad[0]]} in row {bad[0]}"
        )
    return values


def best(scores: tf.Tensor, k: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Exact top K of each row, in two levels; ties are broken by position.

    The first level takes the maximum of each block of neighbouring scores, the second
    the top `k` inside the `k` best blocks. This is exact: each block that ranks before
    an item's block has an item that ranks before this item, so an item of the top `k`
    is in one of the first `k` blocks.

    Args:
        scores: `(batch, n)` float32; minus infinity marks entries to leave out.
        k: Number of entries to return, a scalar from 1 to n.

    Returns:
        Scores `(batch, k)` and positions `(batch, k)` int32. The position of a score of
        minus infinity is meaningless.

    Examples:
        >>> scores, places = best(tf.constant([[1.0, 3.0, 2.0, 3.0]]), 3)
        >>> scores.numpy(), places.numpy()
        (array([[3., 3., 2.]], dtype=float32), array([[1, 3, 2]], dtype=int32))
    """
    batch, width = tf.unstack(tf.shape(scores))
    count = (width + BLOCK - 1) // BLOCK
    padding = [[0, 0], [0, count * BLOCK - width]]
    scores = tf.pad(scores, padding, constant_values=-np.inf)
    blocks = tf.reshape(scores, tf.stack([batch, count, BLOCK]))
    _, winners = tf.math.top_k(tf.reduce_max(blocks, axis=2), tf.minimum(k, count))
    # Sorted by position, so that equal scores stay in the order of their positions.
    winners = tf.sort(winners, axis=1)
    inside = tf.gather(blocks, winners, batch_dims=1)
    inside = tf.reshape(inside, tf.stack([batch, tf.shape(winners)[1] * BLOCK]))
    scores, place = tf.math.top_k(inside, k)
    block = tf.gather(winners, place // BLOCK, batch_dims=1)
    return scores, block * BLOCK + place % BLOCK


def is_listed(rows: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Whether each row is in another list of the same query.

    Args:
        rows: `(batch, n)` int32.
        others: `(batch, m)` int32; m may be 0.

    Returns:
        `(batch, n)` bool.

    Examples:
        >>> is_listed(tf.constant([[4, 7, 9]]), tf.constant([[9, 1, 4]])).numpy()
        array([[ True, False,  True]])
    """
    # `searchsorted` needs at least one entry; this one is never equal to a row.
    others = tf.pad(others, [[0, 0], [0, 1]], constant_values=np.iinfo("int32").min)
    others = tf.sort(others, axis=1)
    place = tf.searchsorted(others, rows)
    place = tf.minimum(place, tf.shape(others)[1] - 1)
    return tf.equal(tf.gather(others, place, batch_dims=1), rows)


def mark_missing(rows: tf.Tensor, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sets row -1 and score `LOWEST` where the score is minus infinity."""
    left = scores > -np.inf
    return tf.where(left, rows, -tf.ones_like(rows)), tf.maximum(scores, LOWEST)


def mark_beyond(
    rows: tf.Tensor, scores: tf.Tensor, counts: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sets row -1 and score `LOWEST` after the first `counts` places of each query."""
    inside = tf.range(tf.shape(rows)[1]) < counts[:, None]
    return tf.where(inside, rows, -1), tf.where(inside, scores, LOWEST)


def mask_excluded(scores: tf.Tensor, exclude: tf.Tensor) -> tf.Tensor:
    """Sets the scores `(batch, items)` of the excluded rows to minus infinity."""
    place = tf.where(exclude >= 0)
    rows = tf.cast(tf.gather_nd(exclude, place), tf.int64)
    cells = tf.stack([place[:, 0], rows], axis=1)
    return tf.tensor_scatter_nd_update(scores, cells, tf.fill(tf.shape(rows), -np.inf))


def best_of_all(
    scores: tf.Tensor, k: int | tf.Tensor, exclude: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows and scores of the top `k` from scores `(batch, items)` of all items."""
    scores, rows = best(mask_excluded(scores, exclude), k)
    return mark_missing(rows, scores)


class Index(tf.Module):  # type: ignore[misc]
    """Base class of indexes over the embeddings of a catalogue.

    A subclass defines `search`, `vectors` and `items`.
    """

    def search(
        self, queries: tf.Tensor, counts: tf.Tensor, k: tf.Tensor, exclude: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the top items of the catalogue for each query.

        The result of a query must not depend on the other queries.

        Args:
            queries: As in `top_k`.
            counts: `(batch,)` int32, number of items that each query needs.
            k: The largest of `counts`, at least 1: the width of the result.
            exclude: As in `top_k`.

        Returns:
            Rows `(batch, k)` and scores `(batch, k)`, of which the first `counts` of
            each query are right.
        """
        raise NotImplementedError(f"{type(self).__name__} must define search.")

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the embeddings `(batch, n, dim)` of catalogue rows `(batch, n)`."""
        raise NotImplementedError(f"{type(self).__name__} must define vectors.")

    def items(self) -> tf.Tensor:
        """The number of items, a scalar int32."""
        raise NotImplementedError(f"{type(self).__name__} must define items.")

    def score(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Scores given items.

        Args:
            queries: `(batch, dim)` float32, entries within ±`LARGEST`.
            rows: `(batch, n)` int32 catalogue rows; -1 means "no item".

        Returns:
            `(batch, n)` float32; `LOWEST` for row -1.
        """
        scores = tf.linalg.matvec(self.vectors(tf.maximum(rows, 0)), queries)
        return tf.where(rows >= 0, scores, tf.fill(tf.shape(rows), LOWEST))

    def top_k(
        self,
        queries: tf.Tensor,
        k: int | tf.Tensor,
        exclude: tf.Tensor | None = None,
        allow: tf.Tensor | None = None,
        limited: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the top `k` items of each query, the best first.

        Ties are broken by row, so results are deterministic. If fewer than `k` items
        are available, the result is padded with row -1 and score `LOWEST`. The result
        of a query does not depend on the other queries of the batch, apart from its
        padding to the largest `k`.

        Args:
            queries: `(batch, dim)` float32, entries within ±`LARGEST`.
            k: Number of items, from 1 to the size of the catalogue, or `(batch,)` int32
                with one number from 0 for each query.
            exclude: `(batch, n)` int32 rows to leave out; -1 is ignored, and rows may
                be repeated.
            allow: `(batch, n)` int32, the only candidates of a limited query, without
                the excluded ones; -1 is ignored. All of them are scored, by any index.
            limited: `(batch,)` bool, the queries that are limited to `allow`.

        Returns:
            Rows `(batch, k)` int32 and scores `(batch, k)` float32; for several `k`,
            the largest is the width, at least 1.
        """
        batch = tf.shape(queries)[0]
        counts = tf.broadcast_to(k, [batch])
        several = tf.convert_to_tensor(k).shape.rank == 1
        # A batch without rows has no largest k.
        width = tf.maximum(tf.reduce_max(k), 1) if several else k
        if exclude is None:
            exclude = tf.zeros([batch, 0], tf.int32)
        if allow is None or limited is None:
            rows, scores = self.search(queries, counts, width, exclude)
        else:
            rows, scores = self._limited(
                queries, counts, width, exclude, allow, limited
            )
        return mark_beyond(rows, scores, counts)

    def _limited(
        self,
        queries: tf.Tensor,
        counts: tf.Tensor,
        k: tf.Tensor,
        exclude: tf.Tensor,
        allow: tf.Tensor,
        limited: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the top `k`; limited queries get only their allowed rows."""
        shape = tf.stack([tf.shape(queries)[0], k])
        none = tf.fill(shape, -1), tf.fill(shape, LOWEST)
        free = tf.cond(
            tf.reduce_all(limited),
            lambda: none,
            lambda: self.search(queries, counts, k, exclude),
        )
        own = tf.cond(
            tf.reduce_any(limited),
            lambda: self._best_of(queries, k, exclude, allow),
            lambda: none,
        )
        rows, scores = (
            tf.where(limited[:, None], mine, all_)
            for mine, all_ in zip(own, free, strict=True)
        )
        return rows, scores

    def _best_of(
        self,
        queries: tf.Tensor,
        k: int | tf.Tensor,
        exclude: tf.Tensor,
        allow: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the top `k` of the allowed rows."""
        rows = tf.sort(allow, axis=1)
        before = tf.pad(rows, [[0, 0], [1, 0]], constant_values=-1)[:, :-1]
        fits = (rows != before) & (rows >= 0) & ~is_listed(rows, exclude)
        scores = tf.where(fits, self.score(queries, rows), -np.inf)
        padding = [[0, 0], [0, tf.maximum(k - tf.shape(rows)[1], 0)]]
        scores = tf.pad(scores, padding, constant_values=-np.inf)
        scores, place = tf.math.top_k(scores, k)
        return mark_missing(
            tf.gather(tf.pad(rows, padding), place, batch_dims=1), scores
        )


def stored_scales(scales: np.ndarray | None) -> tf.Variable | None:
    """The variable of an index with the scales of int8 columns; None without them."""
    if scales is None:
        return None
    return tf.Variable(tf.constant(scales), trainable=False, name="scales")


class ExactIndex(Index):
    """Exact index (brute force): a search scores all items.

    Args:
        embeddings: `(items, dim)`, at least one item, entries within ±`LARGEST`.
        storage: Storage type of the embeddings. Scores are always float32; only the
            items are rounded.

    Raises:
        ValueError: If the shape is not `(items, dim)`, or an entry is not finite or too
            large.

    Examples:
        >>> index = ExactIndex(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        >>> rows, scores = index.top_k(tf.constant([[2.0, 1.0]]), k=2)
        >>> rows.numpy(), scores.numpy()
        (array([[2, 0]], dtype=int32), array([[3., 2.]], dtype=float32))
    """

    def __init__(self, embeddings: np.ndarray, storage: Storage = "float32") -> None:
        super().__init__(name="index")
        values = check_embeddings(embeddings)
        self.size, self.dim = values.shape
        scales = column_scales(values, storage)
        self.embeddings = tf.Variable(
            to_storage(values, storage, scales),
            trainable=False,
            name="embeddings",
            shape=[None, self.dim],
        )
        self.scales = stored_scales(scales)

    def items(self) -> tf.Tensor:
        """The number of items."""
        return tf.shape(self.embeddings)[0]

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the embeddings of catalogue rows."""
        return from_storage(tf.gather(self.embeddings, rows), self.scales)

    def search(
        self, queries: tf.Tensor, counts: tf.Tensor, k: tf.Tensor, exclude: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the top `k` of the catalogue for each query."""
        table = tf.convert_to_tensor(self.embeddings)
        scores = products(queries, table, self.scales)
        return best_of_all(scores, k, exclude)
