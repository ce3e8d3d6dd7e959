"""pointwise: MSE and binary cross-entropy by hand, with weights and extreme scores."""

from math import log

import numpy as np
import pytest

from recdistill import losses
from tests import contracts
from tests.contracts import loss_and_gradient

THREE = np.ones((1, 3), bool)


def test_mse_by_hand_with_item_weights():
    teacher = np.array([[3.0, 0.0, 99.0]], "float32")
    student = np.array([[1.0, 1.0, -99.0]], "float32")
    mask = np.array([[True, True, False]])
    got = losses.pointwise_mse(teacher, student, mask)
    np.testing.assert_allclose(got, [(2.0**2 + 1.0**2) / 2])
    got = losses.pointwise_mse(teacher, student, mask, np.array([[3.0, 1.0, 7.0]]))
    np.testing.assert_allclose(got, [(3 * 2.0**2 + 1.0**2) / 4])


def test_binary_cross_entropy_by_hand_at_a_temperature():
    teacher = np.array([[2.0 * log(3.0), 0.0, 99.0]], "float32")  # 3/4, 1/2
    student = np.array([[0.0, 2.0 * log(4.0), 99.0]], "float32")  # 1/2, 4/5
    mask = np.array([[True, True, False]])
    got = losses.pointwise_binary_cross_entropy(teacher, student, mask, temperature=2.0)
    first = -(3 / 4 * log(1 / 2) + 1 / 4 * log(1 / 2))
    second = -(1 / 2 * log(4 / 5) + 1 / 2 * log(1 / 5))
    np.testing.assert_allclose(got, [2.0**2 * (first + second) / 2], rtol=1e-6)


def test_binary_cross_entropy_accepts_probabilities_and_clips_them():
    teacher = np.array([[0.25, 1.5, -0.5]], "float32")  # 1/4, and what must be 1 and 0
    student = np.array([[log(3.0), 0.0, 0.0]], "float32")
    got = losses.pointwise_binary_cross_entropy(
        teacher, student, THREE, from_probabilities=True
    )
    first = -(1 / 4 * log(3 / 4) + 3 / 4 * log(1 / 4))
    np.testing.assert_allclose(got, [(first + 2 * log(2.0)) / 3], rtol=1e-6)


def test_probabilities_and_their_log_odds_give_the_same_binary_cross_entropy():
    teacher, student, mask = contracts.ragged_lists(losses.PointwiseMSE)
    probabilities = 1.0 / (1.0 + np.exp(-np.where(mask, teacher, 0.0)))
    np.testing.assert_allclose(
        losses.pointwise_binary_cross_entropy(
            probabilities, student, mask, from_probabilities=True
        ),
        losses.pointwise_binary_cross_entropy(teacher, student, mask),
        rtol=1e-5,
    )


def test_squared_error_is_clipped_before_it_overflows():
    teacher, student = np.array([[1e30]], "float32"), np.array([[-1e30]], "float32")
    loss, gradient = loss_and_gradient(
        losses.pointwise_mse, teacher, student, np.ones((1, 1), bool)
    )
    np.testing.assert_allclose(loss, [(2e15) ** 2], rtol=1e-6)
    np.testing.assert_array_equal(gradient, [[0.0]])


@pytest.mark.parametrize(
    "function",
    [
        losses.pointwise_mse,
        losses.pointwise_binary_cross_entropy,
    ],
)
def test_item_weight_two_gives_the_loss_of_two_candidates(function):
    teacher, student, mask = contracts.ragged_lists(losses.PointwiseMSE)
    weight = np.ones((6, 5), "float32")
    weight[:, 1] = 2.0
    got = function(teacher, student, mask, item_weight=weight)
    twice = (values[:, [0, 1, 1, 2, 3, 4]] for values in (teacher, student, mask))
    np.testing.assert_allclose(got, function(*twice), rtol=1e-5, atol=1e-6)
