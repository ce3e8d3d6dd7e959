"""in_batch: sampled softmax by hand, its corrections, and padding."""

from math import exp, log

import keras
import keras_rs
import numpy as np
import pytest
import tensorflow as tf

from recdistill import losses
from recdistill.losses import InBatchSoftmax, in_batch_softmax
from tests.contracts import loss_and_gradient

IDS = np.array([7, 8, 7, 9])
PROBABILITY = np.array([0.4, 0.1, 0.4, 0.02], "float32")


@pytest.fixture
def scores():
    return np.random.default_rng(3).normal(0.0, 2.0, (4, 4)).astype("float32")


def plain_loop(scores, ids, probability, temperature=1.0):
    every = range(len(ids))
    rows = []
    for i in every:
        power = [exp(scores[i][j] / temperature) / probability[j] for j in every]
        rivals = sum(power[j] for j in every if j == i or ids[j] != ids[i])
        rows.append(-log(power[i] / rivals))
    return rows


def test_by_hand():
    scores = np.log([[3.0, 2.0], [1.0, 1.0]])
    # The second item is in four times as many batches, so it has a quarter the weight.
    got = in_batch_softmax(scores, [1, 2], sampling_probability=[0.1, 0.4])
    first, second = 3 / (3 + 2 / 4), (1 / 4) / (1 + 1 / 4)
    np.testing.assert_allclose(got, [-log(first), -log(second)], rtol=1e-6)


def test_an_accidental_hit_is_removed():
    scores = np.log([[3.0, 9.0, 1.0], [9.0, 1.0, 1.0], [1.0, 1.0, 2.0]])
    got = in_batch_softmax(scores, np.array(["a", "a", "b"]))
    np.testing.assert_allclose(got, [-log(3 / 4), -log(1 / 2), -log(2 / 4)], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_matches_a_plain_loop(scores, temperature):
    got = in_batch_softmax(
        scores, IDS, sampling_probability=PROBABILITY, temperature=temperature
    )
    want = plain_loop(scores, IDS, PROBABILITY, temperature)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_logq_correction_equals_that_of_keras_rs(scores):
    layer = keras_rs.layers.SamplingProbabilityCorrection()
    corrected = layer(scores, np.broadcast_to(PROBABILITY, (4, 4)))
    want = keras.losses.sparse_categorical_crossentropy(
        np.arange(4), corrected, from_logits=True
    )
    got = in_batch_softmax(scores, np.arange(4), sampling_probability=PROBABILITY)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_without_corrections_it_is_the_softmax_cross_entropy(scores):
    want = keras.losses.sparse_categorical_crossentropy(
        np.arange(4), scores, from_logits=True
    )
    np.testing.assert_allclose(
        in_batch_softmax(scores, np.arange(4)), want, rtol=1e-5, atol=1e-6
    )


def test_only_ratios_of_probabilities_matter(scores):
    want = in_batch_softmax(scores, IDS, sampling_probability=PROBABILITY)
    for factor in (1e-25, 1e30):
        got = in_batch_softmax(
            scores, IDS, sampling_probability=PROBABILITY * np.float32(factor)
        )
        np.testing.assert_allclose(got, want, rtol=1e-4)


def test_a_padding_row_is_neither_a_query_nor_a_candidate(scores):
    mask = np.array([True, True, False, True])
    got = in_batch_softmax(scores, IDS, mask, PROBABILITY)
    kept = np.ix_(mask, mask)
    want = in_batch_softmax(
        scores[kept], IDS[mask], sampling_probability=PROBABILITY[mask]
    )
    np.testing.assert_allclose(got.numpy()[mask], want, rtol=1e-6)
    assert got[2] == 0.0


def test_values_in_padding_rows_affect_neither_loss_nor_gradient(scores):
    mask = np.array([True, True, False, True])
    rows = {"candidate_ids": IDS, "mask": mask, "sampling_probability": PROBABILITY}
    want = loss_and_gradient(
        lambda _, s, m: in_batch_softmax(s, IDS, m, PROBABILITY), None, scores, mask
    )
    junk = scores.copy()
    junk[2] = junk[:, 2] = np.nan
    dirty = PROBABILITY.copy()
    dirty[2] = np.nan
    got = loss_and_gradient(
        lambda _, s, m: in_batch_softmax(s, IDS, m, dirty), None, junk, mask
    )
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])
    y_true = {**rows, "sampling_probability": dirty}
    np.testing.assert_allclose(InBatchSoftmax()(y_true, junk), np.sum(want[0]) / 3)


