"""Layers of towers: dense layers with a linear path, and pooling of a history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@keras.saving.register_keras_serializable("recdistill")
class Tower(keras.layers.Layer):  # type: ignore[misc]
    """Multi-layer perceptron with a parallel linear path.

    The output is the sum of both. With the linear path, a tower of embeddings is a
    matrix factorisation from the first step. Without hidden layers the tower is the
    linear path alone.

    Args:
        dim: Width of the output.
        hidden: Widths of the hidden layers.
        dropout: Share of input entries dropped in training.
    """

    def __init__(
        self, dim: int, hidden: Sequence[int] = (), dropout: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.dim, self.hidden, self.rate = dim, tuple(hidden), dropout
        self.linear = keras.layers.Dense(dim, name="linear")
        self.layers = [
            keras.layers.Dense(width, activation="relu", name=f"hidden_{k}")
            for k, width in enumerate(self.hidden)
        ]
        self.output_layer = (
            keras.layers.Dense(dim, use_bias=False, name="output") if hidden else None
        )
        self.dropout = keras.layers.Dropout(dropout)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates the weights, for inputs `(rows, width)`."""
        self.linear.build(input_shape)
        width = input_shape[-1]
        for layer in self.layers:
            layer.build((None, width))
            width = layer.units
        if self.output_layer is not None:
            self.output_layer.build((None, width))
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps `(rows, width)` to `(rows, dim)`."""
        inputs = self.dropout(inputs, training=training)
        vector = self.linear(inputs)
        if self.output_layer is None:
            return vector
        for layer in self.layers:
            inputs = layer(inputs)
        return vector + self.output_layer(inputs)


@keras.saving.register_keras_serializable("recdistill")
class HistoryPooling(keras.layers.Layer):  # type: ignore[misc]
    r"""Weighted sums of the item vectors of a history, and the vector of its last item.

    Pool $p$ of a history $h_0, h_1, …$ (the newest first) is
    $\sum_j w_{pj} e(h_j) / \sqrt{\sum_j w_{pj}}$ over the real items, without padding.
    The weights are learned and positive. Each pool starts with a different decay, so
    that some pools cover the last few items and others all items. Because of the square
    root, the vector of a long history is longer than that of a short one.

    Args:
        dim: Width of the item vectors.
        length: Largest number of items in a history.
        decays: One pool for each; its weights start at `decay ** age`.
    """

    def __init__(
        self, dim: int, length: int, decays: Sequence[float], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.dim, self.length, self.decays = dim, length, tuple(decays)

    @property
    def width(self) -> int:
        """Width of the output."""
        return (len(self.decays) + 1) * self.dim

    def build(self, input_shape: Any = None) -> None:
        """Creates the position weights."""
        start = np.outer(np.log(self.decays), np.arange(self.length))
        self.log_weights = self.add_weight(
            name="log_weights",
            shape=(len(self.decays), self.length),
            initializer=lambda shape, dtype: tf.cast(start, dtype),
        )
        self.built = True

    def call(self, vectors: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
        """Maps item vectors `(batch, length, dim)` to `(batch, (pools + 1) * dim)`.

        Args:
            vectors: The vectors of the items, the newest first.
            real: `(batch, length)` bool, False for padding.
        """
        real = tf.cast(real, vectors.dtype)
        weights = tf.exp(self.log_weights)[None] * real[:, None, :]
        total = tf.reduce_sum(weights, axis=2, keepdims=True)
        pools = tf.matmul(weights, vectors)
        # The pools of an empty history are 0; under XLA the gradient of a root is not
        # finite at 0, even if it is multiplied by 0.
        pools /= tf.sqrt(tf.where(total > 0.0, total, tf.ones_like(total)))
        width = len(self.decays) * self.dim
        last = vectors[:, 0] * real[:, :1]
        return tf.concat([tf.reshape(pools, [-1, width]), last], axis=1)
