"""numpy_ranks: ranks and top-k by hand, ties, padding, and invalid arguments."""

import numpy as np
import pytest

from recdistill.lists import graph_ranks, numpy_ranks
from tests import reference_metrics as reference
from tests.reference_metrics import ragged_batch


def test_real_scores_puts_nan_under_padding_and_keeps_float32():
    scores = np.array([[1.0, np.inf]], "float32")
    real = numpy_ranks.real_scores(scores, [[True, False]], name="scores")
    np.testing.assert_array_equal(real, [[1.0, np.nan]])
    assert real.dtype == np.float32
    whole = numpy_ranks.real_scores([[1, 2]], [[True, True]], name="scores")
    assert whole.dtype == np.float64


def test_ranks_of_by_hand():
    real = numpy_ranks.real_scores(
        [[0.5, 0.9, 0.9, 7.0]], [[True, True, True, False]], name="scores"
    )
    row, column = np.array([0, 0, 0]), np.array([0, 1, 2])
    np.testing.assert_array_equal(numpy_ranks.ranks_of(real, row, column), [3, 1, 2])


def test_in_top_breaks_ties_by_position():
    real = numpy_ranks.real_scores([[1.0, 2.0, 1.0, 1.0]], [[True] * 4], name="scores")
    got = numpy_ranks.in_top(real, 2)
    np.testing.assert_array_equal(got, [[True, True, False, False]])


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_an_invalid_cutoff_raises_an_error(k):
    with pytest.raises(ValueError, match=f"`k` must be a positive integer.*k={k}"):
        numpy_ranks.in_top(np.zeros((1, 2)), k)


@pytest.mark.parametrize("ties", [True, False])
def test_ranks_in_numpy_and_in_the_graph_are_the_same(ties):
    scores, _, _, mask = ragged_batch(ties=ties, dtype=np.float32)
    row, column = np.nonzero(mask)
    real = numpy_ranks.real_scores(scores, mask, name="scores")
    np.testing.assert_array_equal(
        numpy_ranks.ranks_of(real, row, column),
        graph_ranks.ranks(scores, mask).numpy()[row, column],
    )


@pytest.mark.parametrize("ties", [True, False])
def test_counting_and_sorting_give_the_same_ranks(ties):
    scores, _, _, mask = ragged_batch(ties=ties)
    real = numpy_ranks.real_scores(scores, mask, name="scores")
    row, column = np.nonzero(mask)
    np.testing.assert_array_equal(
        numpy_ranks._ranks_by_counting(real, row, column),
        numpy_ranks._ranks_by_sorting(real, row, column),
    )


@pytest.mark.parametrize("k", [1, 2, 5, 12, 30])
@pytest.mark.parametrize("ties", [True, False])
def test_first_k_is_the_start_of_the_full_order(k, ties):
    scores, _, _, mask = ragged_batch(ties=ties)
    got = numpy_ranks.first_k(numpy_ranks.real_scores(scores, mask, name="scores"), k)
    for found, row, real in zip(got, scores, mask, strict=True):
        want = reference.order(row, real)[:k]
        np.testing.assert_array_equal(found, want + [-1] * (k - len(want)))
