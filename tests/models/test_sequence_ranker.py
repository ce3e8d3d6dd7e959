"""sequence_ranker: the loss at all positions, and scores from the last one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from recdistill.features.encoders import FIRST
from recdistill.models import SequenceRanker
from tests.small_models import (
    FEW_ITEMS,
    build_batch,
    build_catalogue,
    build_schema,
    shuffled_weights,
    with_query,
)

pytestmark = pytest.mark.slow

BATCH = build_batch()
ITEMS = len(FEW_ITEMS) + FIRST
WINDOWS = np.array([[0, 0, 5, 2, 7], [3, 1, 4, 10, 2], [0, 0, 0, 0, 6]], "int32")
"""The second has the unknown item; the third has no item before its last."""
QUERY = ("user_id", "jobs", "Age", "history")


def build(schema=None, **settings):
    settings = {"dim": 6, "attention_length": 4, **settings}
    schema = schema or build_schema(query=("history",))
    return shuffled_weights(SequenceRanker(schema, build_catalogue(), **settings))


@pytest.fixture(scope="module")
def ranker():
    return build()


def states(ranker, windows):
    history = tf.constant(windows[:, :-1])
    vectors = ranker.item_vectors.of_ids(history)
    return ranker.encoder(vectors, history != 0).numpy().astype("float64")


def query_features():
    """Query features of each item of the windows after the first; some are missing."""
    rng, shape = np.random.default_rng(0), WINDOWS[:, 1:].shape
    return {
        "user_id": rng.integers(0, 5, shape).astype("int32"),
        "jobs": rng.integers(0, 3, (*shape, 2)).astype("int32"),
        "Age": rng.normal(size=(*shape, 2)).astype("float32"),
    }


def with_features(ranker, windows, query, known=None):
    """States plus the projected query features that are known, in plain loops."""
    kernel = ranker.query_projection.kernel.numpy()
    tables = {
        name: table.embeddings.numpy()
        for name, table in ranker.query_features.tables.items()
    }
    found = states(ranker, windows)
    for row, place in np.ndindex(found.shape[:2]):
        if known is not None and not known[row, place]:
            continue
        user, jobs = query["user_id"][row, place], query["jobs"][row, place]
        vectors = [tables["jobs"][job] for job in jobs if job]
        features = [
            tables["user_id"][user] * (user != 0),
            np.mean(vectors, axis=0) if vectors else np.zeros(6),
            query["Age"][row, place],
        ]
        found[row, place] += np.concatenate(features) @ kernel
    return found


KNOWN = np.array([[0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1]], bool)
"""Nothing is known before the first item of the first window."""


@pytest.mark.parametrize(
    ("query", "known", "positions"),
    [(None, None, 5), (query_features(), None, 7), (query_features(), KNOWN, 6)],
)
def test_the_loss_is_the_mean_cross_entropy_of_the_next_items(query, known, positions):
    ranker = build(build_schema(query=QUERY if query else ("history",)))
    table = ranker.item_vectors.all().numpy().astype("float64")
    every = states(ranker, WINDOWS)
    if query:
        every = with_features(ranker, WINDOWS, query, known)
    losses = []
    for row, place in np.ndindex(every.shape[:2]):
        target = WINDOWS[row, place + 1]
        has_features = query and (known is None or known[row, place])
        if target < FIRST or not (WINDOWS[row, place] or has_features):
            continue
        logits = table[FIRST:] @ every[row, place]
        losses.append(logsumexp(logits) - logits[target - FIRST])
    assert len(losses) == positions
    got = float(ranker.next_item_loss(WINDOWS, query, known))
    assert got == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("query", [None, query_features()])
def test_the_estimated_loss_is_close_to_the_exact_one(query):
    schema = build_schema(query=QUERY if query else ("history",))
    exact, estimate = build(schema), build(schema, negatives=50_000)
    got = float(estimate.next_item_loss(WINDOWS, query))
    want = float(exact.next_item_loss(WINDOWS, query))
    assert got == pytest.approx(want, rel=0.01)


def test_padding_on_the_left_does_not_change_the_loss(ranker):
    long = build(attention_length=7)
    for source, target in zip(ranker.variables, long.variables, strict=True):
        value = np.asarray(source)
        if value.shape != target.shape:
            value = np.pad(value, [(0, 3), (0, 0)], constant_values=2.0)
        target.assign(value)
    padded = np.pad(WINDOWS, [(0, 0), (3, 0)])
    want = float(ranker.next_item_loss(WINDOWS))
    assert float(long.next_item_loss(padded)) == pytest.approx(want, rel=1e-5)


def test_a_state_does_not_read_later_items(ranker):
    changed = WINDOWS.copy()
    changed[:, 3:] = 8
    got, want = states(ranker, changed), states(ranker, WINDOWS)
    np.testing.assert_allclose(got[:, :3], want[:, :3], rtol=1e-5, atol=1e-5)
    assert np.abs(got[:2, 3] - want[:2, 3]).max() > 0.01


def test_a_score_is_the_last_state_times_the_candidate_vector(ranker):
    history = WINDOWS[:, :-1][:, ::-1]
    batch = {
        "query": {"history": history},
        "candidate_index": np.array([0, 3], "int32"),
    }
    index = build_catalogue()["item_id"][[0, 3]]
    vectors = ranker.item_vectors.of_ids(tf.constant(index)).numpy()
    want = states(ranker, WINDOWS)[:, -1] @ vectors.T
    np.testing.assert_allclose(ranker(batch), want, rtol=1e-4, atol=1e-5)


def test_the_query_features_of_a_request_are_added_to_the_last_state():
    ranker, features = build(build_schema(query=QUERY)), query_features()
    query = {name: values[:, -1] for name, values in features.items()}
    query["history"] = WINDOWS[:, :-1][:, ::-1]
    rows = np.array([0, 3], "int32")
    index = build_catalogue()["item_id"][rows]
    vectors = ranker.item_vectors.of_ids(tf.constant(index)).numpy()
    want = with_features(ranker, WINDOWS, features)[:, -1] @ vectors.T
    got = ranker({"query": query, "candidate_index": rows})
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_separate_lists_have_the_same_scores_as_shared_candidates(ranker):
    index = np.array([3, 0, 9, 5], "int32")
    shared = ranker({**BATCH, "candidate_index": index})
    own = ranker({**BATCH, "candidate_index": np.tile(index, (4, 1))})
    np.testing.assert_allclose(own, shared, rtol=1e-4, atol=1e-5)


def test_a_new_item_is_scored_by_its_attributes(ranker):
    last = len(FEW_ITEMS)
    without = build(build_schema(query=("history",), candidate=("item_id",)))
    history = np.array([[2, 3, 0, 0, 0]], "int32")
    batch = with_query(BATCH, history=np.tile(history, (4, 1)))
    for model, differ in ((ranker, True), (without, False)):
        catalogue = build_catalogue()
        catalogue["genres"][last] = [2, 0]
        other = SequenceRanker(model.model_inputs, catalogue, dim=6, attention_length=4)
        other.set_weights(model.get_weights())
        index = np.array([last], "int32")
        got, want = (m({**batch, "candidate_index": index}) for m in (other, model))
        assert (np.abs(got - want).max() > 1e-3) == differ


def test_an_unknown_item_of_the_history_has_no_attributes(ranker):
    vectors = ranker.item_vectors.of_ids(tf.constant([1]))
    np.testing.assert_allclose(vectors, ranker.item_vectors.ids(np.array([1])))


def test_training_finds_the_rule_of_a_cycle():
    cycle = (np.arange(60)[:, None] + np.arange(5)) % len(FEW_ITEMS) + FIRST
    before, after = trained(("history",), cycle)
    assert before > 1.5 and after < 0.1


@pytest.mark.parametrize("query", [("history",), ("user_id", "history")])
def test_training_finds_the_rule_of_a_query_feature(query):
    users = np.random.default_rng(0).integers(2, 5, (60, 4)).astype("int32")
    windows = np.pad(users + 1, [(0, 0), (1, 0)], constant_values=FIRST)
    before, after = trained(query, windows, {"user_id": tf.constant(users)})
    assert before > 1.5
    # Without the feature, each of the three items is as likely as the others.
    assert after < 0.1 if "user_id" in query else after > 0.5


def trained(query, windows, features=None, steps=60):
    """The loss before and after training of a model with these query features."""
    model = SequenceRanker(
        build_schema(query=query, candidate=("item_id",)),
        build_catalogue(),
        dim=16,
        attention_length=4,
        dropout=0.0,
    )
    optimizer = keras.optimizers.Adam(0.01)
    windows = tf.constant(windows, tf.int32)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = model.next_item_loss(windows, features, training=True)
        variables = model.trainable_variables
        optimizer.apply_gradients(
            zip(tape.gradient(loss, variables), variables, strict=True)
        )
        return loss

    before = float(step())
    for _ in range(steps):
        after = float(step())
    return before, after


def test_a_schema_without_a_history_is_refused():
    schema = build_schema(query=("user_id",))
    with pytest.raises(ValueError, match="must have a history"):
        SequenceRanker(schema, build_catalogue())
    with pytest.raises(ValueError, match="`dim` must be a multiple of `heads`"):
        build(dim=5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_the_estimated_loss_works_in_half_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        ranker = build(build_schema(query=QUERY), negatives=3)
        loss = ranker.next_item_loss(WINDOWS, query_features(), KNOWN)
    finally:
        keras.config.set_dtype_policy(before)
    assert np.isfinite(float(loss))


def test_the_sum_of_the_losses_does_not_overflow_in_half_precision():
    many = np.tile(WINDOWS, (400, 1))
    want = float(shuffled_weights(build(), scale=3.0).next_item_loss(many))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        loss = shuffled_weights(build(), scale=3.0).next_item_loss(many)
    finally:
        keras.config.set_dtype_policy(before)
    assert want * 5 * 400 > float(np.finfo("float16").max)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(want, rel=0.05)
