"""masked_softmax: values by hand, weights, and gradients."""

from math import exp, log

import numpy as np
import pytest
import tensorflow as tf

from recdistill.lists import masked_softmax

MASK = np.array([[True, True, True], [True, True, False], [False, False, False]])
SCORES = np.array([[1.0, -2.0, 0.5], [3.0, 3.0, 7.0], [4.0, 5.0, 6.0]], "float32")


def test_log_softmax_is_the_score_minus_log_sum_exp():
    got = masked_softmax.log_softmax(SCORES, MASK, temperature=2.0)
    evidence = log(exp(0.5) + exp(-1.0) + exp(0.25))
    want = [
        [0.5 - evidence, -1.0 - evidence, 0.25 - evidence],
        [log(1 / 2), log(1 / 2), 0.0],
        [0.0, 0.0, 0.0],
    ]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_softmax_sums_to_one_over_each_list_and_is_zero_under_padding():
    got = masked_softmax.softmax(SCORES, MASK).numpy()
    np.testing.assert_allclose(got.sum(axis=1), [1.0, 1.0, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(got[~MASK], 0.0)


def test_a_best_score_far_ahead_takes_all_the_probability_at_any_temperature():
    scores = np.array([[3e38, -3e38, 0.0]], "float32")
    for temperature in (1e-3, 1.0, 1e3):
        got = masked_softmax.softmax(scores, MASK[:1], temperature)
        np.testing.assert_array_equal(got, [[1.0, 0.0, 0.0]])


def test_a_candidate_of_weight_two_has_the_probability_of_two():
    weight = np.array([[2.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0] * 3], "float32")
    got = masked_softmax.softmax(SCORES, MASK, 2.0, weight).numpy()
    powers = np.array([2 * exp(0.5), exp(-1.0), exp(0.25)])
    np.testing.assert_allclose(got[0], powers / powers.sum(), rtol=1e-6)
    np.testing.assert_allclose(got[1:], [[0.5, 0.5, 0.0], [0.0] * 3])


def test_logits_are_shifted_scores_over_the_temperature_plus_log_weights():
    weight = np.array([[1.0, 2.0, 1.0]], "float32")
    got = masked_softmax.logits(SCORES[:1], MASK[:1], 2.0, weight)
    np.testing.assert_allclose(got, [[0.0, -1.5 + log(2.0), -0.25]], rtol=1e-6)


@pytest.mark.parametrize("function", ["log_softmax", "softmax"])
def test_gradients_match_finite_differences(function):
    rng = np.random.default_rng(0)
    scores, weights = rng.normal(size=(3, 3)), rng.uniform(0.5, 2.0, (3, 3))
    factors, step = rng.normal(size=(3, 3)), 1e-6
    temperature = np.array(0.7)
    arguments = [tf.constant(each) for each in (scores, temperature, weights)]

    def value(scores, temperature, weights):
        compute = getattr(masked_softmax, function)
        return tf.reduce_sum(factors * compute(scores, MASK, temperature, weights))

    with tf.GradientTape() as tape:
        tape.watch(arguments)
        got = value(*arguments)
    for k, gradient in enumerate(tape.gradient(got, arguments)):
        for place in np.ndindex(*arguments[k].shape):
            ends = []
            for sign in (1.0, -1.0):
                moved = [np.array(each) for each in arguments]
                moved[k][place] += sign * step
                ends.append(float(value(*map(tf.constant, moved))))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float(gradient.numpy()[place]) == pytest.approx(slope, abs=1e-7)


def test_lists_of_the_lowest_float_have_finite_values():
    lowest = np.finfo("float32").min
    scores = np.array([[lowest, lowest, 0.0], [lowest, -lowest, 0.0]], "float32")
    mask = np.array([[True, True, False]] * 2)
    logs, probabilities = masked_softmax.distribution(scores, mask)
    assert np.isfinite(logs).all()
    np.testing.assert_array_equal(probabilities[1], [0.0, 1.0, 0.0])
