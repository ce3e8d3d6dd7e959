"""Storage of item embeddings in an index: float32, bfloat16 or int8.

Scores are float32 for each of them; only the items are rounded. int8 is symmetric
scalar quantisation with one scale for each column, so the scores of a table are the
products of its whole numbers with the queries times the scales.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import tensorflow as tf

Storage = Literal["float32", "bfloat16", "int8"]

PIECE = 16_384
"""Rows of a rounded table that are cast to float32 at a time: 4 MiB at dim 64."""

_STEPS = 127
"""Largest whole number that int8 stores with both signs."""


def column_scales(embeddings: np.ndarray, storage: Storage) -> np.ndarray | None:
    """The factor of each column of an int8 table; None for other types.

    Args:
        embeddings: `(items, dim)` float32.
        storage: The type.

    Returns:
        `(dim,)` float32: the largest magnitude of each column is stored as 127.

    Examples:
        >>> column_scales(np.array([[1.27, 0.0], [-2.54, 0.0]], "float32"), "int8")
        array([0.02, 1.  ], dtype=float32)
    """
    if storage != "int8":
        return None
    largest = np.abs(embeddings).max(axis=0).astype("float32")
    scales: np.ndarray = np.where(largest > 0, largest / _STEPS, np.float32(1))
    return scales


def to_storage(
    embeddings: tf.Tensor, storage: Storage, scales: np.ndarray | None
) -> tf.Tensor:
    """Embeddings in the type in which they are stored.

    Args:
        embeddings: `(…, dim)` float32.
        storage: The type.
        scales: From `column_scales`.
    """
    if scales is not None:
        embeddings = tf.clip_by_value(tf.round(embeddings / scales), -_STEPS, _STEPS)
    return tf.cast(embeddings, storage)


def from_storage(stored: tf.Tensor, scales: tf.Tensor | None) -> tf.Tensor:
    """The float32 embeddings that stored values stand for.

    Args:
        stored: `(…, dim)`.
        scales: `(dim,)` factors of int8 columns; None for other types.
    """
    values = tf.cast(stored, tf.float32)
    return values if scales is None else values * scales


def as_stored(embeddings: np.ndarray, storage: Storage) -> np.ndarray:
    """Embeddings as rounded by their storage type.

    Args:
        embeddings: `(items, dim)` float32.
        storage: "bfloat16" keeps 8 of 24 significant bits and takes half the bytes.
            "int8" keeps 255 values for each column and takes a quarter of the bytes.

    Returns:
        `(items, dim)` float32.

    Examples:
        >>> as_stored(np.array([[1.0, 1.003]], "float32"), "bfloat16")
        array([[1., 1.]], dtype=float32)
        >>> as_stored(np.array([[1.27], [0.016]], "float32"), "int8")
        array([[1.27],
               [0.02]], dtype=float32)
    """
    if storage == "float32":
        return embeddings
    scales = column_scales(embeddings, storage)
    stored = to_storage(tf.constant(embeddings), storage, scales)
    rounded: np.ndarray = from_storage(stored, scales).numpy()
    return rounded


def products(
    queries: tf.Tensor, table: tf.Tensor, scales: tf.Tensor | None = None
) -> tf.Tensor:
    """Dot products of all queries with all rows of a stored table, in float32.

    Args:
        queries: `(batch, dim)` float32.
        table: `(rows, dim)`, of a type of `Storage`. A rounded table is cast piece by
            piece: cast as a whole, it would need the memory that rounding saves.
        scales: `(dim,)` factors of int8 columns; None for other types.

    Returns:
        `(batch, rows)` float32.
    """
    if table.dtype == tf.float32:
        return tf.matmul(queries, table, transpose_b=True)
    if scales is not None:
        queries *= scales
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
