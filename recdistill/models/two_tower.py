"""Two-tower models: the score is the dot product of two embeddings.

`TwoTowers` takes any query tower and candidate tower. `TwoTowerStudent` builds both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from recdistill.distillation import layer_outputs
from recdistill.features.embedding import EmbeddingInitializer, FeatureEmbedding
from recdistill.features.encoders import MISSING, UNKNOWN
from recdistill.features.model_inputs import ModelInputs, indices_of, width_of
from recdistill.features.schema import Schema
from recdistill.models.candidate_table import CandidateTable, CatalogueModel
from recdistill.models.history_state import HistoryState, SequenceEncoder
from recdistill.models.item_vectors import ItemVectors
from recdistill.models.tower_layers import HistoryPooling, Tower

DISTINCT_PER_LISTED = 64
"""`listed_products` computes all products if there are at most this many distinct
candidates for each place of a list."""


def listed_products(
    queries: tf.Tensor, candidates: tf.Tensor, place: tf.Tensor
) -> tf.Tensor:
    """Dot products of each query with the candidates of its list.

    Unless lists are short and there are many distinct candidates, the product of all
    queries with all distinct candidates is faster than gathering the vectors of each
    list and adding up their gradients, which moves far more memory.

    Args:
        queries: `(batch, dim)`.
        candidates: `(distinct, dim)`.
        place: `(batch, list_size)` int, rows of `candidates`.

    Returns:
        `(batch, list_size)`.

    Examples:
        >>> queries, candidates = tf.constant([[1.0, 2.0]]), tf.eye(2)
        >>> listed_products(queries, candidates, tf.constant([[1, 0, 1]])).numpy()
        array([[2., 1., 2.]], dtype=float32)
    """

    def listed_only() -> tf.Tensor:
        return tf.linalg.matvec(tf.gather(candidates, place), queries)

    few = tf.shape(candidates)[0] <= DISTINCT_PER_LISTED * tf.shape(place)[1]
    return tf.cond(few, partial(_of_all, queries, candidates, place), listed_only)


def _of_all(queries: tf.Tensor, candidates: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """`listed_products` by way of all products."""
    products = tf.matmul(queries, candidates, transpose_b=True)
    return tf.gather(products, place, batch_dims=1)


@keras.saving.register_keras_serializable("recdistill")
class TwoTowers(CatalogueModel):
    """Two-tower model of any query tower and candidate tower.

    Each distinct candidate of a batch is encoded once, because lists share most of
    their candidates; see also `whole_catalogue`.

    A functional tower receives the features that its inputs are named after. Any other
    tower receives a dict of all features of its side. Features that only the teacher
    may read are never passed on.

    Args:
        schema: The fitted features.
        catalogue: Looked-up features of all candidates, each `(items, …)`.
        query_tower: Keras layer or model from looked-up query features, by name, to
            `(batch, dim)`.
        candidate_tower: Keras layer or model from looked-up candidate features, by
            name, to `(candidates, dim)`.
        l2: Penalty on the embeddings' mean square, over the queries and over the
            distinct candidates of a batch, added to the loss.
        id_dropout: Share of the distinct candidates of a training batch whose id is
            hidden from the candidate tower. The embedding of unknown ids is then that
            of an average item, so that a new item ranks by its other features. No id
            is hidden if the candidates have no other feature.

    Raises:
        ValueError: If a functional tower has an input that is not one of its features,
            the towers' outputs do not have the same width, or `id_dropout` is out of
            range.
    """

    def __init__(
        self,
        schema: Schema | ModelInputs,
        catalogue: Mapping[str, Any] | CandidateTable,
        query_tower: keras.layers.Layer,
        candidate_tower: keras.layers.Layer,
        l2: float = 0.0,
        id_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_inputs = inputs = _student_inputs(schema)
        self.candidate_table = CandidateTable.of(catalogue, inputs.candidate)
        self.query_tower, self.candidate_tower = query_tower, candidate_tower
        if not 0.0 <= id_dropout < 1.0:
            raise ValueError(
                "`id_dropout` must be at least 0 and below 1. "
                f"Received: id_dropout={id_dropout}"
            )
        self.l2, self.id_dropout = l2, id_dropout
        hides = id_dropout and len(inputs.candidate) > 1
        self._hidden_ids = keras.random.SeedGenerator() if hides else None
        self._encodes_all = False
        _check_tower("query_tower", query_tower, inputs.query_names())
        _check_tower("candidate_tower", candidate_tower, inputs.candidate)

    def build(self, input_shape: Any = None) -> None:
        """Creates no weights: a tower creates its weights when it is first called."""
        self.built = True

    def encode_query(
        self, query: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Maps looked-up query features, each `(batch, …)`, to `(batch, dim)`."""
        names = self.model_inputs.query_names()
        features = _select(self.query_tower, query, names)
        return self.query_tower(features, training=training)

    def encode_candidates(
        self, features: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Maps looked-up candidate features, each `(n, …)`, to `(n, dim)`."""
        names = self.model_inputs.candidate
        features = _select(self.candidate_tower, features, names)
        return self.candidate_tower(features, training=training)

    def stored_history(self) -> AbstractContextManager[None]:
        """Within this context, the query tower reads a table of item vectors.

        Queries that are traced in it cost less, and their graph does not contain the
        features of the catalogue. The weights must not change in the context.
        """
        return nullcontext()

    @contextmanager
    def whole_catalogue(self) -> Iterator[None]:
        """Within this context, training encodes all items of the catalogue.

        It computes the same scores. For batches that list nearly all items it is
        faster than the search for the distinct ones; its shapes do not depend on what
        is listed, so that a training step can be compiled with XLA. The penalty `l2`
        is then the mean over all items.
        """
        before, self._encodes_all = self._encodes_all, True
        try:
            yield
        finally:
            self._encodes_all = before

    def call(self, batch: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        """Scores the batch's candidates, `(batch, list_size)`.

        Args:
            batch: A batch as described in `recdistill.data.batches`: `query`, and
                `candidate_index` `(batch, list_size)`, or `(list_size,)` if all lists
                have the same candidates.
            training: Whether dropout is active.

        Exposes to `recdistill.distillation.layer_outputs`: "query_embedding" `(batch,
        dim)`, and "candidate_embedding" `(batch, list_size, dim)`, or `(1, list_size,
        dim)` if all lists have the same candidates.
        """
        queries = self.encode_query(batch["query"], training=training)
        layer_outputs.expose("query_embedding", queries)
        index = tf.convert_to_tensor(batch["candidate_index"])
        table, place = self.candidate_table, index
        shared = index.shape.rank == 1
        whole = training and self._encodes_all and not shared
        if shared:
            rows = table(index)
        elif whole:
            rows = {name: tf.constant(v) for name, v in table.all().items()}
        else:
            distinct, place = tf.unique(tf.reshape(index, [-1]))
            rows = table(distinct)
        if training and self._hidden_ids is not None:
            rows = self._without_some_ids(rows)
        candidates = self.encode_candidates(rows, training=training)
        _check_widths(queries, candidates)
        if shared:
            layer_outputs.expose("candidate_embedding", candidates[None])
            scores = tf.matmul(queries, candidates, transpose_b=True)
        else:
            place = tf.reshape(place, tf.shape(index))
            listed = partial(tf.gather, candidates, place)
            layer_outputs.expose("candidate_embedding", listed)
            products = _of_all if whole else listed_products
            scores = products(queries, candidates, place)
        if self.l2:
            for embeddings in (queries, candidates):
                # In half precision even the number of entries overflows.
                wide = tf.cast(embeddings, tf.float32)
                self.add_loss(self.l2 * tf.reduce_mean(tf.square(wide)))
        return scores

    def _without_some_ids(self, rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Features of candidates, a random share of their ids replaced by "unknown"."""
        name = self.model_inputs.item_id
        ids = rows[name]
        drawn = keras.random.uniform(tf.shape(ids), seed=self._hidden_ids)
        unknown = tf.fill(tf.shape(ids), tf.cast(UNKNOWN, ids.dtype))
        return {**rows, name: tf.where(drawn < self.id_dropout, unknown, ids)}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; the catalogue as a checksum."""
        own = {
            "schema": self.model_inputs,
            "catalogue": self.candidate_table,
            "query_tower": self.query_tower,
            "candidate_tower": self.candidate_tower,
            "l2": self.l2,
            "id_dropout": self.id_dropout,
        }
        return {**super().get_config(), **keras.saving.serialize_keras_object(own)}


@keras.saving.register_keras_serializable("recdistill")
class TwoTowerStudent(TwoTowers):
    """Two-tower student for the features of a schema.

    The query tower is an MLP with a linear path over the query's embedded features,
    its pooled history, and optionally the state of a sequence encoder. It runs once a
    request. An item of the history has all features that it has as a candidate. The
    candidate tower is linear.

    Args:
        schema: The fitted features; those that are `teacher_only` are left out.
        catalogue: Looked-up features of all candidates, each `(items, …)`.
        dim: Width of the two embeddings.
        embedding_dim: Width of each feature's embedding.
        hidden: Hidden layers of the query tower.
        decays: Pools of the history, as in `HistoryPooling`.
        encoder: Sequence encoder of the history, as in `HistoryState`; None for pools
            alone.
        shared_items: Whether history and candidates have one embedding of item ids.
        dropout: Share of the query tower's inputs dropped in training.
        popularity_bias: Whether one entry of `dim` is a bias of the candidate: the
            query's last entry is then 1, so that the dot product adds the candidate's.
        l2: Penalty on the embeddings' mean square, over the queries and over the
            distinct candidates of a batch, added to the loss.
        id_dropout: Share of candidates without their id in training, as in `TwoTowers`.

    Raises:
        ValueError: If `dim` leaves no room for the bias, or the schema has no feature
            for one of the towers.
    """

    def __init__(
        self,
        schema: Schema | ModelInputs,
        catalogue: Mapping[str, Any] | CandidateTable,
        dim: int = 32,
        embedding_dim: int = 32,
        hidden: Sequence[int] = (128,),
        decays: Sequence[float] = (0.7, 0.97),
        encoder: SequenceEncoder | None = None,
        shared_items: bool = False,
        dropout: float = 0.0,
        popularity_bias: bool = True,
        l2: float = 0.0,
        id_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        inputs = _student_inputs(schema)
        _check_student(inputs, dim, popularity_bias)
        # The order of construction determines the random initial weights.
        ids, pooling, state, tables = None, None, None, {}
        if inputs.history:
            size, length = inputs.history.indices, inputs.history.length
            start = EmbeddingInitializer()
            ids = keras.layers.Embedding(
                size, embedding_dim, embeddings_initializer=start, name="items"
            )
            pooling = HistoryPooling(embedding_dim, length, decays)
            if encoder is not None:
                state = HistoryState(encoder, embedding_dim, length, dropout)
            if shared_items:
                tables[inputs.item_id] = ids
        query_features = FeatureEmbedding(
            indices_of(inputs.query), embedding_dim, name="query"
        )
        candidate_features = FeatureEmbedding(
            indices_of(inputs.candidate), embedding_dim, tables, name="candidate"
        )
        catalogue = CandidateTable.of(catalogue, inputs.candidate)
        super().__init__(
            inputs,
            catalogue,
            Tower(dim - popularity_bias, hidden, dropout, name="query_tower"),
            Tower(dim, name="candidate_tower"),
            l2,
            id_dropout,
            **{"name": "two_tower_student", **kwargs},
        )
        self.dim, self.embedding_dim = dim, embedding_dim
        self.decays, self.popularity_bias = tuple(decays), popularity_bias
        self.encoder, self.shared_items = encoder, shared_items
        self.history_pooling, self.history_state = pooling, state
        if pooling is not None:
            self.history_items = ItemVectors(
                inputs,
                self.candidate_table,
                embedding_dim,
                ids,
                candidate_features.tables,
                name="history_items",
            )
        self.query_features = query_features
        self.candidate_features = candidate_features
        self._create_weights()

    def _create_weights(self) -> None:
        inputs, dim = self.model_inputs, self.embedding_dim
        query_width = width_of(inputs.query, dim)
        with keras.name_scope(self.name):
            if self.history_pooling is not None:
                self.history_pooling.build()
                self.history_items.build()
                query_width += self.history_pooling.width
            if self.history_state is not None:
                self.history_state.build()
                query_width += dim
            self.query_features.build()
            self.candidate_features.build()
            self.query_tower.build((None, query_width))
            self.candidate_tower.build((None, width_of(inputs.candidate, dim)))
        self.built = True

    def encode_query(
        self, query: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Maps looked-up query features, each `(batch, …)`, to `(batch, dim)`."""
        parts = []
        if self.history_pooling is not None:
            history = query[self.model_inputs.history_name]
            vectors = self.history_items.of_ids(
                history, training=training, whole=training and self._encodes_all
            )
            real = history != MISSING
            parts.append(self.history_pooling(vectors, real))
            if self.history_state is not None:
                parts.append(self.history_state(vectors, real, training=training))
        if self.query_features.sizes:
            parts.append(self.query_features(query))
        vector = self.query_tower(tf.concat(parts, axis=1), training=training)
        if not self.popularity_bias:
            return vector
        return tf.concat([vector, tf.ones_like(vector[:, :1])], axis=1)

    def stored_history(self) -> AbstractContextManager[None]:
        """As in `TwoTowers`: the vectors of a history's items are stored."""
        return self.history_items.stored() if self.history_pooling else nullcontext()

    def encode_candidates(
        self, features: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Maps looked-up candidate features, each `(n, …)`, to `(n, dim)`."""
        return self.candidate_tower(self.candidate_features(features))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; the catalogue as a checksum."""
        config = super().get_config()
        del config["query_tower"], config["candidate_tower"]
        return {
            **config,
            "dim": self.dim,
            "embedding_dim": self.embedding_dim,
            "hidden": list(self.query_tower.hidden),
            "decays": list(self.decays),
            "encoder": self.encoder,
            "shared_items": self.shared_items,
            "dropout": self.query_tower.rate,
            "popularity_bias": self.popularity_bias,
        }


def _student_inputs(schema: Schema | ModelInputs) -> ModelInputs:
    if isinstance(schema, ModelInputs):
        return schema
    return ModelInputs.of(schema.for_student())


def _check_student(inputs: ModelInputs, dim: int, popularity_bias: bool) -> None:
    if dim < 1 + popularity_bias:
        raise ValueError(
            f"`dim` must be at least {1 + popularity_bias}. Received: dim={dim}"
        )
    names = {"query": inputs.query_names(), "candidate": inputs.candidate}
    for side, features in names.items():
        if not features:
            raise ValueError(f"`schema` must have a {side} feature. Received: none")


def _check_tower(
    argument: str, tower: keras.layers.Layer, known: Iterable[str]
) -> None:
    names = [tensor.name for tensor in getattr(tower, "inputs", ())]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"The inputs of `{argument}` must be features of the schema that a student "
            f"may read: {', '.join(sorted(known))}. Received: {', '.join(unknown)}"
        )


def _select(
    tower: keras.layers.Layer, features: Mapping[str, tf.Tensor], names: Iterable[str]
) -> Any:
    """The features that the tower receives; functional models name theirs."""
    if hasattr(tower, "inputs"):
        return keras.tree.map_structure(lambda x: features[x.name], tower.input)
    return {name: features[name] for name in names}


def _check_widths(queries: tf.Tensor, candidates: tf.Tensor) -> None:
    shapes = queries.shape, candidates.shape
    if any(shape.rank != 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "`query_tower` and `candidate_tower` must return (batch, dim) with the "
            f"same dim. Received: shapes {shapes[0]} and {shapes[1]}"
        )
