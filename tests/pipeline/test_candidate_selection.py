"""candidate_selection: the highest scores equal a sort, and the tail is uniform."""

import numpy as np
import pytest

from recdistill.data.ragged import Ragged
from recdistill.pipeline.candidate_selection import highest, mixed, uniform_tail


@pytest.mark.parametrize("seed", range(40))
def test_the_highest_scores_are_those_of_a_stable_sort(seed):
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 6)), int(rng.integers(1, 900))
    count = int(rng.integers(0, columns + 1)) // (1 + seed % 9)
    scores = rng.normal(size=(rows, columns)).astype("float32")
    if seed % 3 == 0:
        scores = np.round(scores)  # many ties, and zeros of both signs
    if seed % 4 == 0:
        scores[rng.random(scores.shape) < 0.3] = -np.inf
    if seed % 5 == 0:
        scores.sort(axis=1)  # the sampled columns are as good as any
    want = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(highest(scores, count), want)


def test_high_scores_that_the_sample_reads_alone_do_not_hide_the_others():
    # Every eighth column is read for the threshold, and all high scores are there.
    scores = np.zeros((2, 800), "float32")
    scores[0, ::8] = np.arange(100) + 1.0
    scores[1, 1::8] = np.arange(100) + 1.0
    got = highest(scores, 110)
    np.testing.assert_array_equal(got[0, :100], np.arange(99, -1, -1) * 8)
    np.testing.assert_array_equal(got[1, :100], np.arange(99, -1, -1) * 8 + 1)
    np.testing.assert_array_equal(got[0, 100:], [1, 2, 3, 4, 5, 6, 7, 9, 10, 11])


def taken_of(free):
    """The columns that are not free, as rows of unequal length."""
    lengths = np.concatenate([[0], np.cumsum((~free).sum(axis=1))])
    return Ragged(np.nonzero(~free)[1], lengths)


@pytest.mark.parametrize("seed", range(20))
def test_a_tail_holds_free_columns_once_and_in_order(seed):
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 6)), int(rng.integers(1, 200))
    free = rng.random((rows, columns)) < rng.random()
    count = int(rng.integers(0, columns + 3)) // (1 + seed % 2 * 20)
    keys = rng.integers(2**63, size=rows).astype("uint64")
    got, left = uniform_tail(taken_of(free), columns, count, keys)
    np.testing.assert_array_equal(left, free.sum(axis=1))
    for drawn, row in zip(got, free, strict=True):
        real = drawn[drawn >= 0]
        assert len(real) == min(count, row.sum())
        assert (np.diff(real) > 0).all()
        assert row[real].all()
        assert (drawn[len(real) :] == -1).all()


@pytest.mark.parametrize(
    ("columns", "taken"), [(13, [3, 7]), (13, [2, 3, 4, 5, 6, 7, 8]), (21, [0, 20])]
)
def test_free_columns_and_pairs_of_them_are_equally_likely(columns, taken):
    # 4 of m free columns: a column in 4/m of the draws, a pair in 4/m * 3/(m - 1).
    rows, left = 20_000, np.setdiff1d(np.arange(columns), taken)
    free = np.ones((rows, columns), bool)
    free[:, taken] = False
    keys = np.arange(rows, dtype="uint64") * np.uint64(10**9)
    drawn, _ = uniform_tail(taken_of(free), columns, 4, keys)
    held = np.zeros(free.shape)
    np.put_along_axis(held, drawn, 1.0, axis=1)
    shares = held.T @ held / rows
    found, size = shares[np.ix_(left, left)], len(left)
    # Standard errors are below .0035.
    np.testing.assert_allclose(np.diag(found), 4 / size, atol=0.014)
    off = ~np.eye(size, dtype=bool)
    np.testing.assert_allclose(found[off], 4 / size * 3 / (size - 1), atol=0.014)
    assert shares[taken].sum() == 0.0


def test_the_tail_of_a_row_depends_on_its_own_key_only():
    rng = np.random.default_rng(0)
    free = rng.random((6, 50)) < 0.6
    keys = np.arange(6, dtype="uint64") * np.uint64(977)
    whole, _ = uniform_tail(taken_of(free), 50, 7, keys)
    for k in range(6):
        own, _ = uniform_tail(taken_of(free[k : k + 1]), 50, 7, keys[k : k + 1])
        np.testing.assert_array_equal(own[0], whole[k])
    other, _ = uniform_tail(taken_of(free), 50, 7, keys + np.uint64(1))
    assert (other != whole).any()


def test_the_tail_of_a_large_catalogue_is_the_first_distinct_draws_of_the_key():
    columns, taken = 40, [[], [0, 1, 2], [5, 30, 39]]
    rows = Ragged(np.array([0, 1, 2, 5, 30, 39]), np.array([0, 0, 3, 6]))
    drawn, _ = uniform_tail(rows, columns, 9, np.array([1, 50, 900], "uint64"))
    for key, own, got in zip([1, 50, 900], taken, drawn, strict=True):
        free = sorted(set(range(columns)) - set(own))
        want: set[int] = set()
        number = 0
        while len(want) < 9:
            bits = int(mixed(np.array([key + number], "uint64"))[0])
            want.add(free[bits % len(free)])
            number += 1
        assert got.tolist() == sorted(want)
