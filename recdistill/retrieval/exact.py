"""Retrieval in the graph: the top K of a catalogue, with stock TensorFlow ops only.

An index holds one embedding for each catalogue row. Scores are dot products, and every
score that leaves an index is finite: JSON has no infinity, and a server that prints one
breaks its clients. This module has what all indexes share and the exact one;
`recdistill.retrieval.ivf` has the approximate one.

The number of items is no part of the graph: it is read from the variables. So another
catalogue takes the place of the first by other variables under the same graph.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import tensorflow as tf

Storage = Literal["float32", "bfloat16"]

LOWEST = float(np.finfo("float32").min)
"""Score of "no item": the lowest finite float32."""

LARGEST = 1e15
"""Largest magnitude of an embedding's entry; no dot product of two overflows."""

BLOCK = 128
"""Neighbouring scores that the selection first looks at together."""

PIECE = 16_384
"""Rows of a bfloat16 table that are widened at a time: at dim 64, 4 MiB."""


def bounded(vectors: tf.Tensor) -> tf.Tensor:
    """Vectors whose dot products are finite.

    Raw numbers from outside can drive a tower to infinity or NaN; entries that are not
    finite become 0 and the others are kept within ±`LARGEST`.

    Args:
        vectors: `(rows, dim)`, of any float type.

    Returns:
        `(rows, dim)` float32; the same values for every reasonable embedding.

    Example:
        >>> bounded(tf.constant([[0.5, float("nan"), float("inf"), -1e30]])).numpy()
        array([[ 5.e-01,  0.e+00,  0.e+00, -1.e+15]], dtype=float32)
    """
    vectors = tf.cast(vectors, tf.float32)
    vectors = tf.where(tf.math.is_finite(vectors), vectors, tf.zeros_like(vectors))
    return tf.clip_by_value(vectors, -LARGEST, LARGEST)


def as_stored(embeddings: np.ndarray, storage: Storage) -> np.ndarray:
    """The values that are left of embeddings once they are stored.

    Args:
        embeddings: `(items, dim)` float32.
        storage: "bfloat16" keeps 8 of 24 significant bits, half the bytes.

    Returns:
        `(items, dim)` float32.

    Example:
        >>> as_stored(np.array([[1.0, 1.003]], "float32"), "bfloat16")
        array([[1., 1.]], dtype=float32)
    """
    if storage == "float32":
        return embeddings
    rounded: np.ndarray = tf.cast(tf.cast(embeddings, storage), tf.float32).numpy()
    return rounded


