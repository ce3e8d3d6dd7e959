"""Distances and directions of embeddings, with finite gradients everywhere.

The zero vector has no direction, and the Euclidean norm has no gradient there. Both are
defined as 0, so that two identical rows are valid input.
"""

import numpy as np
import tensorflow as tf
from keras import ops

from recdistill.lists.masked_ops import Tensor


def scaled_to_unit(embeddings: Tensor, axis: int | tuple[int, ...]) -> Tensor:
    """Embeddings divided by their largest absolute entry, so that no square overflows.

    It is used for results that do not depend on the scale, so no gradient flows through
    the divisor.

    Args:
        embeddings: `(batch, rows, width)`.
        axis: The axes that are scaled together.

    Returns:
        `(batch, rows, width)`, entries from -1 to 1.
    """
    largest = ops.max(ops.abs(embeddings), axis=axis, keepdims=True)
    largest = ops.stop_gradient(largest)
    return embeddings / ops.where(largest > 0.0, largest, 1.0)


def lengths(vectors: Tensor) -> Tensor:
    """Euclidean norm along the last axis.

    Args:
        vectors: `(…, width)`.

    Returns:
        `(…, 1)`. If it is 0, so is its gradient.

    Examples:
        >>> lengths(np.array([[3.0, 4.0], [0.0, 0.0]])).numpy()
        array([[5.],
               [0.]])
    """
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    apart = squares > np.finfo(squares.dtype.name).tiny
    return ops.where(apart, ops.sqrt(ops.where(apart, squares, 1.0)), 0.0)


def directions(vectors: Tensor) -> Tensor:
    """Unit vectors in the same directions; 0 for a zero vector.

    Args:
        vectors: `(…, width)`.

    Returns:
        `(…, width)`.
    """
    vectors = scaled_to_unit(vectors, axis=-1)
    length = lengths(vectors)
    return vectors / ops.where(length > 0.0, length, 1.0)


def differences(embeddings: Tensor) -> Tensor:
    """Differences between all pairs of rows.

    Args:
        embeddings: `(batch, rows, width)`.

    Returns:
        `(batch, rows, rows, width)`: entry `[b, i, j]` is row `i` minus row `j`.
    """
    return embeddings[:, :, None, :] - embeddings[:, None, :, :]


def distinct_pairs(mask: Tensor) -> Tensor:
    """Mask of the pairs of two different real rows.

    Args:
        mask: `(batch, rows)`, bool.

    Returns:
        `(batch, rows, rows)`, bool.
    """
    rows = tf.range(tf.shape(mask)[1])
    both = ops.logical_and(mask[:, :, None], mask[:, None, :])
    return ops.logical_and(both, rows[:, None] != rows[None, :])


def flat(values: Tensor) -> Tensor:
    """Flatten all axes but the first, so that pairs or triplets become list entries.

    Args:
        values: `(batch, …)`.

    Returns:
        `(batch, entries)`.
    """
    return tf.reshape(values, (tf.shape(values)[0], -1))


def huber(gaps: Tensor) -> Tensor:
    """Huber loss: half the square of a gap up to 1, and its size minus 1/2 beyond.

    Args:
        gaps: Differences, of any shape.

    Returns:
        The same shape, at least 0.

    Examples:
        >>> huber(np.array([-0.5, 1.0, 3.0])).numpy()
        array([0.125, 0.5  , 2.5  ])
    """
    gaps = ops.abs(gaps)
    small = ops.minimum(gaps, 1.0)
    return ops.square(small) / 2.0 + (gaps - small)
