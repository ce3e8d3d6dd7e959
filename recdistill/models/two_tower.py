"""The student: two towers whose dot product is the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from recdistill.distillation import layer_outputs
from recdistill.features.encoders import (
    MISSING,
    FeatureEmbedding,
    Schema,
    embedding_initializer,
)

DISTINCT_PER_LISTED = 64
"""Distinct candidates a listed one up to which all products are cheaper."""


@keras.saving.register_keras_serializable("recdistill")
class Tower(keras.layers.Layer):  # type: ignore[misc]
    """Dense layers with a linear path beside them, to a vector of width `dim`.

    The linear path lets a tower of embeddings behave like matrix factorisation from
    the first step; the hidden layers add what is not linear. With no hidden layers the
    tower is the linear path alone.

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
        """`(rows, width)` to `(rows, dim)`."""
        inputs = self.dropout(inputs, training=training)
        vector = self.linear(inputs)
        if self.output_layer is None:
            return vector
        for layer in self.layers:
            inputs = layer(inputs)
        return vector + self.output_layer(inputs)

    def get_config(self) -> dict[str, Any]:
        """Sizes."""
        own = {"dim": self.dim, "hidden": self.hidden, "dropout": self.rate}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("recdistill")
class HistoryPooling(keras.layers.Layer):  # type: ignore[misc]
    r"""A history as a few weighted sums of item vectors, and its last item.

    Pool $p$ of a history $h_0, h_1, …$ (the newest first) is
    $\sum_j w_{pj} e(h_j) / \sqrt{\sum_j w_{pj}}$ over the items that are there, with
    learned positive weights. The pools start at different decays, from "what just
    happened" to "what this query likes", and are free to move. The square root keeps
    some of the length: a long history says more than a short one.

    Args:
        size: Number of item indices.
        dim: Width of the item vectors.
        length: Longest history.
        decays: One pool each: its weights start at `decay ** age`.
    """

    def __init__(
        self, size: int, dim: int, length: int, decays: Sequence[float], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.dim, self.length = size, dim, length
        self.decays = tuple(decays)
        self.items = keras.layers.Embedding(
            size, dim, embeddings_initializer=embedding_initializer(), name="items"
        )

    def build(self, input_shape: Any = None) -> None:
        """Creates the item vectors and the position weights."""
        self.items.build()
        start = np.outer(np.log(self.decays), np.arange(self.length))
        self.log_weights = self.add_weight(
            name="log_weights",
            shape=(len(self.decays), self.length),
            initializer=lambda shape, dtype: tf.cast(start, dtype),
        )
        self.built = True

    def call(self, history: tf.Tensor) -> tf.Tensor:
        """`(batch, length)` item indices to `(batch, (pools + 1) * dim)`."""
        vectors = self.items(history)
        real = tf.cast(history != MISSING, vectors.dtype)
        weights = tf.exp(self.log_weights)[None] * real[:, None, :]
        total = tf.reduce_sum(weights, axis=2, keepdims=True)
        pools = tf.matmul(weights, vectors)
        pools *= tf.math.divide_no_nan(1.0, tf.sqrt(total))
        width = len(self.decays) * self.dim
        last = vectors[:, 0] * real[:, :1]
        return tf.concat([tf.reshape(pools, [-1, width]), last], axis=1)

    def get_config(self) -> dict[str, Any]:
        """Sizes and decays."""
        own = {k: getattr(self, k) for k in ("size", "dim", "length", "decays")}
        return {**super().get_config(), **own}


def listed_products(
    queries: tf.Tensor, candidates: tf.Tensor, place: tf.Tensor
) -> tf.Tensor:
    """Dot products of each query with the candidates of its list.

    Gathering vectors, and adding up their gradients, moves far more memory than a
    matrix product of all queries with all distinct candidates needs time, unless lists
    are short beside the number of those: then only what is listed is multiplied.

    Args:
        queries: `(batch, dim)`.
        candidates: `(distinct, dim)`.
        place: `(batch, list_size)` int, rows of `candidates`.

    Returns:
        `(batch, list_size)`.

    Example:
        >>> queries, candidates = tf.constant([[1.0, 2.0]]), tf.eye(2)
        >>> listed_products(queries, candidates, tf.constant([[1, 0, 1]])).numpy()
        array([[2., 1., 2.]], dtype=float32)
    """

    def all_products() -> tf.Tensor:
        products = tf.matmul(queries, candidates, transpose_b=True)
        return tf.gather(products, place, batch_dims=1)

    def listed_only() -> tf.Tensor:
        return tf.linalg.matvec(tf.gather(candidates, place), queries)

    few = tf.shape(candidates)[0] <= DISTINCT_PER_LISTED * tf.shape(place)[1]
    return tf.cond(few, all_products, listed_only)


class TwoTowerStudent(keras.Model):  # type: ignore[misc]
    """A query tower and a candidate tower; the score is their dot product.

    Each distinct candidate of a batch is encoded once: lists share most of their
    candidates, and the tower is the expensive part.

    Args:
        schema: The fitted features; those that only the teacher may see are left out.
        catalogue: Looked-up features of all candidates, each `(items, …)`.
        dim: Width of the two embeddings.
        embedding_dim: Width of each feature's embedding.
        hidden: Hidden layers of the query tower; the candidate tower is linear.
        decays: One pool of the history for each.
        dropout: Share of the query tower's inputs dropped in training.
        popularity_bias: Whether one entry of `dim` is a bias of the candidate: the
            query's last entry is then 1, so that the dot product adds the candidate's.
        l2: Penalty on the embeddings' mean square, over the queries and over the
            distinct candidates of a batch, added to the loss.

    Raises:
        ValueError: If `dim` leaves no room for the bias, or the schema has no feature
            for one of the towers.
    """

    def __init__(
        self,
        schema: Schema,
        catalogue: Mapping[str, Any],
        dim: int = 32,
        embedding_dim: int = 32,
        hidden: Sequence[int] = (128,),
        decays: Sequence[float] = (0.7, 0.97),
        dropout: float = 0.0,
        popularity_bias: bool = True,
        l2: float = 0.0,
    ) -> None:
        super().__init__(name="two_tower_student")
        if dim < 1 + popularity_bias:
            raise ValueError(
                f"`dim` must be at least {1 + popularity_bias}. Received: dim={dim}"
            )
        schema = schema.for_student()
        for side in ("query", "candidate"):
            if not getattr(schema, side):
                raise ValueError(f"`schema` must have a {side} feature. Received: none")
        self.dim, self.popularity_bias, self.l2 = dim, popularity_bias, l2
        self._catalogue = {k: np.asarray(v) for k, v in catalogue.items()}
        self.history_pooling = None
        if schema.history is not None:
            self._history = schema.history.feature
            self.history_pooling = HistoryPooling(
                schema.history.size, embedding_dim, schema.history.length, decays
            )
        self.query_features = FeatureEmbedding.of(schema.query, embedding_dim, "query")
        self.candidate_features = FeatureEmbedding.of(
            schema.candidate, embedding_dim, "candidate"
        )
        width = dim - popularity_bias
        self.query_tower = Tower(width, hidden, dropout, name="query_tower")
        self.candidate_tower = Tower(dim, name="candidate_tower")

    def encode_query(
        self, query: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Looked-up query features, each `(batch, …)`, to embeddings `(batch, dim)`."""
        inputs = []
        if self.history_pooling is not None:
            inputs.append(self.history_pooling(query[self._history]))
        if self.query_features.sizes:
            inputs.append(self.query_features(query))
        vector = self.query_tower(tf.concat(inputs, axis=1), training=training)
        if not self.popularity_bias:
            return vector
        return tf.concat([vector, tf.ones_like(vector[:, :1])], axis=1)

    def encode_candidates(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Looked-up candidate features, each `(n, …)`, to embeddings `(n, dim)`."""
        return self.candidate_tower(self.candidate_features(features))

    def call(self, batch: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        """Scores `(batch, list_size)` of the batch's candidates.

        Args:
            batch: The tensor contract of `recdistill.data.batches`: `query`, and
                `candidate_index` `(batch, list_size)`, or `(list_size,)` where all
                lists share their candidates.
            training: Whether dropout is on.

        Exposes to `recdistill.distillation.layer_outputs` "query_embedding" `(batch,
        dim)` and
        "candidate_embedding" `(batch, list_size, dim)`, or `(1, list_size, dim)` where
        lists share their candidates.
        """
        queries = self.encode_query(batch["query"], training=training)
        layer_outputs.expose("query_embedding", queries)
        index = tf.convert_to_tensor(batch["candidate_index"])
        if index.shape.rank == 1:
            candidates = self._encode(index)
            layer_outputs.expose("candidate_embedding", candidates[None])
            scores = tf.matmul(queries, candidates, transpose_b=True)
        else:
            distinct, place = tf.unique(tf.reshape(index, [-1]))
            candidates = self._encode(distinct)
            place = tf.reshape(place, tf.shape(index))
            listed = partial(tf.gather, candidates, place)
            layer_outputs.expose("candidate_embedding", listed)
            scores = listed_products(queries, candidates, place)
        if self.l2:
            self.add_loss(self.l2 * tf.reduce_mean(tf.square(queries)))
            self.add_loss(self.l2 * tf.reduce_mean(tf.square(candidates)))
        return scores

    def _encode(self, index: tf.Tensor) -> tf.Tensor:
        rows = {name: tf.gather(v, index) for name, v in self._catalogue.items()}
        return self.encode_candidates(rows)
