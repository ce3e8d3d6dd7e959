"""top-K ranking distillation: by hand, and how the losses are related."""

from math import exp, log, tanh

import numpy as np
import pytest

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
    # Weights by position 2 and 1 meet item weights 1 and 4.
    np.testing.assert_allclose(got, [-(2 * log(3 / 4) + 4 * log(1 / 2)) / 6], rtol=1e-6)


def test_relaxed_ranking_by_hand():
    teacher = np.array([[-5.0, -3.0, -9.0, 99.0]], "float32")  # second, first | third
    student = np.array([[0.5, 0.0, 1.0, 50.0]], "float32")
    mask = np.array([[True, True, True, False]])
    got = losses.top_k_relaxed_ranking(
        teacher, student, mask, temperature=0.5, k=2, tail_weight=3.0
    )
    first = exp(0.0) / (exp(0.0) + exp(1.0) + 3 * exp(2.0))
    second = exp(1.0) / (exp(1.0) + 3 * exp(2.0))
    np.testing.assert_allclose(got, [-(log(first) + log(second)) / 2], rtol=1e-6)


def test_relaxed_ranking_does_not_know_the_order_of_the_tail():
    student = np.array([[1.0, 0.0, 2.0, -1.0]], "float32")
    mask = np.ones((1, 4), bool)
    one = losses.top_k_relaxed_ranking([[9.0, 8.0, 3.0, 2.0]], student, mask, k=2)
    other = losses.top_k_relaxed_ranking([[9.0, 8.0, 2.0, 3.0]], student, mask, k=2)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    swapped = losses.top_k_relaxed_ranking([[8.0, 9.0, 3.0, 2.0]], student, mask, k=2)
    assert abs(float(one[0]) - float(swapped[0])) > 0.05


def test_relaxed_ranking_with_a_tail_of_weight_one_is_plackett_luce():
    teacher, student, mask = contracts.ragged_lists(losses.TopKRelaxedRanking)
    np.testing.assert_allclose(
        losses.top_k_relaxed_ranking(teacher, student, mask, k=2),
        losses.listwise_plackett_luce(teacher, student, mask, k=2),
    )


def test_a_drawn_tail_stands_for_the_whole_one():
    # A tail of six equal scores, of which two are drawn: each stands for three.
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


def test_rank_distil_pushes_the_tail_down_whatever_the_teacher_says_of_it():
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


def test_dual_correction_by_hand():
    teacher = np.array([[9.0, 8.0, 7.0, 99.0]], "float32")
    # The student has them third, first, second: too low by two, too high by one each.
    student = np.array([[0.0, 2.0 * log(4.0), 2.0 * log(3.0), 50.0]], "float32")
    mask = np.array([[True, True, True, False]])
    got = losses.top_k_dual_correction(
        teacher, student, mask, temperature=2.0, sharpness=0.5
    )
    under, over = tanh(1.0), tanh(0.5)
    rivals = under * 1 + over * 4 + over * 3
    np.testing.assert_allclose(got, [-under * log(under / rivals) / 3], rtol=1e-6)


def test_dual_correction_by_hand_with_two_underestimated():
    teacher = np.array([[9.0, 8.0, 7.0]], "float32")
    # Second, third, first by the student: too low by one, one; too high by two.
    student = np.array([[log(2.0), 0.0, log(5.0)]], "float32")
    got = losses.top_k_dual_correction(teacher, student, THREE, k=2, sharpness=1.0)
    under, over = tanh(1.0), tanh(2.0)
    first = under * 2 / (under * 2 + under * 1 + over * 5)
    second = under * 1 / (under * 1 + over * 5)
    np.testing.assert_allclose(
        got, [-under * (log(first) + log(second)) / 2], rtol=1e-6
    )


def test_dual_correction_leaves_a_student_in_the_teachers_order_alone():
    teacher = np.array([[9.0, 8.0, 7.0]], "float32")
    student = np.array([[0.3, 0.2, 0.1]], "float32")
    loss, gradient = loss_and_gradient(
        losses.top_k_dual_correction, teacher, student, THREE
    )
    np.testing.assert_array_equal(loss, 0.0)
    np.testing.assert_array_equal(gradient, 0.0)


def test_dual_correction_raises_what_is_too_low_and_lowers_what_is_too_high():
    teacher = np.array([[9.0, 8.0, 7.0, 6.0]], "float32")
    student = np.array([[0.0, 3.0, 2.0, -1.0]], "float32")  # third, first, second, last
    _, gradient = loss_and_gradient(
        losses.top_k_dual_correction, teacher, student, np.ones((1, 4), bool)
    )
    assert gradient[0, 0] < 0.0
    assert (gradient[0, 1:3] > 0.0).all()
    assert gradient[0, 3] == 0.0


def test_dual_correction_ranks_without_removed_candidates():
    teacher = np.array([[9.0, 8.0, 7.0]], "float32")
    student = np.array([[1.0, 5.0, 0.0]], "float32")
    weight = np.array([[1.0, 0.0, 1.0]], "float32")
    got = losses.top_k_dual_correction(teacher, student, THREE, item_weight=weight)
    np.testing.assert_array_equal(got, [0.0])  # the other two are in order


@pytest.mark.parametrize("sharpness", [1e-37, 1e-39, 1e-44, 1e-60])
def test_a_sharpness_next_to_nothing_gives_next_to_nothing(sharpness):
    teacher = np.array([[9.0, 8.0]], "float32")
    loss, gradient = loss_and_gradient(
        losses.top_k_dual_correction,
        teacher,
        -teacher,
        np.ones((1, 2), bool),
        sharpness=sharpness,
    )
    np.testing.assert_allclose(loss, 0.0, atol=1e-30)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-30)
