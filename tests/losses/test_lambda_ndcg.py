"""lambda_ndcg: LambdaRank losses by hand, cut-offs, and lists without relevance."""

from math import exp, log, log2

import numpy as np
import pytest

from recdistill import losses
from tests import contracts

LAMBDA_LOSSES = [losses.listwise_lambda_ndcg, losses.listwise_soft_lambda_ndcg]


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


def test_the_pair_weight_of_a_list_of_two_is_one_minus_ndcg():
    # There is one pair, and swapping it makes the order ideal.
    relevance, student = np.array([[1.0, 3.0]]), np.array([[1.0, 0.0]])
    loss = losses.listwise_lambda_ndcg(relevance, student, np.ones((1, 2), bool))
    ndcg = (1 + 3 / log2(3)) / (3 + 1 / log2(3))
    np.testing.assert_allclose(loss, [(1 - ndcg) * log(1 + exp(1.0))], rtol=1e-6)


@pytest.mark.parametrize("k", [None, 5, 50])
@pytest.mark.parametrize("function", LAMBDA_LOSSES)
def test_a_cutoff_beyond_the_list_size_has_no_effect(function, k):
    _, student, mask = contracts.ragged_lists(losses.ListwiseLambdaNDCG)
    labels = np.abs(student[::-1])
    got = function(labels, student, mask, k=k)
    np.testing.assert_allclose(got, function(labels, student, mask, k=6), rtol=1e-6)


def test_lists_without_relevance_do_not_count_in_the_mean():
    relevance = np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 7.0]], "float32")
    mask = np.array([[True, True], [True, True], [True, False]])
    scores = np.array([[1.0, 0.0]] * 3, "float32")
    got = losses.ListwiseLambdaNDCG()({"labels": relevance, "mask": mask}, scores)
    np.testing.assert_allclose(got, (1 - 1 / log2(3)) * log(1 + exp(1.0)), rtol=1e-6)


def test_soft_lambda_ndcg_is_lowest_in_the_teachers_order():
    rng = np.random.default_rng(0)
    teacher, mask = np.array([[2.0, 1.0, 0.0, -1.0]]), np.ones((1, 4), bool)
    least = losses.listwise_soft_lambda_ndcg(teacher, teacher, mask)
    for _ in range(10):
        shuffled = rng.permuted(teacher, axis=1)
        if (shuffled != teacher).any():
            worse = losses.listwise_soft_lambda_ndcg(teacher, shuffled, mask)
            assert worse.numpy() > least.numpy()
