"""graph_ranks: order and ranks by hand, ties, padding, Plackett–Luce gradients."""

from math import exp, log

import numpy as np
import pytest
import tensorflow as tf

from recdistill.lists import graph_ranks

MASK = np.array([[True, True, True, False], [False, True, False, True], [False] * 4])
SCORES = np.array(
    [[-3.0, -1.0, -1.0, 9.0], [7.0, -2.0, 8.0, 0.0], [1.0, 2.0, 3.0, 4.0]], "float32"
)


def test_best_first_breaks_ties_by_position_and_puts_padding_last():
    got = graph_ranks.best_first(SCORES, MASK).numpy()
    np.testing.assert_array_equal(got[0], [1, 2, 0, 3])
    np.testing.assert_array_equal(got[1, :2], [3, 1])
    np.testing.assert_array_equal(np.sort(got[2]), [0, 1, 2, 3])


def test_ranks_count_real_candidates_only():
    np.testing.assert_array_equal(
        graph_ranks.ranks(SCORES, MASK), [[3, 1, 2, 0], [0, 2, 0, 1], [0, 0, 0, 0]]
    )


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_values_under_padding_have_no_rank(junk):
    dirty = np.where(MASK, SCORES, junk).astype("float32")
    np.testing.assert_array_equal(
        graph_ranks.ranks(dirty, MASK), graph_ranks.ranks(SCORES, MASK)
    )


def test_the_lowest_finite_score_ranks_before_padding():
    scores = np.array([[0.0, np.finfo("float32").min]], "float32")
    got = graph_ranks.best_first(scores, np.array([[False, True]]))
    np.testing.assert_array_equal(got, [[1, 0]])


def test_the_first_k_are_the_start_of_the_full_order():
    full = graph_ranks.best_first(SCORES, MASK)
    np.testing.assert_array_equal(graph_ranks.best_first(SCORES, MASK, 2), full[:, :2])
    np.testing.assert_array_equal(graph_ranks.best_first(SCORES, MASK, 9), full)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_zeros_of_both_signs_are_equal_scores(jit_compile):
    scores = tf.constant([[-0.0, 0.0, -0.0]])
    order = tf.function(graph_ranks.best_first, jit_compile=jit_compile)
    got = order(scores, tf.ones((1, 3), tf.bool))
    np.testing.assert_array_equal(got, [[0, 1, 2]])


def test_within_first_marks_the_first_k_columns_or_all():
    np.testing.assert_array_equal(
        graph_ranks.within_first(SCORES, 2), [True, True, False, False]
    )
    np.testing.assert_array_equal(graph_ranks.within_first(SCORES, None), [True] * 4)
    np.testing.assert_array_equal(graph_ranks.within_first(SCORES, 9), [True] * 4)


def test_gather_returns_the_values_at_the_positions():
    positions = graph_ranks.best_first(SCORES, MASK)
    got = graph_ranks.gather(SCORES, positions).numpy()
    np.testing.assert_array_equal(got[0], [-1.0, -1.0, -3.0, 9.0])


def test_plackett_luce_terms_by_hand_with_further_candidates():
    z = np.log([[3.0, 1.0, 2.0]])
    mask = np.array([[True, True, False]])
    got = graph_ranks.plackett_luce_terms(z, mask, np.log([4.0]))
    np.testing.assert_allclose(got, [[-log(3 / 8), -log(1 / 5), 0.0]], rtol=1e-9)


def test_the_gradient_of_a_plackett_luce_term_is_the_probability_of_each():
    z = tf.constant(np.log([[3.0, 1.0, 2.0]]))
    with tf.GradientTape() as tape:
        tape.watch(z)
        first = graph_ranks.plackett_luce_terms(z)[0, 0]
    np.testing.assert_allclose(
        tape.gradient(first, z), [[3 / 6 - 1, 1 / 6, 2 / 6]], rtol=1e-9
    )


def test_equal_exponents_share_the_gradient_of_log_sum_exp():
    z, rest = tf.zeros((1, 1), tf.float64), tf.zeros((1,), tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([z, rest])
        surprise = graph_ranks.plackett_luce_terms(z, np.ones((1, 1), bool), rest)
    by_z, by_rest = tape.gradient(surprise, [z, rest])
    np.testing.assert_allclose(by_z, [[1 / 2 - 1]])
    np.testing.assert_allclose(by_rest, [1 / 2])


def test_log_sum_exp_of_an_empty_list_has_exponential_zero():
    got = graph_ranks.log_sum_exp(SCORES, MASK).numpy()
    want = [log(exp(-3.0) + 2 * exp(-1.0)), log(exp(-2.0) + 1)]
    np.testing.assert_allclose(got[:2], want, rtol=1e-6)
    assert np.isfinite(got[2])
    assert np.exp(got[2]) == 0.0
