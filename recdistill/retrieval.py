"""Retrieval in the graph: the exact top K of a catalogue, with stock ops only.

The item embeddings are one variable, `(items, dim)`; a row of it is a catalogue row.
Scores are dot products, and every score that leaves this module is finite: JSON has no
infinity, and a server that prints one breaks its clients.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

LOWEST = float(np.finfo("float32").min)
"""Score of "no item": the lowest finite float32."""

LARGEST = 1e15
"""Largest magnitude of an embedding's entry; no dot product of two overflows."""


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


class ExactIndex(tf.Module):  # type: ignore[misc]
    """All items, scored one by one.

    Args:
        embeddings: `(items, dim)`, at least one item, entries within ±`LARGEST`.

    Raises:
        ValueError: If the shape is another, or an entry is not finite or too large.

    Example:
        >>> index = ExactIndex(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        >>> rows, scores = index.top_k(tf.constant([[2.0, 1.0]]), k=2)
        >>> rows.numpy(), scores.numpy()
        (array([[2, 0]], dtype=int32), array([[3., 2.]], dtype=float32))
    """

    def __init__(self, embeddings: np.ndarray) -> None:
        super().__init__(name="index")
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
        self.size, self.dim = values.shape
        self.embeddings = tf.Variable(values, trainable=False, name="embeddings")

    def score(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Scores of given items: a gather and a dot product.

        Args:
            queries: `(batch, dim)` float32, entries within ±`LARGEST`.
            rows: `(batch, n)` int32 catalogue rows; -1 for "no item".

        Returns:
            `(batch, n)` float32; `LOWEST` where the row is -1.
        """
        vectors = tf.gather(self.embeddings, tf.maximum(rows, 0))
        scores = tf.linalg.matvec(vectors, queries)
        return tf.where(rows >= 0, scores, tf.fill(tf.shape(rows), LOWEST))

    def top_k(
        self, queries: tf.Tensor, k: int | tf.Tensor, exclude: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best items of the catalogue, the best first.

        Items with equal scores come in the order of their rows, so the answer is a
        function of the inputs. Where fewer than `k` items are left, the rest of the
        answer is row -1 with score `LOWEST`.

        Args:
            queries: `(batch, dim)` float32, entries within ±`LARGEST`.
            k: How many, a scalar; from 1 to the number of items.
            exclude: `(batch, n)` int32 rows that the query must not get; -1 excludes
                nothing, and naming a row twice is naming it once.

        Returns:
            Rows `(batch, k)` int32 and scores `(batch, k)` float32.
        """
        scores = tf.matmul(queries, self.embeddings, transpose_b=True)
        if exclude is not None:
            scores = _without(scores, exclude)
        scores, rows = tf.math.top_k(scores, k)
        left = scores > -np.inf
        rows = tf.where(left, rows, -tf.ones_like(rows))
        return rows, tf.maximum(scores, LOWEST)


def _without(scores: tf.Tensor, exclude: tf.Tensor) -> tf.Tensor:
    """Scores `(batch, items)` with minus infinity for the excluded rows."""
    place = tf.where(exclude >= 0)
    rows = tf.cast(tf.gather_nd(exclude, place), tf.int64)
    cells = tf.stack([place[:, 0], rows], axis=1)
    return tf.tensor_scatter_nd_update(scores, cells, tf.fill(tf.shape(rows), -np.inf))
