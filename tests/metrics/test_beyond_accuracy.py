"""beyond_accuracy: coverage, concentration, popularity and diversity of top lists."""

import math

import numpy as np
import pytest

from recdistill.metrics import beyond_accuracy as beyond

TOP = np.array([[0, 1, -1], [0, 2, 4], [-1, -1, -1]])


def test_values_derived_by_hand():
    # Recommended 2, 1, 1, 0 and 1 times.
    assert beyond.catalogue_coverage(TOP, 5) == 4 / 5
    assert beyond.gini_index(TOP, 5) == pytest.approx(
        (-4 * 0 - 2 * 1 + 0 * 1 + 2 * 1 + 4 * 2) / (5 * 5)
    )
    popularity = [6, 2, 0, 9, 3]
    np.testing.assert_array_equal(
        beyond.mean_popularity(TOP, popularity), [4.0, 3.0, np.nan]
    )
    bits = [-math.log2((n + 1) / 25) for n in popularity]
    np.testing.assert_allclose(
        beyond.novelty(TOP, popularity),
        [(bits[0] + bits[1]) / 2, (bits[0] + bits[2] + bits[4]) / 3, np.nan],
    )
    vectors = [[1, 0], [1, 1], [0, 5], [9, 9], [0, 0]]
    # Item 0 is at right angles to item 2, and item 4 has no direction.
    np.testing.assert_allclose(
        beyond.intra_list_diversity(TOP, vectors), [1 - math.sqrt(0.5), 1.0, np.nan]
    )


def test_diversity_equals_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    vectors, top = rng.normal(size=(20, 4)), rng.integers(-1, 20, (15, 6))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, got in zip(top, beyond.intra_list_diversity(top, vectors), strict=True):
        items = row[row >= 0]
        pairs = [(a, b) for i, a in enumerate(items) for b in items[i + 1 :]]
        want = np.mean([1 - unit[a] @ unit[b] for a, b in pairs])
        assert got == pytest.approx(want)


def test_gini_is_zero_for_equal_use_and_highest_for_a_single_item():
    assert beyond.gini_index([[0, 1], [2, 3]], 4) == 0.0
    assert beyond.gini_index([[3], [3]], 4) == 1 - 1 / 4
    assert math.isnan(beyond.gini_index(np.full((2, 3), -1), 4))


@pytest.mark.parametrize("top", [[[0, 5]], [[-2]], [[0.5]], [0, 1]])
def test_rows_outside_the_catalogue_are_refused(top):
    with pytest.raises(ValueError, match="`top` must be"):
        beyond.catalogue_coverage(top, 5)


def test_a_negative_popularity_is_refused():
    with pytest.raises(ValueError, match=r"`popularity` must be at least 0.*-3"):
        beyond.novelty([[0]], [-3.0])


def test_no_lists_give_no_values():
    empty = np.empty((0, 3), int)
    assert beyond.catalogue_coverage(empty, 5) == 0.0
    assert beyond.mean_popularity(empty, np.ones(5)).shape == (0,)
    assert beyond.intra_list_diversity(empty, np.ones((5, 2))).shape == (0,)
