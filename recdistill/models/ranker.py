"""The reference ranker: a SASRec query vector, a dot product and pair features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from recdistill.distillation import layer_outputs
from recdistill.features.embedding import FeatureEmbedding
from recdistill.features.encoders import MISSING
from recdistill.features.model_inputs import ModelInputs, indices_of, width_of
from recdistill.features.schema import Schema
from recdistill.models.candidate_table import CandidateTable, CatalogueModel
from recdistill.models.item_vectors import ItemVectors
from recdistill.models.linear import Affinity
from recdistill.models.self_attention import CausalEncoder
from recdistill.models.tower_layers import HistoryPooling, Tower


@keras.saving.register_keras_serializable("recdistill")
class RankingTeacher(CatalogueModel):
    r"""Reference ranker: SASRec query vector, dot product, bias and pair features.

    The query vector $u$ is computed from three parts: the last state of causal
    self-attention over the history (SASRec: Kang & McAuley, 2018, "Self-Attentive
    Sequential Recommendation"), the pooled history (`HistoryPooling`) and the query's
    features. The score of a candidate with vector $c$, bias $b$ and pair features $p$
    is $u \cdot c + b + w \cdot p$, with learned weights $w$.

    A student with two towers cannot read the pair features, nor features that are
    `teacher_only`. A whole catalogue costs one matrix product, so the ranker can be
    trained and can score with the whole catalogue as candidates.

    Args:
        schema: The fitted features, including those that are `teacher_only`.
        catalogue: Looked-up features of all candidates, each `(items, …)`.
        affinities: The fitted layers of the pair features, by name.
        dim: Width of all vectors.
        heads: Attention heads; `dim` must be a multiple of it.
        blocks: Self-attention blocks.
        attention_length: Number of most recent history items in the attention.
        decays: Pools of the history, as in `HistoryPooling`.
        dropout: Share of entries dropped in training.

    Raises:
        ValueError: If `dim` is not a multiple of `heads`, if `affinities` are given and
            the schema has no history, or if the schema has no query feature.
    """

    def __init__(
        self,
        schema: Schema | ModelInputs,
        catalogue: Mapping[str, Any] | CandidateTable,
        affinities: Mapping[str, Affinity] | None = None,
        dim: int = 48,
        heads: int = 2,
        blocks: int = 1,
        attention_length: int = 50,
        decays: Sequence[float] = (0.5, 0.8, 0.97),
        dropout: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"name": "ranking_teacher", **kwargs})
        inputs = ModelInputs.of(schema)
        _check(inputs, affinities or {}, dim, heads)
        self.model_inputs = inputs
        self._settings = {
            "dim": dim,
            "heads": heads,
            "blocks": blocks,
            "attention_length": attention_length,
            "decays": list(decays),
            "dropout": dropout,
        }
        self.dim = dim
        self.candidate_table = CandidateTable.of(catalogue, inputs.candidate)
        self._affinity_names = tuple(affinities or ())
        self.affinities = list((affinities or {}).values())
        self.item_vectors = ItemVectors(
            inputs, self.candidate_table, dim, name="item_vectors"
        )
        self.query_features = FeatureEmbedding(
            indices_of(inputs.query), dim, name="query"
        )
        self.history_pooling: HistoryPooling | None = None
        self.causal_encoder: CausalEncoder | None = None
        if inputs.history:
            self.history_pooling = HistoryPooling(dim, inputs.history.length, decays)
            self.pooled_items = ItemVectors(
                inputs,
                self.candidate_table,
                dim,
                tables=self.item_vectors.features.tables,
                name="pooled_items",
            )
        self.query_tower = Tower(dim, (2 * dim,), dropout, name="query_tower")
        if inputs.history:
            self.causal_encoder = CausalEncoder(
                dim, heads, blocks, attention_length, dropout, name="causal_encoder"
            )
        if self.affinities:
            self.pair_weights = keras.layers.Dense(
                1, use_bias=False, kernel_initializer="zeros", name="pair_weights"
            )
        self.bias = keras.layers.Dense(1, name="bias")
        self._create_weights()

    def _create_weights(self) -> None:
        inputs, dim = self.model_inputs, self.dim
        width = width_of(inputs.query, dim)
        with keras.name_scope(self.name):
            self.item_vectors.build()
            self.query_features.build()
            if self.history_pooling and self.causal_encoder:
                self.history_pooling.build()
                self.pooled_items.build()
                self.causal_encoder.build()
                width += dim + self.history_pooling.width
            for layer in self.affinities:
                if not layer.built:
                    layer.build()
            self.query_tower.build((None, width))
            if self.affinities:
                self.pair_weights.build((None, None, 2 * len(self.affinities)))
            self.bias.build((None, dim))
        self.built = True

    def call(self, batch: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        """Scores the batch's candidates, `(batch, list_size)`.

        Args:
            batch: A batch as described in `recdistill.data.batches`. If it has a
                `training_row`, the pair features come from item models that were not
                fitted on that row.
            training: Whether dropout is active.

        Exposes to `recdistill.distillation.layer_outputs`: "query_embedding" `(batch,
        dim)`, and "candidate_embedding" `(batch, list_size, dim)`, or `(1, list_size,
        dim)` if all lists have the same candidates.
        """
        query = self._encode_query(batch["query"], training)
        index = tf.convert_to_tensor(batch["candidate_index"])
        candidates = self.item_vectors.of_rows(index)
        shared = index.shape.rank == 1
        layer_outputs.expose("query_embedding", query)
        layer_outputs.expose(
            "candidate_embedding", candidates[None] if shared else candidates
        )
        scores = self.bias(candidates)[..., 0]
        if shared:
            scores += tf.matmul(query, candidates, transpose_b=True)
        else:
            scores += tf.linalg.matvec(candidates, query)
        pairs = self._pair_features(batch)
        if pairs:
            scores += self.pair_weights(tf.concat(pairs, axis=-1))[..., 0]
        return scores

    def _encode_query(
        self, query: Mapping[str, tf.Tensor], training: bool
    ) -> tf.Tensor:
        """Query vectors, `(batch, dim)`."""
        parts = []
        if self.history_pooling and self.causal_encoder:
            history = query[self.model_inputs.history_name]
            latest = self.causal_encoder.latest(history)
            vectors = self.item_vectors.of_ids(latest, training=training)
            states = self.causal_encoder(vectors, latest != MISSING, training=training)
            vectors = self.pooled_items.of_ids(history, training=training)
            pools = self.history_pooling(vectors, history != MISSING)
            parts += [states[:, -1], pools]
        if self.query_features.sizes:
            parts.append(self.query_features(query))
        return self.query_tower(tf.concat(parts, axis=1), training=training)

    def _pair_features(self, batch: Mapping[str, Any]) -> list[tf.Tensor]:
        """Two features of each affinity: the score, and sign(score) log(1 + |score|).

        The logarithm compresses the heavy tail of an affinity's scores.
        """
        features = []
        if self.affinities:
            rows = self.candidate_table(batch["candidate_index"])
            items = rows[self.model_inputs.item_id]
            history = batch["query"][self.model_inputs.history_name]
            for layer in self.affinities:
                score = layer(history, items, batch.get("training_row"))
                compressed = tf.sign(score) * tf.math.log1p(tf.abs(score))
                features += [score[..., None], compressed[..., None]]
        return features

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; the catalogue as a checksum."""
        own = {
            "schema": self.model_inputs,
            "catalogue": self.candidate_table,
            "affinities": dict(zip(self._affinity_names, self.affinities, strict=True)),
            **self._settings,
        }
        return {**super().get_config(), **keras.saving.serialize_keras_object(own)}


def _check(
    inputs: ModelInputs, affinities: Mapping[str, Affinity], dim: int, heads: int
) -> None:
    if dim % heads:
        raise ValueError(
            f"`dim` must be a multiple of `heads`. Received: dim={dim}, heads={heads}"
        )
    if not inputs.query_names():
        raise ValueError("`schema` must have a query feature. Received: none")
    if affinities and inputs.history is None:
        raise ValueError(
            "`schema` must have a history if `affinities` are given. "
            f"Received: {sorted(affinities)} and no history"
        )
