r"""Scores of some candidates by a factored linear item model, for many items.

With $P = \mathrm{diag}(d) - G G^\top$, its diagonal $p_j = d_j - \lVert g_j \rVert^2$,
and $a = G^\top r$ of a weighted history $r$, an item $j$ outside the history has the
score $a^\top h_j$ with $h_j = g_j / p_j$. It is linear in $a$, so its mean and variance
over all items follow from the mean $\bar h$ and the sum of
$(h_j - \bar h)(h_j - \bar h)^\top$, which are computed once. The items of the history
are taken out of the sums one by one. A list costs its candidates, whatever the number
of items.

**Leave one query out.** With $b = w \odot G^\top x$ of the query's training row $x$,
$v_j = b^\top g_j$, $s = 1 - x^\top v$ and $c = r^\top v / s$, the score is
$(a - c\,b)^\top g_j / (p_j + v_j^2 / s)$. Where the factor is exact, $w = -1$ and the
items of the training row have $d_j$ more in $v_j$. Candidates have exactly this score.
In the sums, the items of the training row have it too; for all others $v_j^2 / s$,
which is small beside $p_j$, is left out. The z-scores of a list then differ from the
exact ones by a factor near 1 and a summand near 0, so that their order is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from recdistill.features.encoders import FIRST

BLOCK = 16_384
"""Items whose moments are computed at once."""

LEAST_DEVIATION = 1e-3
"""Deviation of the scores, relative to their mean, below which they are considered
equal. A sum of squares in single precision does not tell smaller ones from rounding."""


class LowRank(NamedTuple):
    """A linear item model in the form query inverse or low rank.

    Attributes:
        factor: G, `(items, rank)`.
        diagonal: d, `(items,)`.
        own_weight: w, `(rank,)`, of a training row (`linear_fitting.fit_low_rank`);
            None for a factor that is exact.
        score_mean: Mean of h over the items, `(rank,)`.
        score_moment: Sum of the centred products of h, `(rank, rank)`.
    """

    factor: tf.Tensor
    diagonal: tf.Tensor
    own_weight: tf.Tensor | None
    score_mean: tf.Tensor
    score_moment: tf.Tensor

    def scores(
        self,
        history: tf.Tensor,
        weight: tf.Tensor,
        candidates: tf.Tensor,
        training_row: tf.Tensor | None,
    ) -> tf.Tensor:
        """z-scores over the items that are not in the history.

        Args:
            history: `(batch, length)` int, vocabulary indices.
            weight: `(batch, length)`, the weight of each place of the history.
            candidates: `(n,)` or `(batch, n)` int, vocabulary indices.
            training_row: `(batch, m)` int, the items of each query's training row, each
                once; None if the model is used as it was fitted.

        Returns:
            `(batch, n)` float32; 0 for candidates that are not in the model.
        """
        past = self._items(tf.cast(history, tf.int32))
        listed = self._items(tf.cast(candidates, tf.int32))
        weight = tf.where(past.known, weight, 0.0)
        a = tf.einsum("bl,blr->br", weight, past.factor)
        own, b, s = None, tf.zeros_like(a), tf.ones_like(a[:, :1])
        if training_row is not None:
            own = self._items(tf.cast(training_row, tf.int32))
            total = tf.reduce_sum(own.factor, axis=1)
            b = -total if self.own_weight is None else total * self.own_weight
            s -= tf.reduce_sum(total * b, axis=1, keepdims=True)
            if self.own_weight is None:
                own = own._replace(added=tf.where(own.known, own.whole, 0.0))
                past, listed = past.of_training_row(own), listed.of_training_row(own)
                s -= tf.reduce_sum(own.added, axis=1, keepdims=True)
        query = _Query(a, b, s, tf.reduce_sum(weight * past.along(b), 1, keepdims=True))
        mean, deviation = self._moments(query, past, own)
        in_history = tf.einsum(
            "bnl,bl->bn", tf.cast(listed.equal(past), tf.float32), weight
        )
        gap = query.scores(listed, in_history) - mean
        varies = deviation > LEAST_DEVIATION * tf.abs(mean)
        z = tf.math.divide_no_nan(gap, deviation)
        return tf.where(listed.known & varies, z, 0.0)

    def _moments(
        self, query: _Query, past: _Items, own: _Items | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and standard deviation of the free items' scores, `(batch, 1)`."""
        q = query.a - query.along / query.s * query.b
        centre = tf.reduce_sum(q * self.score_mean, axis=1, keepdims=True)
        first = tf.zeros_like(centre)
        second = tf.reduce_sum(
            q * tf.matmul(q, self.score_moment), axis=1, keepdims=True
        )
        earlier = tf.linalg.band_part(past.equal(past), -1, 0)
        # A place of the history counts unless the item has an earlier one.
        repeated = tf.reduce_sum(tf.cast(earlier, tf.int32), axis=2) > 1
        distinct = tf.cast(past.known & ~repeated, tf.float32)
        taken = [(past, distinct, None)]
        if own is not None:
            free = own.known & ~tf.reduce_any(
                own.equal(past) & past.known[:, None], axis=2
            )
            kept = tf.cast(free, tf.float32)
            taken.append((own, kept, query.scores(own, tf.zeros_like(kept))))
        for items, counts, exact in taken:
            gap = counts * (items.dot(q) / items.diagonal - centre)
            first -= tf.reduce_sum(gap, axis=1, keepdims=True)
            second -= tf.reduce_sum(gap * gap, axis=1, keepdims=True)
            if exact is not None:
                gap = counts * (exact - centre)
                first += tf.reduce_sum(gap, axis=1, keepdims=True)
                second += tf.reduce_sum(gap * gap, axis=1, keepdims=True)
        number = tf.cast(tf.shape(self.factor)[0], tf.float32)
        number = tf.maximum(number - tf.reduce_sum(distinct, 1, keepdims=True), 1.0)
        variance = second / number - tf.square(first / number)
        return centre + first / number, tf.sqrt(tf.maximum(variance, 0.0))

    def _items(self, index: tf.Tensor) -> _Items:
        size = tf.shape(self.factor)[0]
        known = (index >= FIRST) & (index < FIRST + size)
        place = tf.clip_by_value(index - FIRST, 0, size - 1)
        factor = tf.gather(self.factor, place)
        factor *= tf.cast(known, tf.float32)[..., None]
        square = tf.reduce_sum(factor * factor, axis=-1)
        whole = tf.gather(self.diagonal, place)
        return _Items(index, known, factor, square, whole - square, whole)


