"""two_tower: dot products of two towers; each distinct candidate is encoded once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.features.encoders import UNKNOWN
from recdistill.features.schema import Schema
from recdistill.models import item_vectors
from recdistill.models.two_tower import (
    DISTINCT_PER_LISTED,
    TwoTowers,
    TwoTowerStudent,
    listed_products,
)
from tests.small_models import (
    HISTORY,
    build_batch,
    build_catalogue,
    build_schema,
    shuffled_weights,
    with_query,
)

BATCH = build_batch()
SHARED = np.array([3, 0, 9, 5], "int32")


class Spy(TwoTowerStudent):
    """Records how many candidates are encoded."""

    encoded = []  # noqa: RUF012

    def encode_candidates(self, features, training=False):
        self.encoded.append(features["item_id"].shape[0])
        return super().encode_candidates(features, training)


def build(schema=None, cls=TwoTowerStudent, batch=BATCH, **settings):
    settings = {"dim": 6, "embedding_dim": 4, "hidden": (5,), **settings}
    student = cls(schema or build_schema(), build_catalogue(), **settings)
    student(batch)
    return shuffled_weights(student)


def per_list(index):
    """The shared candidates as one separate list for each query."""
    return np.tile(index, (len(BATCH["mask"]), 1))


def test_id_dropout_hides_a_share_of_the_ids_in_training_only():
    student = build(id_dropout=0.25)
    rows = {"item_id": tf.range(2, 4_002), "clicks": tf.ones(4_000)}
    hidden = student._without_some_ids(rows)
    ids = hidden["item_id"].numpy()
    assert set(ids[ids != rows["item_id"].numpy()]) == {UNKNOWN}
    assert (ids == UNKNOWN).mean() == pytest.approx(0.25, abs=0.03)
    assert hidden["clicks"] is rows["clicks"]
    plain = build()
    np.testing.assert_array_equal(student(BATCH), plain(BATCH))
    most = build(id_dropout=0.99)
    assert (most(BATCH, training=True) != plain(BATCH, training=True)).numpy().any()
    copy = TwoTowerStudent.from_config(student.get_config())
    assert copy.id_dropout == 0.25
    with pytest.raises(ValueError, match="`id_dropout` must be at least 0 and below 1"):
        build(id_dropout=1.0)


def test_an_item_of_the_history_has_its_other_features():
    student = build()
    catalogue = build_catalogue()
    catalogue["genres"] = catalogue["genres"][::-1].copy()
    other = TwoTowerStudent(build_schema(), catalogue, 6, 4, (5,))
    other.set_weights(student.get_weights())
    query, want = BATCH["query"], student.encode_query(BATCH["query"])
    assert np.abs(other.encode_query(query) - want).max() > 1e-3
    empty = {**query, "history": np.zeros_like(query["history"])}
    np.testing.assert_array_equal(
        other.encode_query(empty), student.encode_query(empty)
    )
    with student.stored_history():
        np.testing.assert_allclose(student.encode_query(query), want, rtol=1e-5)


def test_no_id_is_hidden_from_a_student_that_knows_items_by_their_id_only():
    full = build_schema()
    ids = [each for each in full.candidate if each.feature == full.item_id]
    schema = Schema(full.query, ids, {}, full.item_id)
    student, plain = build(schema, id_dropout=0.99), build(schema)
    np.testing.assert_array_equal(
        student(BATCH, training=True), plain(BATCH, training=True)
    )


def test_shared_candidates_have_the_same_scores_as_separate_lists():
    student = build()
    shared = student({**BATCH, "candidate_index": SHARED})
    assert shared.shape == (4, len(SHARED))
    own = student({**BATCH, "candidate_index": per_list(SHARED)})
    np.testing.assert_allclose(own, shared, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "index, distinct",
    [
        (SHARED, 4),
        (per_list(SHARED), 4),
        (np.array([[1, 2, 1], [2, 1, 7], [7, 7, 7], [1, 1, 1]]), 3),
    ],
)
def test_each_distinct_candidate_is_encoded_once(index, distinct):
    student = build(cls=Spy)
    Spy.encoded.clear()
    student({**BATCH, "candidate_index": index})
    assert student.encoded == [distinct]


def test_the_whole_catalogue_is_encoded_in_its_context_and_in_training_only():
    student = build(cls=Spy)
    batch = {**BATCH, "candidate_index": np.array([[1, 2], [2, 7], [7, 1], [1, 1]])}
    Spy.encoded.clear()
    with student.whole_catalogue():
        whole = student(batch, training=True)
        student(batch)
    with pytest.raises(KeyError), student.whole_catalogue():
        student({}, training=True)
    distinct = student(batch, training=True)
    assert student.encoded == [10, 3, 3]
    np.testing.assert_allclose(whole, distinct, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shared_items", [False, True])
def test_xla_can_compile_the_gradient_with_the_whole_catalogue(
    shared_items, monkeypatch
):
    monkeypatch.setattr(item_vectors, "WHOLE_TABLE", 0)
    student = build(shared_items=shared_items)
    weights = student.trainable_variables

    def step(batch):
        with tf.GradientTape() as tape:
            scores = student(batch, training=True)
            loss = tf.reduce_sum(tf.sin(scores))
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        return scores, [tf.convert_to_tensor(each) for each in gradients]

    batch = tf.nest.map_structure(tf.constant, BATCH)
    wants = step(batch)
    with student.whole_catalogue():
        got = tf.function(step, jit_compile=True)(batch)
    for one, want in zip(tf.nest.flatten(got), tf.nest.flatten(wants), strict=True):
        np.testing.assert_allclose(one, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 3)])
@pytest.mark.parametrize("popularity_bias", [True, False])
def test_the_score_is_the_dot_product_of_the_embeddings(hidden, popularity_bias):
    student = build(hidden=hidden, popularity_bias=popularity_bias)
    queries = student.encode_query(BATCH["query"]).numpy().astype("float64")
    candidates = student.encode_candidates(build_catalogue()).numpy()
    assert queries.shape == (4, 6) and candidates.shape == (10, 6)
    index = BATCH["candidate_index"]
    want = [
        [q @ candidates[i] for i in row] for q, row in zip(queries, index, strict=True)
    ]
    np.testing.assert_allclose(student(BATCH), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distinct", [9, 2 * DISTINCT_PER_LISTED + 1])
def test_listed_products_match_their_definition(distinct):
    rng = np.random.default_rng(1)
    queries = tf.constant(rng.normal(size=(3, 4)), tf.float32)
    candidates = tf.constant(rng.normal(size=(distinct, 4)), tf.float32)
    place = np.array([[0, 8], [3, 3], [distinct - 1, 0]])
    listed = candidates.numpy()[place]
    want = np.einsum("bd,bld->bl", queries, listed)
    with tf.GradientTape() as tape:
        tape.watch([queries, candidates])
        got = listed_products(queries, candidates, tf.constant(place))
        target = tf.reduce_sum(got * got)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    by_query, by_candidate = tape.gradient(target, [queries, candidates])
    np.testing.assert_allclose(
        by_query, np.einsum("bl,bld->bd", 2 * want, listed), rtol=1e-4, atol=1e-6
    )
    dense = np.zeros((distinct, 4))
    np.add.at(dense, place, 2 * want[..., None] * queries.numpy()[:, None, :])
    by_candidate = tf.convert_to_tensor(by_candidate)
    np.testing.assert_allclose(by_candidate, dense, rtol=1e-4, atol=1e-6)


def test_with_a_popularity_bias_the_last_entry_of_a_query_is_1():
    queries = build().encode_query(BATCH["query"]).numpy()
    np.testing.assert_array_equal(queries[:, -1], np.ones(4))
    plain = build(popularity_bias=False).encode_query(BATCH["query"]).numpy()
    assert not np.any(plain[:, -1] == 1.0)


def test_padding_of_the_history_changes_nothing():
    student = build()
    want = student(BATCH).numpy()
    items = student.history_items.ids
    rows = items.get_weights()[0]
    rows[0] = 1e6
    items.set_weights([rows])
    np.testing.assert_array_equal(student(BATCH), want)


def test_more_padding_of_the_history_changes_nothing():
    more = HISTORY + 3
    short, long = build(), build(build_schema(more), batch=build_batch(length=more))
    for source, target in zip(short.variables, long.variables, strict=True):
        value = np.asarray(source.numpy())
        if source.path.endswith("log_weights"):
            value = np.pad(value, [(0, 0), (0, 3)], constant_values=2.0)
        target.assign(value)
    history = np.pad(BATCH["query"]["history"], [(0, 0), (0, 3)])
    got = long(with_query(BATCH, history=history))
    np.testing.assert_allclose(got, short(BATCH), rtol=1e-5, atol=1e-6)


def test_the_order_of_the_history_matters():
    history = np.array([[3, 5, 0, 0, 0]], "int32")
    student = build()
    query = {name: value[:1] for name, value in BATCH["query"].items()}
    one = student.encode_query({**query, "history": history}).numpy()
    other = student.encode_query({**query, "history": history[:, [1, 0, 2, 3, 4]]})
    assert np.abs(one - other).max() > 0.01


def test_dropout_is_active_in_training_only():
    student = build(dropout=0.5)
    np.testing.assert_array_equal(student(BATCH), student(BATCH, training=False))
    one, other = student(BATCH, training=True), student(BATCH, training=True)
    assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize(
    "index", [SHARED, np.array([[3, 3, 3], [3, 0, 9], [3, 5, 5], [3, 3, 9]])]
)
def test_the_penalty_is_the_mean_square_of_the_distinct_embeddings(index):
    student = build(l2=0.3)
    student({**BATCH, "candidate_index": index})
    queries = student.encode_query(BATCH["query"]).numpy()
    rows = {name: value[SHARED] for name, value in build_catalogue().items()}
    candidates = student.encode_candidates(rows).numpy()
    want = 0.3 * (queries**2).mean() + 0.3 * (candidates**2).mean()
    np.testing.assert_allclose(sum(student.losses), want, rtol=1e-5)
    assert build(l2=0.0).losses == []


def test_the_penalty_of_large_embeddings_is_finite_in_half_precision():
    penalties = []
    for dtype in ("float32", "mixed_float16"):
        student = build(l2=0.3, dtype=dtype)
        for weight in student.weights:
            weight.assign(20.0 * weight)
        student(BATCH)
        assert all(each.dtype == tf.float32 for each in student.losses)
        penalties.append(sum(student.losses))
    assert penalties[0] > 1e5
    np.testing.assert_allclose(penalties[1], penalties[0], rtol=0.01)


def test_privileged_features_are_never_read():
    student = build()
    want = student(BATCH).numpy()
    other = with_query(BATCH, dwell=np.full((4, 2), np.nan, "float32"))
    np.testing.assert_array_equal(student(other), want)
    query = {k: v for k, v in BATCH["query"].items() if k != "dwell"}
    np.testing.assert_array_equal(student({**BATCH, "query": query}), want)
    catalogue = {k: v for k, v in build_catalogue().items() if k != "clicks"}
    blind = TwoTowerStudent(build_schema(), catalogue, 6, 4, (5,))
    blind(BATCH)
    blind.set_weights(student.get_weights())
    np.testing.assert_array_equal(blind(BATCH), want)


@pytest.mark.parametrize("query", [("history",), ("user_id",), ("Age", "dwell")])
def test_any_query_feature_is_enough(query):
    student = build(build_schema(query=query))
    assert (student.history_pooling is not None) == ("history" in query)
    scores = student(BATCH).numpy()
    assert np.isfinite(scores).all() and scores.std() > 0.01


def test_an_unknown_item_has_the_embedding_of_index_1():
    student = build()
    rows = {k: v[[9, 0]] for k, v in build_catalogue().items()}
    rows["genres"] = rows["genres"][[0, 0]]
    rows["item_id"] = np.array([1, 2], "int32")
    unknown, known = student.encode_candidates(rows).numpy()
    table = student.candidate_features.tables["item_id"].get_weights()[0]
    tower = student.candidate_tower.linear
    genre = student.candidate_features.tables["genres"].get_weights()[0][1]
    want = np.concatenate([table[1], genre]) @ tower.kernel.numpy() + tower.bias.numpy()
    np.testing.assert_allclose(unknown, want, rtol=1e-5, atol=1e-6)
    assert np.abs(unknown - known).max() > 0.01


def test_scores_are_finite_for_empty_histories_and_unknown_items():
    history = np.array([[0] * 5, [1] * 5, [1, 0, 0, 0, 0], [2, 1, 0, 0, 0]], "int32")
    given = with_query(BATCH, history=history, user_id=np.array([0, 1, 1, 0]))
    assert np.isfinite(build()(given)).all()


@pytest.mark.parametrize("dim, bias, least", [(1, True, 2), (0, False, 1)])
def test_a_dim_too_small_for_the_bias_is_refused(dim, bias, least):
    match = f"`dim` must be at least {least}. Received: dim={dim}"
    with pytest.raises(ValueError, match=match):
        TwoTowerStudent(build_schema(), {}, dim=dim, popularity_bias=bias)


def test_a_schema_without_features_for_a_tower_is_refused():
    hidden = [e for e in build_schema().query if e.spec.teacher_only]
    with pytest.raises(ValueError, match=r"must have a query feature. Received: none"):
        TwoTowerStudent(Schema(hidden, build_schema().candidate, {}, "item_id"), {})
    with pytest.raises(ValueError, match="must have a candidate feature"):
        TwoTowerStudent(Schema(build_schema().query, hidden, {}, "item_id"), {})


def test_scores_are_the_same_inside_a_tf_function():
    student = build()
    got = tf.function(student)(tf.nest.map_structure(tf.constant, BATCH))
    np.testing.assert_allclose(got, student(BATCH), rtol=1e-5, atol=1e-6)


def test_every_weight_is_trained():
    student = build()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(student(BATCH) ** 2)
    gradients = tape.gradient(total, student.trainable_variables)
    for variable, gradient in zip(student.trainable_variables, gradients, strict=True):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, variable.path


class TestTwoTowers:
    def inputs(self, name="Age", width=2):
        return keras.Input((width,), name=name)

    def functional(self, source, dim=3):
        return keras.Model(source, keras.layers.Dense(dim)(source))

    def build(self, query_tower, candidate_tower, **settings):
        return TwoTowers(
            build_schema(), build_catalogue(), query_tower, candidate_tower, **settings
        )

    def genres(self):
        index = keras.Input((2,), name="genres", dtype="int32")
        table = keras.layers.Embedding(4, 3)(index)
        return keras.Model([index], keras.layers.GlobalAveragePooling1D()(table))

    @pytest.mark.parametrize("index", [SHARED, BATCH["candidate_index"]])
    def test_the_score_is_the_dot_product_of_the_outputs_of_the_towers(self, index):
        query_tower, candidate_tower = self.functional(self.inputs()), self.genres()
        model = self.build(query_tower, candidate_tower)
        queries = query_tower(BATCH["query"]["Age"]).numpy()
        table = candidate_tower([build_catalogue()["genres"]]).numpy()
        each = np.broadcast_to(table[index], (4, index.shape[-1], 3))
        want = np.einsum("bd,bld->bl", queries, each)
        got = model({**BATCH, "candidate_index": index})
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(model.encode_query(BATCH["query"]), queries)
        np.testing.assert_array_equal(model.encode_candidates(build_catalogue()), table)

    def test_a_layer_receives_the_features_that_a_student_may_read(self):
        seen = {}

        class Remember(keras.layers.Layer):
            def call(self, features):
                seen[self.name] = sorted(features)
                return tf.ones((len(next(iter(features.values()))), 2))

        self.build(Remember(name="query"), Remember(name="candidate"))(BATCH)
        assert seen["query"] == ["Age", "history", "user_id"]
        assert seen["candidate"] == ["genres", "item_id"]

    def test_dropout_of_both_towers_is_active_in_training_only(self):
        class Noisy(keras.layers.Layer):
            def call(self, features, training=False):
                count = len(next(iter(features.values())))
                return tf.fill((count, 1), 2.0 if training else 1.0)

        model = self.build(Noisy(), Noisy())
        np.testing.assert_array_equal(model(BATCH), np.ones((4, 6)))
        np.testing.assert_array_equal(model(BATCH, training=True), np.full((4, 6), 4.0))

    def test_the_penalty_is_the_mean_square_of_the_distinct_embeddings(self):
        model = self.build(self.functional(self.inputs()), self.genres(), l2=0.3)
        model({**BATCH, "candidate_index": SHARED})
        queries = model.encode_query(BATCH["query"]).numpy()
        rows = {name: value[SHARED] for name, value in build_catalogue().items()}
        candidates = model.encode_candidates(rows).numpy()
        want = 0.3 * (queries**2).mean() + 0.3 * (candidates**2).mean()
        np.testing.assert_allclose(sum(model.losses), want, rtol=1e-5)

    def test_it_trains_both_towers(self):
        model = self.build(self.functional(self.inputs()), self.genres())
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(model(BATCH) ** 2)
        variables = model.trainable_variables
        assert len(variables) == 3
        for gradient in tape.gradient(total, variables):
            assert np.abs(tf.convert_to_tensor(gradient)).max() > 0

    @pytest.mark.parametrize("name", ["dwell", "price"])
    def test_an_input_that_a_student_may_not_read_is_refused(self, name):
        tower = self.functional(self.inputs(name))
        match = f"`query_tower` must be .*: Age, history, user_id. Received: {name}"
        with pytest.raises(ValueError, match=match):
            self.build(tower, self.genres())

    def test_towers_of_different_widths_are_refused(self):
        model = self.build(self.functional(self.inputs(), dim=5), self.genres())
        with pytest.raises(ValueError, match=r"same dim.*\(4, 5\) and .*, 3\)"):
            model(BATCH)
