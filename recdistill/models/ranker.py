"""The reference teacher: a heavy ranker that sees query and candidate together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import keras_rs
import numpy as np
import tensorflow as tf

from recdistill.distillation import layer_outputs
from recdistill.features.encoders import MISSING, FeatureEmbedding, Schema
from recdistill.models.linear import Affinity
from recdistill.models.two_tower import HistoryPooling, Tower


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

    1. The query $u$ is what a student's tower sees of it (`HistoryPooling` and its
       features), and besides the last state of causal self-attention over the history
       (Kang & McAuley, 2018, "Self-Attentive Sequential Recommendation").
    2. The plain terms $u \cdot c$, the candidate's bias and a weight for each pair
       feature make a first score.
    3. The candidate $c$ attends to the history's states: $a$ is what the query did
       that bears on this candidate (Zhou et al., 2018, "Deep Interest Network").
    4. $u, c, a, u \odot c, a \odot c$ and the pair features pass low-rank feature
       crosses (Wang et al., 2021, "DCN V2") and an MLP, whose output is added.

    Step 3 and 4 are computed for every candidate: that is what makes it accurate, and
    slow. The MLP starts silent, so that the plain terms can be trained first, and
    cheaply: see `plain_terms`.

    Args:
        schema: The fitted features, those that only the teacher may see included.
        catalogue: Looked-up features of all candidates, each `(items, …)`.
        affinities: The fitted layers of the pair features, by name.
        dim: Width of all vectors.
        heads: Attention heads; they divide `dim`.
        blocks: Self-attention blocks.
        attention_length: Most recent history items that attention sees.
        decays: Pools of the history, as in `HistoryPooling`.
        cross_layers: Feature crosses in a row.
        hidden: Hidden layers of the MLP. With none there is no step 3 and 4: the plain
            terms alone are the ranker, and a catalogue costs one matrix product.
        dropout: Share of entries dropped in training.

    Raises:
        ValueError: If `heads` do not divide `dim`, or the schema has no history for an
            affinity to read, or no query feature at all.
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
        decays: Sequence[float] = (0.5, 0.8, 0.97),
        cross_layers: int = 1,
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.2,
    ) -> None:
        super().__init__(name="ranking_teacher")
        _check(schema, affinities or {}, dim, heads)
        self.dim, self.attention_length = dim, attention_length
        self._catalogue = {k: np.asarray(v) for k, v in catalogue.items()}
        self._item_id = schema.item_id
        self._history = schema.history.feature if schema.history else None
        self.affinities = list((affinities or {}).values())
        self.candidate_features = FeatureEmbedding.of(
            schema.candidate, dim, "candidate"
        )
        self.query_features = FeatureEmbedding.of(schema.query, dim, "query")
        self.history_pooling = None
        if schema.history is not None:
            self.history_pooling = HistoryPooling(
                schema.history.size, dim, schema.history.length, decays
            )
        self.candidate_projection = keras.layers.Dense(dim, name="candidate_projection")
        self.query_tower = Tower(dim, (2 * dim,), dropout, name="query_tower")
        if schema.history is not None:
            self._make_attention(heads, blocks, dropout)
            if hidden:
                self._make_candidate_attention()
        self.crosses = [
            keras_rs.layers.FeatureCross(projection_dim=dim // 2, name=f"cross_{k}")
            for k in range(cross_layers if hidden else 0)
        ]
        self.hidden_layers = [
            keras.layers.Dense(width, activation="relu", name=f"hidden_{k}")
            for k, width in enumerate(hidden)
        ]
        if self.hidden_layers:
            self.head = keras.layers.Dense(1, kernel_initializer="zeros", name="head")
        if self.affinities:
            self.pair_weights = keras.layers.Dense(
                1, use_bias=False, kernel_initializer="zeros", name="pair_weights"
            )
        self.bias = keras.layers.Dense(1, name="bias")
        self.dropout = keras.layers.Dropout(dropout)

    def _make_attention(self, heads: int, blocks: int, dropout: float) -> None:
        """What reads the history."""
        self.blocks = [
            CausalBlock(self.dim, heads, dropout, name=f"block_{k}")
            for k in range(blocks)
        ]
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.positions = keras.layers.Embedding(
            self.attention_length,
            self.dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="positions",
        )

    def _make_candidate_attention(self) -> None:
        """What lets a candidate attend to the history."""
        self.to_key = keras.layers.Dense(self.dim, use_bias=False, name="to_key")
        self.to_query = keras.layers.Dense(self.dim, use_bias=False, name="to_query")
        self.to_value = keras.layers.Dense(self.dim, name="to_value")

    def call(self, batch: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        """Scores `(batch, list_size)` of the batch's candidates.

        Args:
            batch: The tensor contract of `recdistill.data.batches`. Where it has a
                `training_row`, pair features are those of a model without this query.
            training: Whether dropout is on.

        Exposes to `recdistill.distillation.layer_outputs` "query_embedding" `(batch,
        dim)` and
        "candidate_embedding" `(batch, list_size, dim)`, or `(1, list_size, dim)` where
        lists share their candidates.
        """
        states, real = self._read_history(batch["query"], training)
        query = self._summarise(batch["query"], states, training)
        candidates = self._encode(tf.convert_to_tensor(batch["candidate_index"]))
        layer_outputs.expose("query_embedding", query)
        one_list = candidates.shape.rank == 2
        listed = candidates[None] if one_list else candidates
        layer_outputs.expose("candidate_embedding", listed)
        pairs = self._pair_features(batch)
        plain = self._plain(query, candidates, pairs)
        if not self.hidden_layers:
            return plain
        if one_list:
            candidates = tf.tile(candidates[None], [tf.shape(query)[0], 1, 1])
        attended = self._attend(candidates, states, real)
        wide = tf.broadcast_to(query[:, None, :], tf.shape(candidates))
        inputs = [wide, candidates, attended, wide * candidates, attended * candidates]
        deep = self._cross(tf.concat([*inputs, *pairs], axis=-1), training)
        return plain + self.head(deep)[..., 0]

    @contextlib.contextmanager
    def plain_terms(self) -> Iterator[keras.Model]:
        """The plain terms as a model of their own, to train over whole catalogues.

        A step costs one matrix product instead of one pass of the MLP for each pair, so
        every item can be a candidate. What it learns is the ranker's own.

        Yields:
            A model of the tensor contract. Inside the block the layers that it does not
            use are frozen.
        """
        with _frozen(self._deep_layers()):
            yield _PlainTerms(self)

    @contextlib.contextmanager
    def deep_terms(self) -> Iterator[keras.Model]:
        """The ranker with its plain terms frozen: the MLP learns what they leave.

        Sampled lists, which are all that a pass of the MLP for each pair can afford,
        say less about the whole catalogue than the plain terms know by then.

        Yields:
            The ranker itself.
        """
        deep = self._deep_layers()
        plain = [
            layer
            for layer in self._flatten_layers(include_self=False)
            if layer not in deep
        ]
        with _frozen(plain):
            yield self

    def _deep_layers(self) -> list[keras.layers.Layer]:
        """What the plain terms do without."""
        if not self.hidden_layers:
            return []
        deep = [*self.crosses, *self.hidden_layers, self.head]
        if self._history is not None:
            deep += [self.to_key, self.to_query, self.to_value]
        return deep

    def plain_scores(
        self, batch: Mapping[str, Any], training: bool = False
    ) -> tf.Tensor:
        """The plain terms alone, `(batch, list_size)`: one matrix product for all."""
        states, _ = self._read_history(batch["query"], training)
        query = self._summarise(batch["query"], states, training)
        candidates = self._encode(tf.convert_to_tensor(batch["candidate_index"]))
        return self._plain(query, candidates, self._pair_features(batch))

    def _plain(
        self, query: tf.Tensor, candidates: tf.Tensor, pairs: list[tf.Tensor]
    ) -> tf.Tensor:
        bias = self.bias(candidates)[..., 0]
        if candidates.shape.rank == 2:
            scores = tf.matmul(query, candidates, transpose_b=True) + bias
        else:
            scores = tf.linalg.matvec(candidates, query) + bias
        if pairs:
            scores += self.pair_weights(tf.concat(pairs, axis=-1))[..., 0]
        return scores

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
        vectors += self.positions(tf.range(length))[::-1]
        vectors = self.dropout(vectors, training=training)
        for block in self.blocks:
            vectors = block(vectors, real, training=training)
        # Where nothing is, there is no state either, however much padding there is.
        return self.norm(vectors) * tf.cast(real, vectors.dtype)[..., None], real

    def _summarise(
        self,
        query: Mapping[str, tf.Tensor],
        states: tf.Tensor | None,
        training: bool,
    ) -> tf.Tensor:
        """The query's vector, `(batch, dim)`."""
        parts = []
        if states is not None and self.history_pooling is not None:
            parts += [states[:, -1], self.history_pooling(query[str(self._history)])]
        if self.query_features.sizes:
            parts.append(self.query_features(query))
        return self.query_tower(tf.concat(parts, axis=1), training=training)

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

    def _pair_features(self, batch: Mapping[str, Any]) -> list[tf.Tensor]:
        """Two views of each affinity: as it is, and with its heavy tail folded in."""
        features = []
        if self.affinities:
            items = tf.gather(self._catalogue[self._item_id], batch["candidate_index"])
            history = batch["query"][str(self._history)]
            for layer in self.affinities:
                score = layer(history, items, batch.get("training_row"))
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


class _PlainTerms(keras.Model):  # type: ignore[misc]
    """See `RankingTeacher.plain_terms`."""

    def __init__(self, ranker: RankingTeacher) -> None:
        super().__init__(name="plain_terms")
        self.ranker = ranker

    def call(self, batch: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        return self.ranker.plain_scores(batch, training=training)


def _check(
    schema: Schema, affinities: Mapping[str, Affinity], dim: int, heads: int
) -> None:
    if dim % heads:
        raise ValueError(
            f"`heads` must divide `dim`. Received: heads={heads}, dim={dim}"
        )
    if not schema.query:
        raise ValueError("`schema` must have a query feature. Received: none")
    if affinities and schema.history is None:
        raise ValueError(
            "`schema` must have a history where `affinities` are given. "
            f"Received: {sorted(affinities)} and no history"
        )


@contextlib.contextmanager
def _frozen(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Inside the block these layers do not train."""
    before = [layer.trainable for layer in layers]
    for layer in layers:
        layer.trainable = False
    try:
        yield
    finally:
        for layer, trainable in zip(layers, before, strict=True):
            layer.trainable = trainable
