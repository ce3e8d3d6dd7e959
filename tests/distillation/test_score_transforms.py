"""score_transforms: values by hand and against plain loops; common properties."""

from math import asinh, exp, log, log1p, sqrt

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recdistill.distillation.score_transforms import (
    TRANSFORMS,
    effective_candidates,
    log_odds,
    log_rank,
    signed_log,
    transformed,
)
from tests.reference_scores import REFERENCE, effective

MASK = np.array([[True, True, True, True], [True, True, False, False], [False] * 4])
SCORES = np.array(
    [[0.0, 0.0, 0.0, 8.0], [3.0, 1.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0]], "float32"
)
SCALE_FREE = [name for name in TRANSFORMS if name not in ("none", "logit")]


@pytest.fixture
def ragged():
    """Probabilities, so that they suit every transform; ties, and a list of padding."""
    rng = np.random.default_rng(5)
    scores = rng.beta(0.5, 2.0, size=(9, 30))
    scores[0, :6] = scores[0, 7]
    mask = rng.random(scores.shape) < 0.8
    mask[3] = False
    mask[4, 1:] = False
    return scores, mask


def test_none_keeps_the_scores_and_sets_padding_to_zero():
    want = [[0, 0, 0, 8], [3, 1, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(transformed(SCORES, MASK, "none"), want)


def test_z_scores_are_deviations_from_the_mean():
    # The mean is 2, the deviation sqrt((3 * 4 + 36) / 4).
    want = [[-2 / sqrt(12)] * 3 + [6 / sqrt(12)], [1, -1, 0, 0], [0] * 4]
    got = transformed(SCORES, MASK, "z_score")
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_min_max_is_the_position_between_lowest_and_highest():
    got = transformed(SCORES, MASK, "min_max")
    np.testing.assert_array_equal(got, [[0, 0, 0, 1], [1, 0, 0, 0], [0] * 4])


def test_the_signed_logarithm_scales_by_the_mean_distance():
    # Around the mean of 2 the distances are 2, 2, 2 and 6, their mean 3.
    want = [[asinh(-2 / 3)] * 3 + [asinh(2.0)], [asinh(1), asinh(-1), 0, 0], [0] * 4]
    np.testing.assert_allclose(signed_log(SCORES, MASK), want, rtol=1e-6)


def test_probabilities_after_the_signed_logarithm_are_powers_of_large_scores():
    scores = np.zeros((1, 1_000))
    scores[0, :3] = 1_000.0, 500.0, 250.0
    shown = signed_log(scores, np.ones(scores.shape, bool)).numpy()[0]
    # Twice the distance is twice the share at temperature 1, four times it at 1/2.
    mean = 1.75
    ratio = (1_000 - mean) / (500 - mean)
    assert exp(shown[0] - shown[1]) == pytest.approx(ratio, rel=1e-4)
    assert exp((shown[0] - shown[1]) / 0.5) == pytest.approx(ratio**2, rel=1e-4)


def test_log_odds_undo_a_sigmoid():
    logits = np.random.default_rng(2).normal(1.0, 4.0, (3, 40))
    mask = np.ones(logits.shape, bool)
    got = log_odds(1 / (1 + np.exp(-logits)), mask)
    want = transformed(logits, mask, "z_score")
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_log_odds_of_certainties_are_finite():
    scores = np.array([[0.0, 1.0, 0.5, 2.0]], "float32")
    got = log_odds(scores, np.ones((1, 4), bool)).numpy()[0]
    # log(2 ** -24) = -16.6 and its counterpart: z-scores of -1, 1, 0, 1 in that unit.
    end = log(2.0**-24) - log1p(-(2.0**-24))
    values = np.array([end, -end, 0.0, -end])
    want = (values - values.mean()) / values.std()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_log_rank_gives_zipfs_law():
    scores = np.random.default_rng(3).permutation(50)[None].astype("float32")
    shown = log_rank(scores, np.ones((1, 50), bool)).numpy()[0]
    shares = np.exp(shown / 0.5) / np.exp(shown / 0.5).sum()
    rank = 50 - scores[0]
    want = rank**-2.0 / sum(r**-2.0 for r in range(1, 51))
    np.testing.assert_allclose(shares, want, rtol=1e-4)


def test_equal_scores_share_the_mean_of_their_ranks():
    want = [[-log(3)] * 3 + [0], [0, -log(2), 0, 0], [0] * 4]  # (2 + 3 + 4) / 3 = 3
    np.testing.assert_allclose(log_rank(SCORES, MASK), want, rtol=1e-6)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-11)]
)
class TestEveryTransform:
    def test_it_matches_its_definition(self, transform, dtype, tolerance, ragged):
        scores, mask = ragged[0].astype(dtype), ragged[1]
        got = transformed(scores, mask, transform).numpy()
        assert got.dtype == dtype
        want = REFERENCE[transform](scores, mask)
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)

    def test_values_under_padding_change_nothing(
        self, transform, dtype, tolerance, ragged
    ):
        scores, mask = ragged[0].astype(dtype), ragged[1]
        want = transformed(scores, mask, transform).numpy()
        assert (want[~mask] == 0).all()
        for rubbish in (np.nan, np.inf, -1e30, 1e30):
            got = transformed(np.where(mask, scores, rubbish), mask, transform).numpy()
            np.testing.assert_array_equal(got, want)

    def test_more_padding_changes_nothing(self, transform, dtype, tolerance, ragged):
        scores, mask = ragged[0].astype(dtype), ragged[1]
        want = transformed(scores, mask, transform).numpy()
        wider = np.pad(scores, ((0, 0), (0, 7))), np.pad(mask, ((0, 0), (0, 7)))
        got = transformed(*wider, transform).numpy()[:, :30]
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)

    def test_the_order_of_the_candidates_changes_nothing(
        self, transform, dtype, tolerance, ragged
    ):
        scores, mask = ragged[0].astype(dtype), ragged[1]
        order = np.random.default_rng(1).permutation(30)
        want = transformed(scores, mask, transform).numpy()[:, order]
        got = transformed(scores[:, order], mask[:, order], transform).numpy()
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)

    def test_a_constant_list_stays_constant(self, transform, dtype, tolerance):
        scores = np.full((1, 5), 0.1, dtype)
        mask = np.array([[True, True, True, True, False]])
        got = transformed(scores, mask, transform).numpy()
        assert np.ptp(got[mask]) == 0
        if transform in ("z_score", "min_max", "log", "logit"):
            np.testing.assert_array_equal(got, 0)


