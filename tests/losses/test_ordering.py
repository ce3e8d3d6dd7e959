"""losses that ask for an order: by hand, and that nothing but the order counts."""

from math import exp, log, log2

import numpy as np
import pytest

from recdistill import losses
from tests import contracts
from tests.contracts import loss_and_gradient

BY_ORDER = [
    losses.ListwisePlackettLuce,
    losses.TopKRelaxedRanking,
    losses.TopKPositionWeighted,
    losses.TopKDualCorrection,
]
BY_LOGISTIC_PAIRS = [losses.listwise_lambda_ndcg, losses.listwise_soft_lambda_ndcg]


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
    # Only the two in the middle are a matter of chance.
    np.testing.assert_allclose(loss, [log(2.0) / 4], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0.0, -1 / 8, 1 / 8, 0.0]], atol=1e-6)


def test_plackett_luce_orders_equal_teacher_scores_by_position():
    teacher, mask = np.zeros((1, 3), "float32"), np.ones((1, 3), bool)
    student = np.array([[0.0, 1.0, 2.0]], "float32")
    got = losses.listwise_plackett_luce(teacher, student, mask)
    want = losses.listwise_plackett_luce([[3.0, 2.0, 1.0]], student, mask)
    np.testing.assert_array_equal(got, want)


def test_plackett_luce_with_one_place_is_cross_entropy_with_the_teachers_first():
    teacher, student, mask = contracts.ragged_lists(losses.ListwisePlackettLuce)
    best = np.where(mask, teacher, -np.inf).argmax(axis=1)
    relevance = np.eye(5, dtype="float32")[best] * mask
    np.testing.assert_allclose(
        losses.listwise_plackett_luce(teacher, student, mask, k=1),
        losses.listwise_cross_entropy(relevance, student, mask),
        rtol=1e-5,
        atol=1e-6,
    )


def test_lambda_ndcg_by_hand():
    relevance = np.array([[0.0, 3.0, 1.0, 9.0]], "float32")
    student = np.array([[2.0, 1.0, 0.0, 50.0]], "float32")  # ranks 1, 2, 3
    mask = np.array([[True, True, True, False]])
    got = losses.listwise_lambda_ndcg(relevance, student, mask, k=2)
    second = 1 / log2(3)
    best = 3 + 1 * second
    want = 3 * (1 - second) * log(1 + exp(1.0))  # the second candidate over the first
    want += 1 * (1 - 0.0) * log(1 + exp(2.0))  # the third over the first
    want += 2 * (second - 0.0) * log(1 + exp(-1.0))  # the second over the third
    np.testing.assert_allclose(got, [want / best], rtol=1e-6)


def test_soft_lambda_ndcg_by_hand_at_a_temperature():
    teacher = np.array([[2.0 * log(3.0), 0.0]], "float32")  # gains 3/4 and 1/4
    student = np.array([[0.0, 1.0]], "float32")
    got = losses.listwise_soft_lambda_ndcg(teacher, student, np.ones((1, 2), bool), 2.0)
    second = 1 / log2(3)
    cost = (3 / 4 - 1 / 4) * (1 - second) / (3 / 4 + 1 / 4 * second)
    np.testing.assert_allclose(got, [cost * log(1 + exp(1.0 / 2.0))], rtol=1e-6)


def test_lambda_weights_add_up_to_what_ndcg_lacks_in_a_list_of_two():
    # One exchange is all there is to do, and its weight is the gain in NDCG.
    relevance, student = np.array([[1.0, 3.0]]), np.array([[1.0, 0.0]])
    loss = losses.listwise_lambda_ndcg(relevance, student, np.ones((1, 2), bool))
    ndcg = (1 + 3 / log2(3)) / (3 + 1 / log2(3))
    np.testing.assert_allclose(loss, [(1 - ndcg) * log(1 + exp(1.0))], rtol=1e-6)


@pytest.mark.parametrize("k", [None, 5, 50])
@pytest.mark.parametrize("function", BY_LOGISTIC_PAIRS)
def test_a_cutoff_beyond_the_list_is_none_at_all(function, k):
    _, student, mask = contracts.ragged_lists(losses.ListwiseLambdaNDCG)
    labels = np.abs(student[::-1])
    got = function(labels, student, mask, k=k)
    np.testing.assert_allclose(got, function(labels, student, mask, k=6), rtol=1e-6)


def test_lists_without_relevance_are_left_out_of_the_mean():
    relevance = np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 7.0]], "float32")
    mask = np.array([[True, True], [True, True], [True, False]])
    scores = np.array([[1.0, 0.0]] * 3, "float32")
    got = losses.ListwiseLambdaNDCG()({"labels": relevance, "mask": mask}, scores)
    np.testing.assert_allclose(got, (1 - 1 / log2(3)) * log(1 + exp(1.0)), rtol=1e-6)


@pytest.mark.parametrize("loss_cls", BY_ORDER)
def test_of_the_teachers_scores_only_the_order_counts(loss_cls):
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
def test_more_spread_in_the_right_order_costs_less_and_tends_to_nothing(loss_cls):
    teacher, _, mask = contracts.ragged_lists(loss_cls)
    function = contracts.function_of(loss_cls)
    costs = [function(teacher, size * teacher, mask).numpy() for size in (1, 2, 300)]
    several = mask.sum(axis=1) > 1
    assert (costs[0] > costs[1])[several].all()
    np.testing.assert_allclose(costs[2], 0.0, atol=1e-4)


def test_soft_lambda_ndcg_prefers_the_teachers_order_to_any_other():
    rng = np.random.default_rng(0)
    teacher, mask = np.array([[2.0, 1.0, 0.0, -1.0]]), np.ones((1, 4), bool)
    least = losses.listwise_soft_lambda_ndcg(teacher, teacher, mask)
    for _ in range(10):
        shuffled = rng.permuted(teacher, axis=1)
        if (shuffled != teacher).any():
            worse = losses.listwise_soft_lambda_ndcg(teacher, shuffled, mask)
            assert worse.numpy() > least.numpy()
