"""pairwise: margin-MSE and RankNet by hand, and relations between losses."""

from math import log

import numpy as np
import pytest

from recdistill import losses
from tests import contracts
from tests.contracts import loss_and_gradient

TWO, THREE = np.ones((1, 2), bool), np.ones((1, 3), bool)


def test_margin_mse_by_hand():
    teacher = np.array([[5.0, 3.0, 0.0, 99.0]], "float32")
    student = np.array([[1.0, 0.0, 0.0, -99.0]], "float32")
    mask = np.array([[True, True, True, False]])
    got = losses.pairwise_margin_mse(teacher, student, mask)
    # Margins 2, 5, 3 against 1, 1, 0; each pair in both orders, of nine ordered pairs.
    np.testing.assert_allclose(got, [2 * (1**2 + 4**2 + 3**2) / 9], rtol=1e-6)


def test_margin_mse_by_hand_with_item_weights():
    teacher = np.array([[3.0, 0.0]], "float32")
    student = np.array([[1.0, 0.0]], "float32")
    got = losses.pairwise_margin_mse(teacher, student, TWO, np.array([[3.0, 1.0]]))
    # Of 16 ordered pairs of four candidates, 3 + 3 have different scores.
    np.testing.assert_allclose(got, [6 * 2.0**2 / 16], rtol=1e-6)


def test_margin_mse_is_accurate_for_scores_far_from_zero():
    teacher = np.array([[5.0, 3.0, 0.0]]) + 1e6
    student = np.array([[1.0, 0.0, 0.0]]) - 1e6
    got = losses.pairwise_margin_mse(
        teacher.astype("float32"), student.astype("float32"), THREE
    )
    np.testing.assert_allclose(got, [52 / 9], rtol=1e-5)


def test_kl_at_high_temperature_is_a_quarter_of_margin_mse():
    teacher, student, mask = contracts.ragged_lists(losses.PairwiseMarginMSE)
    hot = losses.listwise_kl_divergence(
        *(values.astype("float64") for values in (teacher, student)), mask, 1e4
    )
    cold = losses.pairwise_margin_mse(teacher, student, mask)
    np.testing.assert_allclose(hot, cold / 4.0, rtol=1e-2, atol=1e-6)


def test_rank_net_by_hand_at_a_temperature():
    teacher = np.array([[2.0 * log(3.0), 0.0]], "float32")  # prefers the first by 3/4
    student = np.array([[0.0, 2.0 * log(4.0)]], "float32")  # prefers it by 1/5
    got = losses.pairwise_rank_net(teacher, student, TWO, temperature=2.0)
    pair = 3 / 4 * log((3 / 4) / (1 / 5)) + 1 / 4 * log((1 / 4) / (4 / 5))
    np.testing.assert_allclose(got, [2.0**2 * 2 * pair / 4], rtol=1e-6)


def test_rank_net_by_hand_with_a_cutoff():
    teacher = np.array([[0.0, log(3.0), 0.0, 99.0]], "float32")
    student = np.zeros((1, 4), "float32")
    mask = np.array([[True, True, True, False]])
    got = losses.pairwise_rank_net(teacher, student, mask, k=1)
    pair = 3 / 4 * log(3 / 2) + 1 / 4 * log(1 / 2)  # the second with the other two
    np.testing.assert_allclose(got, [2 * pair / 3], rtol=1e-6)


def test_rank_net_has_the_gradient_of_the_cross_entropy_of_preferences():
    teacher = np.array([[log(3.0), 0.0]], "float32")
    _, gradient = loss_and_gradient(
        losses.pairwise_rank_net, teacher, np.zeros((1, 2), "float32"), TWO
    )
    # Two of four ordered pairs, each with the difference of 1/2 and 3/4.
    np.testing.assert_allclose(gradient, [[-1 / 8, 1 / 8]], rtol=1e-6)


def test_rank_net_with_a_cutoff_of_the_list_size_compares_all_pairs():
    teacher, student, mask = contracts.ragged_lists(losses.PairwiseRankNet)
    np.testing.assert_allclose(
        losses.pairwise_rank_net(teacher, student, mask, k=5),
        losses.pairwise_rank_net(teacher, student, mask),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    "function",
    [
        losses.pairwise_margin_mse,
        losses.pairwise_rank_net,
    ],
)
def test_item_weight_two_gives_the_loss_of_two_candidates(function):
    teacher, student, mask = contracts.ragged_lists(losses.PairwiseRankNet)
    weight = np.ones((6, 5), "float32")
    weight[:, 1] = 2.0
    got = function(teacher, student, mask, item_weight=weight)
    twice = (values[:, [0, 1, 1, 2, 3, 4]] for values in (teacher, student, mask))
    np.testing.assert_allclose(got, function(*twice), rtol=1e-5, atol=1e-6)
