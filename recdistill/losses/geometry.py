"""Distances and directions of embeddings, with finite gradients everywhere.

Zero has no direction, and the root of a sum of squares no slope there. Both are taken
as 0 instead, so that two rows in one place are ordinary input.
"""

import numpy as np
import tensorflow as tf
from keras import ops

from recdistill.lists.masked_ops import Tensor

__all__ = [
    "differences",
    "directions",
    "distinct_pairs",
    "flat",
    "huber",
    "in_units",
    "lengths",
]


def in_units(embeddings: Tensor, axis: int | tuple[int, ...]) -> Tensor:
    """Embeddings in units of their largest entry, so that no square overflows.

    It is for what does not depend on the unit, so no gradient is lost.

    Args:
        embeddings: `(batch, rows, width)`.
        axis: The axes that share a unit.

    Returns:
        `(batch, rows, width)`, entries from -1 to 1.
    """
    largest = ops.max(ops.abs(embeddings), axis=axis, keepdims=True)
    largest = ops.stop_gradient(largest)
    return embeddings / ops.where(largest > 0.0, largest, 1.0)


def lengths(vectors: Tensor) -> Tensor:
    """Euclidean length of the last axis, which is kept.

    Args:
        vectors: `(…, width)`.

    Returns:
        `(…, 1)`. Where it is 0, so is its gradient.

    Example:
        >>> lengths(np.array([[3.0, 4.0], [0.0, 0.0]])).numpy()
        array([[5.],
               [0.]])
    """
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    apart = squares > np.finfo(squares.dtype.name).tiny
    return ops.where(apart, ops.sqrt(ops.where(apart, squares, 1.0)), 0.0)


def directions(vectors: Tensor) -> Tensor:
    """Vectors of length 1 with the same direction; 0 where a vector is 0.

    Args:
        vectors: `(…, width)`.

    Returns:
        `(…, width)`.
    """
    vectors = in_units(vectors, axis=-1)
    length = lengths(vectors)
    return vectors / ops.where(length > 0.0, length, 1.0)


def differences(embeddings: Tensor) -> Tensor:
    """Each row less each other.

    Args:
        embeddings: `(batch, rows, width)`.

    Returns:
        `(batch, rows, rows, width)`: entry `[b, i, j]` is row `i` less row `j`.
    """
    return embeddings[:, :, None, :] - embeddings[:, None, :, :]


def distinct_pairs(mask: Tensor) -> Tensor:
    """Whether two rows are real and not the same one.

    Args:
        mask: `(batch, rows)`, bool.

    Returns:
        `(batch, rows, rows)`, bool.
    """
    rows = tf.range(tf.shape(mask)[1])
    both = ops.logical_and(mask[:, :, None], mask[:, None, :])
    return ops.logical_and(both, rows[:, None] != rows[None, :])


def flat(values: Tensor) -> Tensor:
    """All axes but the first as one: pairs or triplets as the entries of a list.

    Args:
        values: `(batch, …)`.

    Returns:
        `(batch, entries)`.
    """
    return tf.reshape(values, (tf.shape(values)[0], -1))


def huber(gaps: Tensor) -> Tensor:
    """Half the square of a gap up to 1, and beyond that its size less 1/2.

    Args:
        gaps: Numbers of any shape.

    Returns:
        The same shape, at least 0.

    Example:
        >>> huber(np.array([-0.5, 1.0, 3.0])).numpy()
        array([0.125, 0.5  , 2.5  ])
    """
    gaps = ops.abs(gaps)
    small = ops.minimum(gaps, 1.0)
    return ops.square(small) / 2.0 + (gaps - small)
