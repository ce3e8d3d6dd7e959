"""candidate_selection: the highest scores equal a sort."""

import numpy as np
import pytest

from recdistill.data.ragged import Ragged
from recdistill.pipeline.candidate_selection import highest, highest_of_parts


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
