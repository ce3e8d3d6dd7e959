"""ranker: which inputs change a score, which must not, and that training works."""

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from recdistill.features.encoders import FIRST
from recdistill.features.schema import Schema
from recdistill.models.linear import Affinity
from recdistill.models.ranker import RankingTeacher
from recdistill.models.self_attention import CausalBlock
from recdistill.models.two_tower import TwoTowerStudent
from tests.small_models import (
    FEW_ITEMS,
    HISTORY,
    build_batch,
    build_catalogue,
    build_schema,
    shuffled_weights,
    with_query,
)

pytestmark = pytest.mark.slow

BATCH = build_batch()
SHARED = np.array([3, 0, 9, 5], "int32")


def affinity(seed=0):
    rng = np.random.default_rng(seed)
    matrix = scipy.sparse.csr_array((rng.random((20, len(FEW_ITEMS))) < 0.4) * 1.0)
    layer = Affinity(len(FEW_ITEMS), decay=0.8, floor=0.1)
    layer.build()
    layer.set_weights(layer.fitted(matrix, l2=2.0))
    return layer


def build(schema=None, affinities="affinity", batch=BATCH, **settings):
    settings = {"dim": 6, "attention_length": 8, **settings}
    settings = {"decays": (0.5, 0.9), **settings}
    pairs = {"affinity": affinity()} if affinities else {}
    schema = schema or build_schema()
    teacher = RankingTeacher(schema, build_catalogue(), pairs, **settings)
    teacher(batch)
    return shuffled_weights(teacher)


@pytest.fixture(scope="module")
def teacher():
    return build()


def assert_close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_shared_candidates_have_the_same_scores_as_separate_lists(teacher):
    shared = teacher({**BATCH, "candidate_index": SHARED})
    assert shared.shape == (4, len(SHARED))
    own = np.tile(SHARED, (4, 1))
    assert_close(teacher({**BATCH, "candidate_index": own}), shared)


def test_scores_follow_the_order_of_the_candidates(teacher):
    index = BATCH["candidate_index"]
    order = np.random.default_rng(1).permuted(np.tile(np.arange(6), (4, 1)), axis=1)
    moved = np.take_along_axis(index, order, axis=1)
    want = np.take_along_axis(teacher(BATCH).numpy(), order, axis=1)
    assert_close(teacher({**BATCH, "candidate_index": moved}), want)


def test_a_score_does_not_depend_on_the_other_candidates(teacher):
    want = teacher(BATCH).numpy()
    for place in range(6):
        alone = BATCH["candidate_index"][:, place : place + 1]
        got = teacher({**BATCH, "candidate_index": alone})
        assert_close(got, want[:, place : place + 1])


def test_a_score_does_not_depend_on_the_other_queries(teacher):
    alone = {
        "query": {name: value[1:2] for name, value in BATCH["query"].items()},
        "candidate_index": BATCH["candidate_index"][1:2],
    }
    assert_close(teacher(alone)[0], teacher(BATCH)[1])


def test_more_padding_of_the_history_changes_nothing(teacher):
    more = HISTORY + 3
    long = build(build_schema(more), batch=build_batch(length=more))
    for source, target in zip(teacher.variables, long.variables, strict=True):
        value = np.asarray(source.numpy())
        if source.path.endswith("log_weights"):
            value = np.pad(value, [(0, 0), (0, 3)], constant_values=2.0)
        target.assign(value)
    history = np.pad(BATCH["query"]["history"], [(0, 0), (0, 3)])
    assert_close(long(with_query(BATCH, history=history)), teacher(BATCH))


def test_the_embedding_of_padding_changes_nothing():
    teacher = build()
    want = teacher(BATCH).numpy()
    for table in (
        teacher.item_vectors.ids,
        teacher.pooled_items.ids,
    ):
        rows = table.get_weights()[0]
        rows[0] = 50.0
        table.set_weights([rows])
    np.testing.assert_array_equal(teacher(BATCH), want)


def states_of(teacher, history):
    """States of the self-attention, oldest first."""
    latest = teacher.causal_encoder.latest(history)
    vectors = teacher.item_vectors.of_ids(latest)
    return teacher.causal_encoder(vectors, latest != 0)


def test_attention_reads_the_newest_items_only():
    teacher = build(affinities=None, attention_length=2)
    history = np.array([[3, 5, 7, 2, 4]], "int32")
    want = states_of(teacher, history).numpy()
    assert want.shape == (1, 2, 6) and want.all()
    older, newer = history.copy(), history.copy()
    older[:, 2:], newer[:, 1] = [[9, 0, 0]], 8
    same = states_of(teacher, older)
    np.testing.assert_array_equal(same, want)
    changed = states_of(teacher, newer)
    assert np.abs(changed - want).max(axis=-1).min() > 0.01


