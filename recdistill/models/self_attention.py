"""Causal self-attention over a history."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("recdistill")
class CausalBlock(keras.layers.Layer):  # type: ignore[misc]
    """Pre-norm transformer block with causal self-attention.

    Each position attends to itself and to earlier positions.

    Args:
        dim: Width of the vectors.
        heads: Attention heads; `dim` must be a multiple of it.
        dropout: Share of entries dropped in training.
    """

    def __init__(self, dim: int, heads: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.attention = keras.layers.MultiHeadAttention(heads, dim // heads)
        self.norm = keras.layers.LayerNormalization()
        self.norm_2 = keras.layers.LayerNormalization()
        self.expand = keras.layers.Dense(2 * dim, activation="gelu")
        self.contract = keras.layers.Dense(dim)
        self.dropout = keras.layers.Dropout(dropout)

    def build(self, input_shape: Any = None) -> None:
        """Creates the weights."""
        shape = (None, None, self.dim)
        self.attention.build(shape, shape)
        for layer in (self.norm, self.norm_2, self.expand):
            layer.build(shape)
        self.contract.build((None, None, 2 * self.dim))
        self.built = True

    def call(
        self, vectors: tf.Tensor, real: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Transforms `(batch, length, dim)`; `real` is the mask `(batch, length)`."""
        normed = self.norm(vectors)
        attended = self.attention(
            normed, normed, attention_mask=real[:, None, :], use_causal_mask=True
        )
        vectors += self.dropout(attended, training=training)
        changed = self.contract(self.expand(self.norm_2(vectors)))
        return vectors + self.dropout(changed, training=training)


@keras.saving.register_keras_serializable("recdistill")
class CausalEncoder(keras.layers.Layer):  # type: ignore[misc]
    """States of causal self-attention at all positions of a history (SASRec).

    The last position has the same position vector in histories of all lengths.

    Args:
        dim: Width of the vectors.
        heads: Attention heads; `dim` must be a multiple of it.
        blocks: Number of blocks.
        length: Largest number of positions.
        dropout: Share of entries dropped in training.

    Raises:
        ValueError: If `dim` is not a multiple of `heads`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        blocks: int,
        length: int,
        dropout: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dim % heads:
            raise ValueError(
                "`dim` must be a multiple of `heads`. "
                f"Received: dim={dim}, heads={heads}"
            )
        self.dim, self.length = dim, length
        self.positions = keras.layers.Embedding(
            length,
            dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="positions",
        )
        self.blocks = [
            CausalBlock(dim, heads, dropout, name=f"block_{k}") for k in range(blocks)
        ]
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.dropout = keras.layers.Dropout(dropout)

    def build(self, input_shape: Any = None) -> None:
        """Creates the weights."""
        for layer in (self.positions, *self.blocks):
            layer.build()
        self.norm.build((None, None, self.dim))
        self.built = True

    def latest(self, history: tf.Tensor) -> tf.Tensor:
        """The last `length` items of a history, `(batch, length)`, oldest first.

        Args:
            history: `(batch, n)`, the newest first.
        """
        return tf.reverse(history[:, : self.length], axis=[1])

    def call(
        self, vectors: tf.Tensor, real: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """States `(batch, length, dim)`; those of padding are 0.

        Args:
            vectors: `(batch, length, dim)`, item vectors, oldest first.
            real: `(batch, length)` bool, False for padding.
            training: Whether dropout is active.
        """
        vectors = vectors * self.dim**0.5
        vectors += self.positions(tf.range(tf.shape(vectors)[1]))[::-1]
        vectors = self.dropout(vectors, training=training)
        for block in self.blocks:
            vectors = block(vectors, real, training=training)
        # Padding cannot change a score.
        return self.norm(vectors) * tf.cast(real, vectors.dtype)[..., None]
