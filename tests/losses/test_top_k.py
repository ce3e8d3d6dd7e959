"""top_k: Ranking Distillation and RankDistil by hand, and relations between losses."""

from math import log

import numpy as np

from recdistill import losses
from tests import contracts
from tests.contracts import loss_and_gradient

THREE = np.ones((1, 3), bool)


def test_position_weighted_by_hand():
    teacher = np.array([[-5.0, -3.0, -9.0, 99.0]], "float32")  # second, then first
    student = np.array([[2.0 * log(3.0), 0.0, 50.0, 50.0]], "float32")
    mask = np.array([[True, True, True, False]])
    got = losses.top_k_position_weighted(
        teacher, student, mask, temperature=2.0, k=2, decay=1 / log(2)
    )
    np.testing.assert_allclose(got, [-(2 * log(1 / 2) + log(3 / 4)) / 3], rtol=1e-6)


def test_position_weighted_by_hand_with_item_weights():
    teacher = np.array([[3.0, 2.0, 1.0]], "float32")
    student = np.array([[50.0, log(3.0), 0.0]], "float32")
    weight = np.array([[0.0, 1.0, 4.0]], "float32")
    got = losses.top_k_position_weighted(
        teacher, student, THREE, k=2, decay=1 / log(2), item_weight=weight
    )
    # Weights by position of 2 and 1, multiplied by item weights of 1 and 4.
    np.testing.assert_allclose(got, [-(2 * log(3 / 4) + 4 * log(1 / 2)) / 6], rtol=1e-6)


def test_a_weighted_sample_of_the_tail_equals_the_whole_tail():
    # A tail of six equal scores, of which two are sampled: each represents three.
    teacher = np.array([[9.0, 8.0] + [0.0] * 6], "float32")
    student = np.array([[0.3, 0.9] + [-0.4] * 6], "float32")
    for function in (losses.top_k_relaxed_ranking, losses.top_k_rank_distil):
        whole = function(teacher, student, np.ones((1, 8), bool), k=2)
        drawn = function(
            teacher[:, :4], student[:, :4], np.ones((1, 4), bool), k=2, tail_weight=3.0
        )
        np.testing.assert_allclose(drawn, whole, rtol=1e-6)


def test_rank_distil_by_hand():
    teacher = np.array([[2.0 * log(3.0), -8.0, 0.0]], "float32")  # 3/4 and 1/2 | tail
    student = np.array([[0.0, 2.0 * log(4.0), 2.0 * log(1 / 3)]], "float32")
    got = losses.top_k_rank_distil(
        teacher, student, THREE, temperature=2.0, k=2, tail_weight=5.0
    )
    top = -(3 / 4 * log(1 / 2) + 1 / 4 * log(1 / 2))
    top -= 1 / 2 * log(1 / 4) + 1 / 2 * log(3 / 4)
    tail = -log(1 - 4 / 5)
    np.testing.assert_allclose(got, [2.0**2 * (top + 5 * tail) / (2 + 5)], rtol=1e-6)


def test_rank_distil_lowers_the_tail_regardless_of_its_teacher_scores():
    teacher = np.array([[9.0, 8.0, 7.0]], "float32")  # sure of all three
    _, gradient = loss_and_gradient(
        losses.top_k_rank_distil, teacher, np.zeros((1, 3), "float32"), THREE, k=2
    )
    np.testing.assert_allclose(gradient, [[-1 / 6, -1 / 6, 1 / 6]], atol=1e-3)


def test_rank_distil_without_a_tail_is_binary_cross_entropy():
    teacher, student, mask = contracts.ragged_lists(losses.TopKRankDistil)
    np.testing.assert_allclose(
        losses.top_k_rank_distil(teacher, student, mask, temperature=2.0, k=5),
        losses.pointwise_binary_cross_entropy(teacher, student, mask, temperature=2.0),
        rtol=1e-6,
    )
