"""plackett_luce: ListMLE and DE-RRD by hand, and that only the order matters."""

from math import exp, log

import numpy as np
import pytest

from recdistill import losses
from tests import contracts
from tests.contracts import loss_and_gradient

ORDER_LOSSES = [
    losses.ListwisePlackettLuce,
    losses.TopKRelaxedRanking,
    losses.TopKPositionWeighted,
    losses.TopKDualCorrection,
]


def test_plackett_luce_by_hand():
    teacher = np.array([[-5.0, -3.0, -9.0, 99.0]], "float32")  # second, first, third
    student = np.array([[0.5, 0.0, 1.0, 50.0]], "float32")
    mask = np.array([[True, True, True, False]])
    got = losses.listwise_plackett_luce(teacher, student, mask, temperature=0.5)
    first = exp(0.0) / (exp(0.0) + exp(1.0) + exp(2.0))
    second = exp(1.0) / (exp(1.0) + exp(2.0))
    np.testing.assert_allclose(got, [-(log(first) + log(second)) / 3], rtol=1e-6)


def test_plackett_luce_by_hand_with_item_weights():
    teacher = np.array([[3.0, 2.0, 1.0]], "float32")
    student, mask = np.zeros((1, 3), "float32"), np.ones((1, 3), bool)
    weight = np.array([[1.0, 2.0, 4.0]], "float32")
    got = losses.listwise_plackett_luce(teacher, student, mask, k=2, item_weight=weight)
    want = -(1 * log(1 / 7) + 2 * log(2 / 6)) / 3
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_plackett_luce_is_exact_for_candidates_far_below_the_best():
    scores = np.array([[30.0, 0.0, 0.0, -30.0]], "float32")
    mask = np.ones((1, 4), bool)
    loss, gradient = loss_and_gradient(
        losses.listwise_plackett_luce, scores, scores, mask
    )
    # Only the order of the two in the middle is uncertain.
    np.testing.assert_allclose(loss, [log(2.0) / 4], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0.0, -1 / 8, 1 / 8, 0.0]], atol=1e-6)


def test_plackett_luce_orders_equal_teacher_scores_by_position():
    teacher, mask = np.zeros((1, 3), "float32"), np.ones((1, 3), bool)
    student = np.array([[0.0, 1.0, 2.0]], "float32")
    got = losses.listwise_plackett_luce(teacher, student, mask)
    want = losses.listwise_plackett_luce([[3.0, 2.0, 1.0]], student, mask)
    np.testing.assert_array_equal(got, want)


def test_plackett_luce_at_k_one_is_cross_entropy_on_the_teachers_first():
    teacher, student, mask = contracts.ragged_lists(losses.ListwisePlackettLuce)
    best = np.where(mask, teacher, -np.inf).argmax(axis=1)
    relevance = np.eye(5, dtype="float32")[best] * mask
    np.testing.assert_allclose(
        losses.listwise_plackett_luce(teacher, student, mask, k=1),
        losses.listwise_cross_entropy(relevance, student, mask),
        rtol=1e-5,
        atol=1e-6,
    )


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


def test_relaxed_ranking_ignores_the_order_of_the_tail():
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


@pytest.mark.parametrize("loss_cls", ORDER_LOSSES)
def test_only_the_order_of_the_teachers_scores_matters(loss_cls):
    teacher, student, mask = contracts.ragged_lists(loss_cls)
    function = contracts.function_of(loss_cls)
    settings = contracts.unusual(loss_cls)
    np.testing.assert_array_equal(
        function(np.exp(teacher / 40.0), student, mask, **settings),
        function(teacher, student, mask, **settings),
    )


@pytest.mark.parametrize(
    "loss_cls",
    [
        losses.ListwisePlackettLuce,
        losses.TopKRelaxedRanking,
        losses.ListwiseSoftLambdaNDCG,
    ],
)
def test_the_loss_tends_to_zero_as_correctly_ordered_scores_spread(loss_cls):
    teacher, _, mask = contracts.ragged_lists(loss_cls)
    function = contracts.function_of(loss_cls)
    costs = [function(teacher, size * teacher, mask).numpy() for size in (1, 2, 300)]
    several = mask.sum(axis=1) > 1
    assert (costs[0] > costs[1])[several].all()
    np.testing.assert_allclose(costs[2], 0.0, atol=1e-4)
