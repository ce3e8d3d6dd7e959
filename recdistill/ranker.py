"""The reference teacher: a heavy ranker that sees query and candidate together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import keras_rs
import numpy as np
import tensorflow as tf

from recdistill.encoders import MISSING, FeatureEmbedding, Schema
from recdistill.linear import Affinity


@keras.saving.register_keras_serializable("recdistill")
class CausalBlock(keras.layers.Layer):  # type: ignore[misc]
    """One pre-norm transformer block in which a position sees itself and earlier ones.

    Args:
        dim: Width of the vectors.
        heads: Attention heads; they divide `dim`.
        dropout: Share of entries dropped in training.
    """

    def __init__(self, dim: int, heads: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.heads, self.rate = dim, heads, dropout
        self.attention = keras.layers.MultiHeadAttention(heads, dim // heads)
        self.norm = keras.layers.LayerNormalization()
        self.norm_2 = keras.layers.LayerNormalization()
        self.expand = keras.layers.Dense(2 * dim, activation="gelu")
        self.contract = keras.layers.Dense(dim)
        self.dropout = keras.layers.Dropout(dropout)

    def call(
        self, vectors: tf.Tensor, real: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """`(batch, length, dim)`, with `real` `(batch, length)` bool, to the same."""
        normed = self.norm(vectors)
        attended = self.attention(
            normed, normed, attention_mask=real[:, None, :], use_causal_mask=True
        )
        vectors += self.dropout(attended, training=training)
        changed = self.contract(self.expand(self.norm_2(vectors)))
        return vectors + self.dropout(changed, training=training)

    def get_config(self) -> dict[str, Any]:
        """Sizes."""
        own = {"dim": self.dim, "heads": self.heads, "dropout": self.rate}
        return {**super().get_config(), **own}


class RankingTeacher(keras.Model):  # type: ignore[misc]
    r"""Scores a candidate in the light of the whole query.

    1. The history passes causal self-attention (Kang & McAuley, 2018, "Self-Attentive
       Sequential Recommendation"); its last state, with the query's features, is $u$.
    2. The candidate $c$ attends to the history's states: $a$ is what the query did
       that bears on this candidate (Zhou et al., 2018, "Deep Interest Network").
    3. $u, c, a, u \odot c, a \odot c$ and the pair features pass low-rank feature
       crosses (Wang et al., 2021, "DCN V2") and an MLP.
    4. The score adds to that the plain terms: $u \cdot c$, the candidate's bias and a
       weight for each pair feature.

    Step 2 to 4 are computed for every candidate: that is what makes it accurate, and
    slow.

    Args:
        schema: The fitted features, those that only the teacher may see included.
        catalogue: Looked-up features of all candidates, each `(items, …)`.
        affinities: The fitted layers of the pair features, by name.
        dim: Width of all vectors.
        heads: Attention heads; they divide `dim`.
        blocks: Self-attention blocks.
        attention_length: Most recent history items that attention sees.
        cross_layers: Feature crosses in a row.
        hidden: Hidden layers of the MLP.
        dropout: Share of entries dropped in training.
    """

    def __init__(
        self,
        schema: Schema,
        catalogue: Mapping[str, Any],
        affinities: Mapping[str, Affinity] | None = None,
        dim: int = 48,
        heads: int = 2,
        blocks: int = 1,
        attention_length: int = 50,
        cross_layers: int = 1,
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.2,
    ) -> None:
        super().__init__(name="ranking_teacher")
        self.dim, self.attention_length = dim, attention_length
        self._catalogue = {k: np.asarray(v) for k, v in catalogue.items()}
        self._item_id = schema.item_id
        self._history = schema.history.feature if schema.history else None
        self.affinities = list((affinities or {}).values())
        self.candidate_features = FeatureEmbedding.of(
            schema.candidate, dim, "candidate"
        )
        self.query_features = FeatureEmbedding.of(schema.query, dim, "query")
        self.candidate_projection = keras.layers.Dense(dim, name="candidate_projection")
        self.query_projection = keras.layers.Dense(dim, name="query_projection")
        self.blocks = [
            CausalBlock(dim, heads, dropout, name=f"block_{k}") for k in range(blocks)
        ]
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.to_key = keras.layers.Dense(dim, use_bias=False, name="to_key")
        self.to_query = keras.layers.Dense(dim, use_bias=False, name="to_query")
        self.to_value = keras.layers.Dense(dim, name="to_value")
        self.crosses = [
            keras_rs.layers.FeatureCross(projection_dim=dim // 2, name=f"cross_{k}")
            for k in range(cross_layers)
        ]
        self.hidden_layers = [
            keras.layers.Dense(width, activation="relu", name=f"hidden_{k}")
            for k, width in enumerate(hidden)
        ]
        # The MLP starts silent: training begins with the plain terms.
        self.head = keras.layers.Dense(1, kernel_initializer="zeros", name="head")
        self.plain = keras.layers.Dense(
            1, use_bias=False, kernel_initializer="ones", name="plain"
        )
        self.bias = keras.layers.Dense(1, name="bias")
        self.dropout = keras.layers.Dropout(dropout)
        self.positions = self.add_weight(
            name="positions",
            shape=(attention_length, dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def call(self, batch: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        """Scores `(batch, list_size)` of the batch's candidates.

        Args:
            batch: The tensor contract of `recdistill.batches`. Where it has a
                `profile`, pair features are those of a model without this query.
            training: Whether dropout is on.
        """
        states, real = self._read_history(batch["query"], training)
        query = self._summarise(batch["query"], states)
        index = tf.convert_to_tensor(batch["candidate_index"])
        candidates = self._encode(index)
        if index.shape.rank == 1:
            candidates = tf.tile(candidates[None], [tf.shape(query)[0], 1, 1])
        attended = self._attend(candidates, states, real)
        pairs = self._pair_features(batch, index)
        wide = tf.broadcast_to(query[:, None, :], tf.shape(candidates))
        product = wide * candidates
        inputs = [wide, candidates, attended, product, attended * candidates, *pairs]
        dot = tf.reduce_sum(product, axis=-1, keepdims=True)
        plain = self.plain(tf.concat([dot, *pairs], axis=-1))
        deep = self.head(self._cross(tf.concat(inputs, axis=-1), training))
        return (deep + plain + self.bias(candidates))[..., 0]

    def _encode(self, index: tf.Tensor) -> tf.Tensor:
        """Candidate vectors, `index.shape + (dim,)`, each distinct one made once."""
        distinct, place = tf.unique(tf.reshape(index, [-1]))
        rows = {name: tf.gather(v, distinct) for name, v in self._catalogue.items()}
        ids = self._item_vectors(rows[self._item_id])
        vectors = ids + self.candidate_projection(self.candidate_features(rows))
        return tf.gather(vectors, tf.reshape(place, tf.shape(index)))

    def _item_vectors(self, index: tf.Tensor) -> tf.Tensor:
        """Vectors of item ids, shared by candidates and history."""
        return self.candidate_features.tables[self._item_id](index)

    def _read_history(
        self, query: Mapping[str, tf.Tensor], training: bool
    ) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """States `(batch, length, dim)`, oldest first, and which of them are real."""
        if self._history is None:
            return None, None
        recent = query[self._history][:, : self.attention_length]
        history = tf.reverse(recent, axis=[1])
        real = history != MISSING
        length = tf.shape(history)[1]
        vectors = self._item_vectors(history) * self.dim**0.5
        vectors = vectors + self.positions[-length:]
        vectors = self.dropout(vectors, training=training)
        for block in self.blocks:
            vectors = block(vectors, real, training=training)
        return self.norm(vectors), real

    def _summarise(
        self, query: Mapping[str, tf.Tensor], states: tf.Tensor | None
    ) -> tf.Tensor:
        """The query's vector, `(batch, dim)`."""
        parts = []
        if states is not None:
            parts.append(states[:, -1])
        if self.query_features.sizes:
            parts.append(self.query_projection(self.query_features(query)))
        return tf.add_n(parts)

    def _attend(
        self, candidates: tf.Tensor, states: tf.Tensor | None, real: tf.Tensor | None
    ) -> tf.Tensor:
        """What each candidate finds in the history, `(batch, list_size, dim)`."""
        if states is None or real is None:
            return tf.zeros_like(candidates)
        logits = tf.matmul(
            self.to_query(candidates), self.to_key(states), transpose_b=True
        )
        logits *= self.dim**-0.5
        here = real[:, None, :]
        weights = tf.nn.softmax(tf.where(here, logits, logits.dtype.min))
        # A history that is all padding has nothing to offer.
        weights *= tf.cast(here, weights.dtype)
        return tf.matmul(weights, self.to_value(states))

    def _pair_features(
        self, batch: Mapping[str, Any], index: tf.Tensor
    ) -> list[tf.Tensor]:
        """Two views of each affinity: as it is, and with its heavy tail folded in."""
        features = []
        if self.affinities:
            items = tf.gather(self._catalogue[self._item_id], index)
            history = batch["query"][self._history]
            for layer in self.affinities:
                score = layer(history, items, batch.get("profile"))
                folded = tf.sign(score) * tf.math.log1p(tf.abs(score))
                features += [score[..., None], folded[..., None]]
        return features

    def _cross(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        crossed = inputs
        for layer in self.crosses:
            crossed = layer(inputs, crossed)
        crossed = self.dropout(crossed, training=training)
        for layer in self.hidden_layers:
            crossed = layer(crossed)
        return crossed