@pytest.mark.parametrize("transform", SCALE_FREE)
def test_scale_and_offset_change_nothing(transform, ragged):
    scores, mask = ragged
    want = transformed(scores, mask, transform)
    got = transformed(scores * 40.0 - 3.0, mask, transform)
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12),
    st.sampled_from([name for name in TRANSFORMS if name != "logit"]),
)
def test_no_transform_reverses_an_order(values, transform):
    scores = np.array([values], "float32")
    got = transformed(scores, np.ones(scores.shape, bool), transform).numpy()[0]
    assert np.isfinite(got).all()
    order = np.argsort(scores[0], kind="stable")
    assert (np.diff(got[order]) >= 0).all()


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("size", [1e4, 1e38])
def test_scores_of_any_size_are_finite(transform, size):
    scores = np.array([[size, -size, 0.0, size / 2]], "float32")
    got = transformed(scores, np.ones((1, 4), bool), transform).numpy()
    assert np.isfinite(got).all()


def test_a_transform_runs_in_a_graph_with_unknown_sizes():
    signature = [tf.TensorSpec([None, None], d) for d in (tf.float32, tf.bool)]
    for transform in TRANSFORMS:
        function = tf.function(
            lambda s, m, transform=transform: transformed(s, m, transform),
            input_signature=signature,
            autograph=False,
        )
        np.testing.assert_allclose(
            function(SCORES, MASK), transformed(SCORES, MASK, transform), rtol=1e-6
        )


def test_an_unknown_transform_is_an_error():
    with pytest.raises(ValueError, match=r"must be one of none, .* Received: 'zscore'"):
        transformed(SCORES, MASK, "zscore")


def test_scores_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match="`scores` must have the shape of `mask`"):
        transformed(SCORES[:, :3], MASK, "none")


class TestEffectiveCandidates:
    def test_equal_shares_count_each_and_padding_counts_none(self):
        got = effective_candidates(np.zeros((3, 4)), MASK)
        np.testing.assert_allclose(got, [4, 2, 1])

    def test_a_half_and_two_quarters_are_two_and_a_half_bits(self):
        scores = np.log([[1.0, 1.0, 2.0]])
        got = effective_candidates(scores, np.ones((1, 3), bool))
        np.testing.assert_allclose(got, [2**1.5])

    @pytest.mark.parametrize("temperature", [0.25, 1.0, 5.0])
    def test_it_matches_its_definition(self, temperature, ragged):
        scores, mask = ragged[0] * 9, ragged[1]
        got = effective_candidates(scores, mask, temperature)
        np.testing.assert_allclose(got, effective(scores, mask, temperature))

    def test_it_goes_from_one_to_all_with_the_temperature(self, ragged):
        scores, mask = ragged
        cold = effective_candidates(scores * 1e4, mask, 1e-3).numpy()
        hot = effective_candidates(scores, mask, 1e6).numpy()
        assert cold[0] == pytest.approx(1.0) or (scores[0] == scores[0].max()).sum() > 1
        np.testing.assert_allclose(hot, np.maximum(mask.sum(1), 1), rtol=1e-6)
