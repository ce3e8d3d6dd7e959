"""Embeddings of looked-up features, the first layer of a tower or a ranker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from recdistill.features.encoders import MISSING, UNKNOWN


@keras.saving.register_keras_serializable("recdistill")
class FeatureEmbedding(keras.layers.Layer):  # type: ignore[misc]
    """Embeds the looked-up features of a query or a candidate and concatenates them.

    Indices are embedded; a feature with several indices gets the mean of their
    embeddings, without padding. Numbers and vectors are passed on unchanged.

    Args:
        sizes: For each feature its number of indices, or None if its looked-up values
            are used unchanged.
        dim: Width of each embedding.
        tables: Embedding tables of features that another layer has as well.

    Raises:
        ValueError: If `dim` is not positive.
    """

    def __init__(
        self,
        sizes: Mapping[str, int | None],
        dim: int,
        tables: Mapping[str, keras.layers.Embedding] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dim < 1:
            raise ValueError(f"`dim` must be positive. Received: dim={dim}")
        self.sizes, self.dim = dict(sizes), dim
        given = tables or {}
        self.tables = {
            name: given.get(name)
            or keras.layers.Embedding(
                size, dim, embeddings_initializer=EmbeddingInitializer(), name=name
            )
            for name, size in self.sizes.items()
            if size is not None
        }
        # Without features the layer is never called, and it has no weights.
        self.built = not self.sizes

    def build(self, input_shape: Any = None) -> None:
        """Creates the embedding tables."""
        for table in self.tables.values():
            if not table.built:
                table.build()
        self.built = True

    def call(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Maps looked-up features, each `(rows, …)`, to vectors `(rows, width)`."""
        vectors = []
        for name in self.sizes:
            value = features[name]
            if name in self.tables:
                vectors.append(self._embed(self.tables[name], value))
            else:
                vectors.append(tf.cast(value, self.compute_dtype))
        return tf.concat(vectors, axis=-1)

    def _embed(self, table: keras.layers.Embedding, index: tf.Tensor) -> tf.Tensor:
        vectors = table(index)
        real = tf.cast(index != MISSING, vectors.dtype)[..., None]
        if index.shape.rank == 1:
            return vectors * real
        count = tf.maximum(tf.reduce_sum(real, axis=1), 1.0)
        return tf.reduce_sum(vectors * real, axis=1) / count


@keras.saving.register_keras_serializable("recdistill")
class EmbeddingInitializer(keras.initializers.RandomNormal):  # type: ignore[misc]
    """The initialiser of all embedding tables: normal, with a small deviation.

    The embedding of unknown values starts as the zero vector, and stays so if training
    has no unknown value. Of a text, which has none, that of its first bucket starts so.
    """

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, **kwargs: Any) -> None:
        super().__init__(mean, stddev, **kwargs)

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
        """Weights of the table, `(indices, dim)`."""
        weights = super().__call__(shape, dtype)
        zeros = tf.zeros((1, shape[1]), weights.dtype)
        return tf.concat([weights[:UNKNOWN], zeros, weights[UNKNOWN + 1 :]], axis=0)
