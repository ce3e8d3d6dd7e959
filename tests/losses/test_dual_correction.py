"""dual_correction: DCD by hand, and which candidates it moves."""

from math import log, tanh

import numpy as np
import pytest

from recdistill import losses
from tests.contracts import loss_and_gradient

THREE = np.ones((1, 3), bool)


def test_dual_correction_by_hand():
    teacher = np.array([[9.0, 8.0, 7.0, 99.0]], "float32")
    # The student ranks them third, first and second: errors of +2, -1 and -1.
    student = np.array([[0.0, 2.0 * log(4.0), 2.0 * log(3.0), 50.0]], "float32")
    mask = np.array([[True, True, True, False]])
    got = losses.top_k_dual_correction(
        teacher, student, mask, temperature=2.0, sharpness=0.5
    )
    under, over = tanh(1.0), tanh(0.5)
    rivals = under * 1 + over * 4 + over * 3
    np.testing.assert_allclose(got, [-under * log(under / rivals) / 3], rtol=1e-6)


def test_dual_correction_by_hand_with_two_underestimated_candidates():
    teacher = np.array([[9.0, 8.0, 7.0]], "float32")
    # The student ranks them second, third and first: errors of +1, +1 and -2.
    student = np.array([[log(2.0), 0.0, log(5.0)]], "float32")
    got = losses.top_k_dual_correction(teacher, student, THREE, k=2, sharpness=1.0)
    under, over = tanh(1.0), tanh(2.0)
    first = under * 2 / (under * 2 + under * 1 + over * 5)
    second = under * 1 / (under * 1 + over * 5)
    np.testing.assert_allclose(
        got, [-under * (log(first) + log(second)) / 2], rtol=1e-6
    )


def test_dual_correction_is_zero_for_a_student_in_the_teachers_order():
    teacher = np.array([[9.0, 8.0, 7.0]], "float32")
    student = np.array([[0.3, 0.2, 0.1]], "float32")
    loss, gradient = loss_and_gradient(
        losses.top_k_dual_correction, teacher, student, THREE
    )
    np.testing.assert_array_equal(loss, 0.0)
    np.testing.assert_array_equal(gradient, 0.0)


def test_dual_correction_raises_underestimated_and_lowers_overestimated_candidates():
    teacher = np.array([[9.0, 8.0, 7.0, 6.0]], "float32")
    student = np.array([[0.0, 3.0, 2.0, -1.0]], "float32")  # third, first, second, last
    _, gradient = loss_and_gradient(
        losses.top_k_dual_correction, teacher, student, np.ones((1, 4), bool)
    )
    assert gradient[0, 0] < 0.0
    assert (gradient[0, 1:3] > 0.0).all()
    assert gradient[0, 3] == 0.0


def test_dual_correction_ranks_exclude_candidates_of_weight_zero():
    teacher = np.array([[9.0, 8.0, 7.0]], "float32")
    student = np.array([[1.0, 5.0, 0.0]], "float32")
    weight = np.array([[1.0, 0.0, 1.0]], "float32")
    got = losses.top_k_dual_correction(teacher, student, THREE, item_weight=weight)
    np.testing.assert_array_equal(got, [0.0])  # the other two are in order


@pytest.mark.parametrize("sharpness", [1e-37, 1e-39, 1e-44, 1e-60])
def test_a_tiny_sharpness_gives_a_tiny_finite_loss(sharpness):
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


def test_ties_of_the_student_are_in_the_order_of_the_list():
    teacher, zeros = np.array([[1.0, 2.0, 3.0]], "float32"), np.zeros((1, 3), "float32")
    got = losses.top_k_dual_correction(teacher, zeros, THREE, k=2, sharpness=1.0)
    # The last candidate, the teacher's first, has rank 3; the first, the last, rank 1.
    exponents = np.log(np.tanh(2.0)) * np.ones(2)
    want = np.tanh(2.0) * (np.logaddexp(*exponents) - exponents[0]) / 2
    np.testing.assert_allclose(got, [want], rtol=1e-5)
