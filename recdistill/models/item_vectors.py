"""Item vectors: the embedding of the id plus a projection of the other features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from recdistill.features.embedding import EmbeddingInitializer, FeatureEmbedding
from recdistill.features.encoders import FIRST
from recdistill.features.model_inputs import ModelInputs, indices_of, width_of
from recdistill.models.candidate_table import CandidateTable

WHOLE_TABLE = 5_000
"""Up to this number of items, `of_ids` computes the vectors of all items in training.
This has a fixed shape, so it can be compiled with XLA."""


@keras.saving.register_keras_serializable("recdistill")
class ItemVectors(keras.layers.Layer):  # type: ignore[misc]
    """Item vectors: the embedding of the id plus a projection of the other features.

    An item of a history has the same features as a candidate, and is found by its
    index in the vocabulary of ids.

    Args:
        inputs: Sizes of the candidates' features.
        table: The features of the candidates.
        dim: Width of the vectors.
        ids: Embedding of the ids, if another layer has it as well.
        tables: Embeddings of other features that another layer has as well, by name.
    """

    def __init__(
        self,
        inputs: ModelInputs,
        table: CandidateTable,
        dim: int,
        ids: keras.layers.Embedding | None = None,
        tables: Mapping[str, keras.layers.Embedding] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.item_id, self.table = inputs.item_id, table
        self.size = inputs.candidate[inputs.item_id].indices or 0
        others = {k: v for k, v in inputs.candidate.items() if k != inputs.item_id}
        self.width = width_of(others, dim)
        self.ids = ids or keras.layers.Embedding(
            self.size, dim, embeddings_initializer=EmbeddingInitializer(), name="ids"
        )
        self.features = FeatureEmbedding(
            indices_of(others), dim, tables, name="attributes"
        )
        self.projection = keras.layers.Dense(dim, use_bias=False, name="projection")
        self._stored: tf.Variable | None = None

    def build(self, input_shape: Any = None) -> None:
        """Creates the weights that no other layer has created."""
        if not self.ids.built:
            self.ids.build()
        if self.width:
            self.features.build()
            self.projection.build((None, self.width))
        self.built = True

    def of_rows(self, index: tf.Tensor) -> tf.Tensor:
        """Vectors of catalogue rows, `index.shape + (dim,)`; each is computed once."""
        distinct, place = tf.unique(tf.reshape(index, [-1]))
        rows = self.table(distinct)
        vectors = self.ids(rows[self.item_id])
        if self.width:
            vectors += self.projection(self.features(rows))
        return tf.gather(vectors, tf.reshape(place, tf.shape(index)))

    def of_ids(
        self, index: tf.Tensor, training: bool = False, whole: bool = False
    ) -> tf.Tensor:
        """Vectors of items, `index.shape + (dim,)`; each is computed once.

        An index that no item of the catalogue has, and that of unknown ids, has no
        other features.

        Args:
            index: Indices in the vocabulary of item ids.
            training: Whether the vectors of all items may be computed, which is faster
                for the histories of a batch and slower for those of a request.
            whole: Whether they are computed however many items there are.
        """
        if self._stored is not None and not training:
            return tf.gather(self._stored, index)
        if not self.width:
            return self.ids(index)
        if whole or (training and self.size <= WHOLE_TABLE):
            return tf.gather(self.all(), index)
        distinct, place = tf.unique(tf.reshape(index, [-1]))
        vectors = self._of_distinct_ids(distinct)
        return tf.gather(vectors, tf.reshape(place, tf.shape(index)))

    def all(self) -> tf.Tensor:
        """Vectors of all ids, `(size, dim)`."""
        return self._of_distinct_ids(tf.range(self.size))

    @contextmanager
    def stored(self) -> Iterator[None]:
        """Within this context, `of_ids` reads a table of the vectors of all ids.

        A graph that is traced in it, for an export, does not contain the features.
        """
        if self.width:
            self._stored = tf.Variable(
                self.all(), trainable=False, name="history_items"
            )
        try:
            yield
        finally:
            self._stored = None

    def _of_distinct_ids(self, index: tf.Tensor) -> tf.Tensor:
        vectors = self.ids(index)
        if not self.width:
            return vectors
        ids = self.table.all()[self.item_id]
        known = np.flatnonzero(ids >= FIRST)
        row_of = np.full(self.size, -1, "int32")
        row_of[ids[known]] = known
        row = tf.gather(row_of, index)
        own = self.projection(self.features(self.table(tf.maximum(row, 0))))
        return vectors + own * tf.cast(row >= 0, own.dtype)[:, None]