def test_a_batch_of_padding_has_loss_and_gradient_zero(scores):
    loss, gradient = loss_and_gradient(
        lambda _, s, m: in_batch_softmax(s, IDS, m), None, scores, np.zeros(4, bool)
    )
    np.testing.assert_array_equal(loss, 0.0)
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("size", [1e4, 3e38])
def test_huge_scores_and_invalid_probabilities_give_finite_results(size):
    scores = np.array([[size, -size], [size, -size]], "float32")
    for probability in (None, [0.0, 1.0], [1e-38, 3e38], [0.0, 0.0]):
        loss, gradient = loss_and_gradient(
            lambda _, s, ids, p=probability: in_batch_softmax(
                s, ids, sampling_probability=p
            ),
            None,
            scores,
            [1, 2],
        )
        assert np.isfinite(loss).all()
        assert np.isfinite(gradient).all()


def test_class_is_the_weighted_mean_of_its_function(scores):
    each = in_batch_softmax(
        scores, IDS, sampling_probability=PROBABILITY, temperature=0.5
    )
    y_true = {"candidate_ids": IDS, "sampling_probability": PROBABILITY}
    loss = InBatchSoftmax(temperature=0.5)
    np.testing.assert_allclose(loss(y_true, scores), np.mean(each), rtol=1e-5)
    got = loss(y_true, scores, np.array([1.0, 0.0, 2.0, 0.0]))
    np.testing.assert_allclose(got, (each[0] + 2 * each[2]) / 3, rtol=1e-5)


def test_ids_alone_are_accepted(scores):
    np.testing.assert_allclose(
        InBatchSoftmax()(IDS, scores), np.mean(in_batch_softmax(scores, IDS)), rtol=1e-6
    )


def test_different_large_ids_are_not_accidental_hits():
    ids = np.array([2**24, 2**24 + 1])  # one and the same in float32
    got = InBatchSoftmax()({"candidate_ids": ids}, np.zeros((2, 2), "float32"))
    np.testing.assert_allclose(got, log(2.0), rtol=1e-6)


def test_graph_xla_and_eager_agree_for_sizes_unknown_in_advance(scores):
    loss = InBatchSoftmax()

    def step(scores, ids, probability):
        y_true = {"candidate_ids": ids, "sampling_probability": probability}
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = loss(y_true, scores)
        return value, tape.gradient(value, scores)

    vector = tf.TensorSpec((None,))
    in_graph = tf.function(
        step, input_signature=[tf.TensorSpec((None, None)), vector, vector]
    )
    xla = tf.function(step, jit_compile=True)
    arguments = [tf.constant(a, "float32") for a in (scores, IDS, PROBABILITY)]
    want = step(*arguments)
    for function in (in_graph, xla):
        got = function(*arguments)
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
        np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-6)


def test_half_precision_is_finite(scores):
    for dtype in (tf.float16, tf.bfloat16):
        half = tf.cast(scores, dtype)
        got = in_batch_softmax(half, IDS, sampling_probability=PROBABILITY)
        want = in_batch_softmax(
            tf.cast(half, "float32"), IDS, sampling_probability=PROBABILITY
        )
        np.testing.assert_allclose(got, want, rtol=1e-6)
    tiny = np.array([1e-30, 1e-30, 1e-30, 1e-3], "float32")
    loss = in_batch_softmax(half, IDS, sampling_probability=tiny)
    assert np.isfinite(loss).all()


def test_config_round_trip(scores):
    loss = InBatchSoftmax(temperature=0.3, reduction="sum", name="mine")
    config = keras.saving.serialize_keras_object(loss)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is InBatchSoftmax
    assert copy.get_config() == loss.get_config()
    np.testing.assert_allclose(copy(IDS, scores), loss(IDS, scores))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_scores": np.zeros((4, 3))}, r"`student_scores` must have shape"),
        ({"candidate_ids": [1, 2]}, r"`candidate_ids` .* candidate_ids.shape=\(2,\)"),
        ({"mask": np.ones((4, 4), bool)}, r"`mask` .* mask.shape=\(4, 4\)"),
        ({"mask": np.ones(4)}, "`mask` must be boolean. Received: dtype=float64"),
        ({"sampling_probability": [0.5]}, r"`sampling_probability` must have shape"),
        ({"temperature": 0}, "`temperature` must be positive. Received: temperature=0"),
    ],
)
def test_an_invalid_argument_raises_an_error_with_its_name(scores, change, message):
    with pytest.raises(ValueError, match=message):
        in_batch_softmax(**{"student_scores": scores, "candidate_ids": IDS, **change})


def test_an_unknown_or_missing_key_raises_an_error(scores):
    for y_true in ({"labels": IDS}, {"candidate_ids": IDS, "weights": IDS}):
        with pytest.raises(ValueError, match='the key "candidate_ids"'):
            losses.InBatchSoftmax()(y_true, scores)
    with pytest.raises(ValueError, match="temperature=-1"):
        losses.InBatchSoftmax(temperature=-1)