def test_a_state_does_not_depend_on_newer_items(teacher):
    history = np.array([[3, 5, 7, 2, 4]], "int32")
    # States stand oldest first: changing the newest item may change the last one only.
    states = states_of(teacher, history)
    for newest in (1, 2):
        other = history.copy()
        other[:, :newest] = 9
        changed = states_of(teacher, other)
        assert_close(changed[:, :-newest], states[:, :-newest])
        assert np.abs(changed[:, -newest:] - states[:, -newest:]).max(-1).min() > 0.01


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_scores_and_gradients_are_finite_for_an_empty_history(blocks):
    history = np.zeros((4, HISTORY), "int32")
    batch = with_query(BATCH, history=history)
    teacher = build(blocks=blocks)
    assert np.isfinite(teacher(batch)).all()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(teacher(batch))
    for gradient in tape.gradient(total, teacher.trainable_variables):
        if gradient is not None:
            assert np.isfinite(tf.convert_to_tensor(gradient)).all()


def test_an_empty_history_has_no_states(teacher):
    history = np.array([[0, 0, 0], [3, 0, 0]], "int32")
    states = states_of(teacher, history).numpy()
    np.testing.assert_array_equal(states[0], np.zeros((3, 6)))
    np.testing.assert_array_equal(states[1, :2], np.zeros((2, 6)))
    assert np.abs(states[1, 2]).max() > 0.01


def test_pair_features_are_read():
    teacher = build()
    want = teacher(BATCH).numpy()
    (layer,) = teacher.affinities
    layer.set_weights(affinity(seed=1).get_weights())
    known = (BATCH["query"]["history"] >= FIRST).any(axis=1)
    moved = np.abs(teacher(BATCH) - want).max(axis=1)
    assert known.tolist() == [True, True, True, False]
    assert moved[known].min() > 0.01 and moved[~known].max() < 1e-4


def test_pair_features_leave_the_training_row_of_the_batch_out(teacher):
    training_row = np.array([[2, 3, 4, 5]] * 4, "int32")
    history = BATCH["query"]["history"]
    items = build_catalogue()["item_id"][BATCH["candidate_index"]]
    got = teacher._pair_features({**BATCH, "training_row": training_row})
    want = affinity()(history, items, training_row).numpy()
    assert_close(got[0][..., 0], want)
    assert_close(got[1][..., 0], np.sign(want) * np.log(1 + np.abs(want)))
    with_row = teacher({**BATCH, "training_row": training_row})
    assert np.abs(with_row - teacher(BATCH)).max() > 0.01


@pytest.mark.parametrize("feature", ["user_id", "Age", "dwell", "history"])
def test_every_query_feature_is_read(teacher, feature):
    other = build_batch(seed=5)["query"][feature]
    changed = teacher(with_query(BATCH, **{feature: other}))
    assert np.abs(changed - teacher(BATCH)).max() > 0.01


@pytest.mark.parametrize("feature", ["item_id", "genres", "clicks"])
def test_every_candidate_feature_is_read(teacher, feature):
    catalogue = build_catalogue()
    catalogue[feature] = catalogue[feature][::-1]
    pairs = {"affinity": affinity()}
    other = RankingTeacher(
        build_schema(),
        catalogue,
        pairs,
        dim=6,
        attention_length=8,
        decays=(0.5, 0.9),
    )
    other(BATCH)
    other.set_weights(teacher.get_weights())
    assert np.abs(other(BATCH) - teacher(BATCH)).max() > 0.01


@pytest.mark.parametrize("query", [("user_id",), ("Age", "dwell"), ("history",)])
@pytest.mark.parametrize("index", [SHARED, BATCH["candidate_index"]])
def test_any_query_feature_is_enough(query, index):
    batch = {**BATCH, "candidate_index": index}
    teacher = build(build_schema(query=query), affinities=None, batch=batch)
    scores = teacher(batch).numpy()
    assert scores.shape == (4, index.shape[-1])
    assert np.isfinite(scores).all() and scores.std() > 0.01


