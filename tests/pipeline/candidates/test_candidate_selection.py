"""candidate_selection: the highest scores equal a sort."""

import numpy as np
import pytest

from recdistill.data.ragged import Ragged
from recdistill.pipeline.candidates.candidate_selection import (
    highest,
    highest_of_parts,
    sampled_columns,
)


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
    # All high scores are where a row is read for the threshold, or none of them is.
    read = sampled_columns(800)
    others = np.setdiff1d(np.arange(800), read)
    scores = np.zeros((2, 800), "float32")
    scores[0, read] = np.arange(100) + 1.0
    scores[1, others[:100]] = np.arange(100) + 1.0
    got = highest(scores, 110)
    np.testing.assert_array_equal(got[0, :100], read[::-1])
    np.testing.assert_array_equal(got[1, :100], others[99::-1])
    np.testing.assert_array_equal(got[0, 100:], others[:10])


def test_the_highest_scores_of_a_long_row_with_a_period_are_those_of_a_sort():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 200_000)).astype("float32")
    scores[:, 7::50] += 5.0
    scores[2:] = np.round(scores[2:])
    want = np.argsort(-scores, axis=1, kind="stable")[:, :300]
    np.testing.assert_array_equal(highest(scores, 300), want)


@pytest.mark.parametrize("columns", [1, 9, 800, 1_000_003])
def test_the_sample_has_a_column_of_each_group_of_neighbours(columns):
    read = sampled_columns(columns)
    group = max(8, columns // 2**13)
    assert (read // group).tolist() == list(range(-(-columns // group)))
    assert read[-1] < columns


@pytest.mark.parametrize("seed", range(40))
def test_the_highest_scores_of_parts_are_those_of_a_loop_over_all(seed):
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(0, 6)), int(rng.integers(1, 400))
    count = int(rng.integers(1, columns + 1)) // (1 + seed % 5) or 1
    scores = rng.normal(size=(rows, columns)).astype("float32")
    if seed % 3 == 0:
        scores = np.round(scores)
    if seed % 4 == 0:
        scores[rng.random(scores.shape) < 0.3] = -np.inf
    if seed % 5 == 0:
        scores.sort(axis=1)  # each part has the highest scores so far
    without = [
        rng.choice(columns, rng.integers(0, 1 + columns // (1 + seed % 2)), False)
        for _ in range(rows)
    ]
    offsets = np.cumsum([0, *map(len, without)])
    excluded = Ragged(np.concatenate([np.array([], int), *without]), offsets)

    edges = np.sort(rng.choice(columns, min(columns, 4), replace=False))
    parts = [part for part in np.split(scores, edges, axis=1) if part.shape[1]]
    got = highest_of_parts(iter(parts), count, excluded)

    assert got.shape == (rows, count)
    for row in range(rows):
        real = [k for k in range(columns) if scores[row, k] > -np.inf]
        free = [k for k in real if k not in set(without[row])]
        want = sorted(free, key=lambda k: (-scores[row, k], k))[:count]
        assert got[row].tolist() == want + [-1] * (count - len(want))
