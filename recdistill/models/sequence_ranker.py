"""Sequence ranker: SASRec with item attributes, trained on all positions at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from recdistill.distillation import layer_outputs
from recdistill.features.embedding import FeatureEmbedding
from recdistill.features.encoders import FIRST, MISSING
from recdistill.features.model_inputs import ModelInputs, indices_of, width_of
from recdistill.features.schema import Schema
from recdistill.lists.replicas import replica_mean
from recdistill.models.candidate_table import CandidateTable, CatalogueModel
from recdistill.models.item_vectors import ItemVectors
from recdistill.models.self_attention import CausalEncoder


@keras.saving.register_keras_serializable("recdistill")
class SequenceRanker(CatalogueModel):
    r"""Sequence ranker: the last state of causal self-attention times an item vector.

    SASRec (Kang & McAuley, 2018, "Self-Attentive Sequential Recommendation"). An item's
    vector is the embedding of its id plus a projection of its other features. It is the
    same in the history and among the candidates. A projection of the query's other
    features is added to the state; its weights start at 0.

    In training (`next_item_loss`) the state at each position predicts the next item, so
    one pass over a history of $n$ items gives $n$ examples. The loss is the softmax
    cross-entropy over all items that have training interactions. With `negatives`, the
    softmax is estimated from this number of uniformly drawn items: the sum over the
    other $m$ items is $m$ times the mean over the drawn ones (importance sampling:
    Bengio & Senécal, 2008).

    Args:
        schema: The fitted features.
        catalogue: Looked-up features of all candidates, each `(items, …)`.
        dim: Width of all vectors.
        heads: Attention heads; `dim` must be a multiple of it.
        blocks: Self-attention blocks.
        attention_length: Number of most recent history items in the attention.
        dropout: Share of entries dropped in training.
        negatives: Number of drawn items; None for the softmax over all items.

    Raises:
        ValueError: If `dim` is not a multiple of `heads`, or the schema has no history.
    """

    def __init__(
        self,
        schema: Schema | ModelInputs,
        catalogue: Mapping[str, Any] | CandidateTable,
        dim: int = 64,
        heads: int = 2,
        blocks: int = 2,
        attention_length: int = 50,
        dropout: float = 0.4,
        negatives: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"name": "sequence_ranker", **kwargs})
        inputs = ModelInputs.of(schema)
        if inputs.history is None:
            raise ValueError("`schema` must have a history. Received: none")
        self.model_inputs = inputs
        self._settings = {
            "dim": dim,
            "heads": heads,
            "blocks": blocks,
            "attention_length": attention_length,
            "dropout": dropout,
            "negatives": negatives,
        }
        self.negatives = negatives
        self.items = inputs.history.indices
        self.candidate_table = CandidateTable.of(catalogue, inputs.candidate)
        self.item_vectors = ItemVectors(
            inputs, self.candidate_table, dim, name="item_vectors"
        )
        self.encoder = CausalEncoder(
            dim, heads, blocks, attention_length, dropout, name="encoder"
        )
        self.query_features = FeatureEmbedding(
            indices_of(inputs.query), dim, name="query"
        )
        self.query_dropout = keras.layers.Dropout(dropout)
        self.query_projection = keras.layers.Dense(
            dim, use_bias=False, kernel_initializer="zeros", name="query_projection"
        )
        self._drawn = keras.random.SeedGenerator()
        with keras.name_scope(self.name):
            self.item_vectors.build()
            self.encoder.build()
            if inputs.query:
                self.query_features.build()
                self.query_projection.build((None, width_of(inputs.query, dim)))
        self.built = True

    def call(self, batch: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        """Scores the batch's candidates, `(batch, list_size)`.

        Args:
            batch: A batch as described in `recdistill.data.batches`.
            training: Whether dropout is active.

        Exposes to `recdistill.distillation.layer_outputs`: "query_embedding" `(batch,
        dim)`, and "candidate_embedding" `(batch, list_size, dim)`, or `(1, list_size,
        dim)` if all lists have the same candidates.
        """
        history = batch["query"][self.model_inputs.history_name]
        history = self.encoder.latest(history)
        vectors = self.item_vectors.of_ids(history)
        states = self.encoder(vectors, history != MISSING, training=training)
        query = self._with_features(states[:, -1], batch["query"], training)
        index = tf.convert_to_tensor(batch["candidate_index"])
        candidates = self.item_vectors.of_rows(index)
        shared = index.shape.rank == 1
        layer_outputs.expose("query_embedding", query)
        layer_outputs.expose(
            "candidate_embedding", candidates[None] if shared else candidates
        )
        if shared:
            return tf.matmul(query, candidates, transpose_b=True)
        return tf.linalg.matvec(candidates, query)

    def _with_features(
        self,
        states: tf.Tensor,
        query: Mapping[str, tf.Tensor],
        training: bool,
        known: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """States `(rows, dim)` plus the projection of the query's known features."""
        if not self.model_inputs.query:
            return states
        features = self.query_dropout(self.query_features(query), training=training)
        added = self.query_projection(features)
        if known is not None:
            added *= tf.cast(known, added.dtype)[:, None]
        return states + added

    def next_item_loss(
        self,
        windows: tf.Tensor,
        query: Mapping[str, tf.Tensor] | None = None,
        known: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Mean cross-entropy of the next item over all positions, a scalar.

        The mean of the values of all replicas is that of the whole batch. A position
        without an item before it counts if the query's features are known.

        Args:
            windows: `(batch, length + 1)` int, item indices, oldest first, padded on
                the left; from `recdistill.data.sequences`.
            query: Looked-up features of the query when it chose each item after the
                first, `(batch, length, …)`; not needed without query features.
            known: Whether these features are known, `(batch, length)` bool; by default
                they are.
            training: Whether dropout is active.
        """
        history, target = windows[:, :-1], windows[:, 1:]
        real = history != MISSING
        if not self.model_inputs.query:
            known = tf.zeros_like(real)
        elif known is None:
            known = tf.ones_like(real)
        # Only these positions have a loss; most of a short history's window is padding.
        counted = tf.where((real | known) & (target >= FIRST))
        target, known = (tf.gather_nd(each, counted) for each in (target, known))
        features = {
            name: tf.gather_nd((query or {})[name], counted)
            for name in self.model_inputs.query
        }
        whole = self.negatives is None
        if whole:
            table = self.item_vectors.all()
            vectors = tf.gather(table, history)
        else:
            vectors = self.item_vectors.of_ids(history)
        states = tf.gather_nd(self.encoder(vectors, real, training=training), counted)
        states = self._with_features(states, features, training, known)
        if whole:
            logits = tf.matmul(states, table[FIRST:], transpose_b=True)
            # The sum of exponentials needs float32, whatever the policy of the model.
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                target - FIRST, tf.cast(logits, tf.float32)
            )
        else:
            loss = self._estimated_loss(states, target)
        number = replica_mean(tf.cast(tf.shape(target)[0], loss.dtype))
        return tf.math.divide_no_nan(tf.reduce_sum(loss), number)

    def _estimated_loss(self, states: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Cross-entropy of each position, with the softmax over drawn items."""
        # Whole numbers: a float32 between 0 and 1 has only 2 ** 23 values.
        drawn = keras.random.randint(
            [self.negatives], FIRST, self.items, target.dtype, seed=self._drawn
        )
        positive = tf.reduce_sum(states * self.item_vectors.of_ids(target), axis=1)
        others = tf.matmul(states, self.item_vectors.of_ids(drawn), transpose_b=True)
        # The sum of exponentials needs float32, whatever the policy of the model.
        positive, others = (tf.cast(each, tf.float32) for each in (positive, others))
        same = target[:, None] == drawn
        others = tf.where(same, others.dtype.min, others)
        count = tf.cast(tf.reduce_sum(tf.cast(~same, tf.int32), axis=1), others.dtype)
        scale = tf.math.log(self.items - FIRST - 1.0) - tf.math.log(
            tf.maximum(count, 1.0)
        )
        rest = tf.reduce_logsumexp(others, axis=1) + scale
        return tf.nn.softplus(rest - positive)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; the catalogue as a checksum."""
        own = {
            "schema": self.model_inputs,
            "catalogue": self.candidate_table,
            **self._settings,
        }
        return {**super().get_config(), **keras.saving.serialize_keras_object(own)}