def checked(embeddings: np.ndarray) -> np.ndarray:
    """The embeddings as float32, if an index can score them.

    Raises:
        ValueError: If they are not `(items, dim)` with at least one of each, or an
            entry is not finite or beyond ±`LARGEST`.
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
    """The `k` highest of each row, the highest first, equal ones by position.

    In two levels: the maximum of each block of neighbours, then the scores inside the
    `k` best blocks. That is exact. Whatever stands before an item's block in the order
    of the blocks has an item that stands before it in the order of the items, so an
    item of the top `k` is in one of the first `k` blocks.

    Args:
        scores: `(batch, n)` float32, minus infinity for what is not to be chosen.
        k: How many, a scalar; from 1 to n.

    Returns:
        Scores `(batch, k)` and positions `(batch, k)` int32. A position at a score of
        minus infinity means nothing.

    Example:
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
    # In the order of their positions, so that equal scores stay in it too.
    winners = tf.sort(winners, axis=1)
    inside = tf.gather(blocks, winners, batch_dims=1)
    inside = tf.reshape(inside, tf.stack([batch, tf.shape(winners)[1] * BLOCK]))
    scores, place = tf.math.top_k(inside, k)
    block = tf.gather(winners, place // BLOCK, batch_dims=1)
    return scores, block * BLOCK + place % BLOCK


def is_listed(rows: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Which rows stand in another list of the same query.

    Args:
        rows: `(batch, n)` int32.
        others: `(batch, m)` int32; m may be 0.

    Returns:
        `(batch, n)` bool.

    Example:
        >>> is_listed(tf.constant([[4, 7, 9]]), tf.constant([[9, 1, 4]])).numpy()
        array([[ True, False,  True]])
    """
    # One more that no row is: a list to search in must not be empty.
    others = tf.pad(others, [[0, 0], [0, 1]], constant_values=np.iinfo("int32").min)
    others = tf.sort(others, axis=1)
    place = tf.searchsorted(others, rows)
    place = tf.minimum(place, tf.shape(others)[1] - 1)
    return tf.equal(tf.gather(others, place, batch_dims=1), rows)


def products(queries: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Dot products of all queries with all rows of a table, in float32.

    Args:
        queries: `(batch, dim)` float32.
        table: `(rows, dim)` float32, or bfloat16, which is widened piece by piece: the
            whole of it in float32 would need the memory that its storage saves.

    Returns:
        `(batch, rows)` float32.
    """
    if table.dtype == tf.float32:
        return tf.matmul(queries, table, transpose_b=True)
    count = (tf.shape(table)[0] + PIECE - 1) // PIECE

    def one(
        piece: tf.Tensor, scores: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.TensorArray]:
        part = tf.cast(table[piece * PIECE : (piece + 1) * PIECE], tf.float32)
        part = tf.matmul(part, queries, transpose_b=True)
        return piece + 1, scores.write(piece, part)

    pieces = tf.TensorArray(
        tf.float32, count, infer_shape=False, element_shape=[None, None]
    )
    _, pieces = tf.while_loop(
        lambda piece, _: piece < count, one, (0, pieces), parallel_iterations=1
    )
    return tf.transpose(pieces.concat())


def finite(rows: tf.Tensor, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """An answer with row -1 and `LOWEST` in the places that have no item."""
    left = scores > -np.inf
    return tf.where(left, rows, -tf.ones_like(rows)), tf.maximum(scores, LOWEST)


def without(scores: tf.Tensor, exclude: tf.Tensor) -> tf.Tensor:
    """Scores `(batch, items)` with minus infinity for the excluded rows."""
    place = tf.where(exclude >= 0)
    rows = tf.cast(tf.gather_nd(exclude, place), tf.int64)
    cells = tf.stack([place[:, 0], rows], axis=1)
    return tf.tensor_scatter_nd_update(scores, cells, tf.fill(tf.shape(rows), -np.inf))


class Index(tf.Module):  # type: ignore[misc]
    """All items of a catalogue, ready to be searched; what every kind of it can do.

    A kind says in `search` how it finds the best of the whole catalogue, and in
    `vectors` where the embedding of a row is.
    """

    def search(
        self, queries: tf.Tensor, k: int | tf.Tensor, exclude: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best `k` of the catalogue; arguments and answer as in `top_k`."""
        raise NotImplementedError(f"{type(self).__name__} must define search.")

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Embeddings `(batch, n, dim)` float32 of catalogue rows `(batch, n)`."""
        raise NotImplementedError(f"{type(self).__name__} must define vectors.")

    def items(self) -> tf.Tensor:
        """The number of items, a scalar int32."""
        raise NotImplementedError(f"{type(self).__name__} must define items.")

    def score(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Scores of given items: a gather and a dot product.

        Args:
            queries: `(batch, dim)` float32, entries within ±`LARGEST`.
            rows: `(batch, n)` int32 catalogue rows; -1 for "no item".

        Returns:
            `(batch, n)` float32; `LOWEST` where the row is -1.
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
        """The best items, the best first.

        Items with equal scores come in the order of their rows, so the answer is a
        function of the inputs. Where fewer than `k` items are left, the rest of the
        answer is row -1 with score `LOWEST`.

        Args:
            queries: `(batch, dim)` float32, entries within ±`LARGEST`.
            k: How many, a scalar; from 1 to the number of items.
            exclude: `(batch, n)` int32 rows that the query must not get; -1 excludes
                nothing, and naming a row twice is naming it once.
            allow: `(batch, n)` int32; of a limited query only these rows are
                candidates, less the excluded ones. They are scored one by one, however
                the index searches. -1 is no item.
            limited: `(batch,)` bool, which queries are limited to `allow`.

        Returns:
            Rows `(batch, k)` int32 and scores `(batch, k)` float32.
        """
        if exclude is None:
            exclude = tf.zeros([tf.shape(queries)[0], 0], tf.int32)
        if allow is None or limited is None:
            return self.search(queries, k, exclude)
        shape = tf.stack([tf.shape(queries)[0], k])
        none = tf.fill(shape, -1), tf.fill(shape, LOWEST)
        free = tf.cond(
            tf.reduce_all(limited),
            lambda: none,
            lambda: self.search(queries, k, exclude),
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
        """The best of the allowed rows."""
        rows = tf.sort(allow, axis=1)
        before = tf.pad(rows, [[0, 0], [1, 0]], constant_values=-1)[:, :-1]
        fits = (rows != before) & (rows >= 0) & ~is_listed(rows, exclude)
        scores = tf.where(fits, self.score(queries, rows), -np.inf)
        padding = [[0, 0], [0, tf.maximum(k - tf.shape(rows)[1], 0)]]
        scores = tf.pad(scores, padding, constant_values=-np.inf)
        scores, place = tf.math.top_k(scores, k)
        return finite(tf.gather(tf.pad(rows, padding), place, batch_dims=1), scores)


class ExactIndex(Index):
    """All items, scored one by one.

    Args:
        embeddings: `(items, dim)`, at least one item, entries within ±`LARGEST`.
        storage: How they are kept. Scores are float32 either way: of bfloat16 only the
            items' rounding remains.

    Raises:
        ValueError: If the shape is another, or an entry is not finite or too large.

    Example:
        >>> index = ExactIndex(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        >>> rows, scores = index.top_k(tf.constant([[2.0, 1.0]]), k=2)
        >>> rows.numpy(), scores.numpy()
        (array([[2, 0]], dtype=int32), array([[3., 2.]], dtype=float32))
    """

    def __init__(self, embeddings: np.ndarray, storage: Storage = "float32") -> None:
        super().__init__(name="index")
        values = checked(embeddings)
        self.size, self.dim = values.shape
        self.embeddings = tf.Variable(
            tf.cast(values, storage),
            trainable=False,
            name="embeddings",
            shape=[None, self.dim],
        )

    def items(self) -> tf.Tensor:
        """The number of items."""
        return tf.shape(self.embeddings)[0]

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Embeddings of catalogue rows."""
        return tf.cast(tf.gather(self.embeddings, rows), tf.float32)

    def search(
        self, queries: tf.Tensor, k: int | tf.Tensor, exclude: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best `k` of the catalogue."""
        scores = products(queries, tf.convert_to_tensor(self.embeddings))
        scores, rows = best(without(scores, exclude), k)
        return finite(rows, scores)
