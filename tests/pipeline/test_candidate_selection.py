"""candidate_selection: the highest scores equal a sort."""

import numpy as np
import pytest

from recdistill.pipeline.candidate_selection import highest


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