class _Items(NamedTuple):
    """Items `(batch, n)`, or `(n,)` for all lists, with their part of the model.

    Attributes:
        index: Vocabulary index.
        known: Whether the item is in the model.
        factor: g, `(…, rank)`.
        square: The square of the length of g.
        diagonal: p.
        whole: d.
        added: What v has in addition to the product with b, 0 or `(batch, n)`.
    """

    index: tf.Tensor
    known: tf.Tensor
    factor: tf.Tensor
    square: tf.Tensor
    diagonal: tf.Tensor
    whole: tf.Tensor
    added: tf.Tensor | float = 0.0

    def dot(self, query: tf.Tensor) -> tf.Tensor:
        """The products of the items and the queries `(batch, rank)`, `(batch, n)`."""
        if self.factor.shape.rank == 2:
            return tf.matmul(query, self.factor, transpose_b=True)
        return tf.linalg.matvec(self.factor, query)

    def along(self, b: tf.Tensor) -> tf.Tensor:
        """v of the items, `(batch, n)`."""
        return self.dot(b) + self.added

    def equal(self, other: _Items) -> tf.Tensor:
        """Whether the items are the other ones `(batch, m)`, `(batch, n, m)`."""
        return tf.equal(self.index[..., None], other.index[:, None, :])

    def of_training_row(self, own: _Items) -> _Items:
        """These items with the diagonal in v where they are in the training row."""
        there = tf.reduce_any(self.equal(own) & own.known[:, None], axis=-1)
        return self._replace(added=tf.where(there, self.whole, 0.0))


class _Query(NamedTuple):
    """The vectors of each query: a and b, s, and `along`, the product of r and v."""

    a: tf.Tensor
    b: tf.Tensor
    s: tf.Tensor
    along: tf.Tensor

    def scores(self, items: _Items, weight: tf.Tensor) -> tf.Tensor:
        """The scores of items with these weights in the history, `(batch, n)`."""
        v = items.along(self.b)
        total = weight * items.square - items.dot(self.a)
        total += (self.along - weight * v) * v / self.s
        return -total / (items.diagonal + v * v / self.s)


def moments(factor: np.ndarray, diagonal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`score_mean` and `score_moment` of a `LowRank`.

    Args:
        factor: G, `(items, rank)` float32.
        diagonal: d, `(items,)` float32.
    """
    items, rank = factor.shape
    total, products = np.zeros(rank), np.zeros((rank, rank))
    blocks = [slice(start, start + BLOCK) for start in range(0, items, BLOCK)]

    def scaled(block: slice) -> np.ndarray:
        part = factor[block]
        own = diagonal[block] - np.square(part).sum(axis=1)
        return np.asarray(part / own[:, None])

    for block in blocks:
        total += scaled(block).sum(axis=0, dtype="float64")
    mean = total / items
    for block in blocks:
        part = scaled(block) - mean.astype("float32")
        products += part.T @ part
    return mean.astype("float32"), products.astype("float32")