@pytest.mark.parametrize("index", [SHARED, BATCH["candidate_index"]])
def test_the_score_is_a_dot_product_a_bias_and_weighted_pair_features(teacher, index):
    batch = {**BATCH, "candidate_index": index}
    query = teacher._encode_query(BATCH["query"], training=False)
    each = np.broadcast_to(index, (4, index.shape[-1]))
    candidates = teacher.item_vectors.of_rows(tf.constant(each))
    bias = candidates @ teacher.bias.kernel + teacher.bias.bias
    raw, folded = teacher._pair_features(batch)
    weights = teacher.pair_weights.kernel.numpy()[:, 0]
    want = np.einsum("bd,bld->bl", query, candidates) + bias[..., 0]
    want += weights[0] * raw[..., 0] + weights[1] * folded[..., 0]
    assert_close(teacher(batch), want)


@pytest.mark.parametrize("query", [("history", "Age"), ("Age",)])
def test_every_trainable_weight_has_a_gradient(query):
    teacher = build(build_schema(query=query), affinities=None)
    batch = tf.nest.map_structure(tf.constant, BATCH)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(teacher(batch, training=True) ** 2)
    gradients = tape.gradient(loss, teacher.trainable_variables)
    assert all(gradient is not None for gradient in gradients)


def test_dropout_is_active_in_training_only():
    teacher = build(dropout=0.5)
    np.testing.assert_array_equal(teacher(BATCH), teacher(BATCH, training=False))
    one, other = teacher(BATCH, training=True), teacher(BATCH, training=True)
    assert np.abs(one - other).max() > 0.01


def test_invalid_settings_are_refused():
    schema = build_schema()
    with pytest.raises(ValueError, match=r"multiple of `heads`.*dim=6, heads=4"):
        RankingTeacher(schema, {}, dim=6, heads=4)
    with pytest.raises(ValueError, match="must have a query feature"):
        RankingTeacher(Schema([], schema.candidate, {}, "item_id"), {})
    without = build_schema(query=["user_id"])
    with pytest.raises(ValueError, match=r"must have a history .*\['affinity'\]"):
        RankingTeacher(without, {}, {"affinity": affinity()})


def test_a_block_is_restored_from_its_config():
    block = CausalBlock(4, 2, 0.1)
    vectors, real = tf.random.normal((2, 3, 4)), tf.ones((2, 3), tf.bool)
    want = block(vectors, real)
    config = keras.saving.serialize_keras_object(block)
    copy = keras.saving.deserialize_keras_object(config)
    copy(vectors, real)
    copy.set_weights(block.get_weights())
    np.testing.assert_allclose(copy(vectors, real), want, rtol=1e-5)


def test_scores_are_the_same_inside_a_tf_function(teacher):
    got = tf.function(teacher)(tf.nest.map_structure(tf.constant, BATCH))
    assert_close(got, teacher(BATCH))


def lists_labelled_by_affinity(layer):
    """A list of all items for each item as history; relevant where the affinity > 0."""
    items = np.arange(len(FEW_ITEMS), dtype="int32")
    history = np.zeros((len(items), HISTORY), "int32")
    history[:, 0] = items + FIRST
    query = {k: np.zeros_like(v) for k, v in build_batch(9)["query"].items()}
    batch = {"query": {**query, "history": history}, "candidate_index": items}
    labels = layer(history, items + FIRST).numpy() > 0
    return tf.nest.map_structure(tf.constant, batch), labels


def trained_error(model, batch, labels, steps):
    """Share of the pairs that the trained model puts in the wrong class."""
    model(batch)
    optimizer = keras.optimizers.Adam(0.02)
    optimizer.build(model.trainable_variables)
    labels = tf.constant(labels, tf.float32)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            scores = model(batch, training=True)
            loss = tf.reduce_mean(
                tf.nn.sigmoid_cross_entropy_with_logits(labels, scores)
            )
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    for _ in range(steps):
        step()
    return np.mean((model(batch).numpy() > 0) != (labels.numpy() > 0.5))


@pytest.mark.slow
def test_with_pair_features_it_learns_what_two_towers_of_its_width_cannot():
    keras.utils.set_random_seed(4)
    schema, catalogue = build_schema(), build_catalogue()
    layer = affinity()
    teacher = RankingTeacher(
        schema, catalogue, {"affinity": layer}, dim=2, heads=1, dropout=0.0
    )
    student = TwoTowerStudent(schema, catalogue, dim=2, embedding_dim=8, hidden=(32,))
    batch, labels = lists_labelled_by_affinity(layer)
    assert trained_error(teacher, batch, labels, 300) == 0
    assert trained_error(student, batch, labels, 300) >= 0.1


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def half_precision(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield
    keras.config.set_dtype_policy(before)


def test_pair_features_can_be_read_in_half_precision(half_precision):
    assert affinity().compute_dtype == "float32"
    scores = build()(BATCH)
    assert np.isfinite(tf.cast(scores, "float32")).all()
