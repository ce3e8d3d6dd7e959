"""agreement: metrics of two rankings compared with their definitions and SciPy."""

import numpy as np
import pytest
from scipy import stats

from recdistill.metrics import agreement
from tests import reference_metrics as reference
from tests.reference_metrics import ragged_batch

AGREEMENT = reference.AGREEMENT


@pytest.mark.parametrize(("name", "settings"), AGREEMENT.items())
@pytest.mark.parametrize("ties", [True, False])
def test_agreement_matches_its_definition(name, settings, ties):
    teacher, student, _, mask = ragged_batch(ties=ties)
    got = getattr(agreement, name)(teacher, student, mask, **settings)
    want = reference.each_list(
        getattr(reference, name), teacher, student, mask, **settings
    )
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert np.isfinite(got).sum() > 20


def test_values_derived_by_hand():
    # The teacher ranks a b c d, the student b a d c.
    pair = ([[4.0, 3.0, 2.0, 1.0]], [[3.0, 4.0, 1.0, 2.0]], [[True] * 4])
    assert agreement.overlap(*pair, k=1) == [0.0]
    assert agreement.overlap(*pair, k=3) == pytest.approx([2 / 3])
    assert agreement.survival(*pair, k=1, n=2) == [1.0]
    assert agreement.kendall_tau(*pair, k=4) == pytest.approx([(4 - 2) / 6])
    # The squared differences of the ranks are 1, 1, 1 and 1.
    assert agreement.spearman_rho(*pair, k=4) == pytest.approx([1 - 6 * 4 / (4 * 15)])
    p = 0.9
    sum_of_depths = 0 + p * 2 / 2 + p**2 * 2 / 3 + p**3 * 4 / 4
    want = (1 - p) * sum_of_depths + p**4
    assert agreement.rank_biased_overlap(*pair, p=p) == pytest.approx([want])


def test_kendall_tau_agrees_with_scipy_on_the_whole_list():
    rng = np.random.default_rng(5)
    teacher, student = rng.integers(6, size=(2, 9, 20)).astype(float)
    got = agreement.kendall_tau(teacher, student, np.ones((9, 20), bool), k=20)
    want = [
        stats.kendalltau(t, s).statistic for t, s in zip(teacher, student, strict=True)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_a_student_equal_to_the_teacher_agrees_fully():
    scores, _, _, mask = ragged_batch(ties=False)
    for name, settings in AGREEMENT.items():
        values = getattr(agreement, name)(scores, 3 * scores, mask, **settings)
        np.testing.assert_allclose(values[~np.isnan(values)], 1.0, err_msg=name)


def test_reversed_scores_have_kendall_tau_of_minus_one():
    scores, _, _, mask = ragged_batch(ties=False)
    values = agreement.kendall_tau(scores, -np.where(mask, scores, 0), mask, k=12)
    np.testing.assert_allclose(values[~np.isnan(values)], -1.0)


def test_kendall_tau_of_constant_scores_is_nan():
    teacher = [[3.0, 2.0, 1.0]]
    assert np.isnan(agreement.kendall_tau(teacher, [[5.0] * 3], [[True] * 3], k=3))


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5])
def test_persistence_must_be_between_zero_and_one(p):
    with pytest.raises(ValueError, match=f"`p` must be between 0 and 1.*p={p}"):
        agreement.rank_biased_overlap([[1.0]], [[1.0]], [[True]], p=p)


def test_spearman_rho_agrees_with_scipy_on_the_whole_list():
    rng = np.random.default_rng(5)
    teacher, student = rng.integers(6, size=(2, 9, 20)).astype(float)
    got = agreement.spearman_rho(teacher, student, np.ones((9, 20), bool), k=20)
    want = [
        stats.spearmanr(t, s).statistic for t, s in zip(teacher, student, strict=True)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_spearman_rho_of_constant_scores_is_nan():
    teacher = [[3.0, 2.0, 1.0]]
    assert np.isnan(agreement.spearman_rho(teacher, [[5.0] * 3], [[True] * 3], k=3))


def test_an_invalid_score_or_cutoff_raises_an_error():
    mask = np.ones((1, 2), bool)
    with pytest.raises(ValueError, match="`student_scores` must be below infinity"):
        agreement.overlap([[1.0, 2.0]], [[1.0, np.inf]], mask, 2)
    with pytest.raises(ValueError, match="`k` must be a positive"):
        agreement.overlap([[1.0, 2.0]], [[1.0, 0.0]], mask, 0)
