"""Paired permutation tests: values by hand, plain loops, SciPy, and error rates."""

import itertools

import numpy as np
import pytest
from scipy import stats

from recdistill.evaluation.paired_tests import (
    adjusted,
    holm,
    paired_tests,
    permutation_p_values,
    resamples,
    slice_tests,
)
from tests.evaluation.metric_rows import table


def compared(reference, other, queries=None, **settings):
    settings = {"samples": 200, "seed": 0} | settings
    a, b = table(reference, queries), table(other, queries)
    return paired_tests(a, b, **settings)["mrr"]


def test_values_derived_by_hand():
    # Differences: +0.3, +0.1, 0, -0.1. Their sum is 0.3; of the 8 signs of the three
    # that are not 0, four sums are at least that large: ±(3+1-1), ±(3-1+1), ±(3+1+1),
    # in tenths, so 6 of 8.
    test = compared([0.1, 0.2, 0.5, 0.4], [0.4, 0.3, 0.5, 0.3])
    assert test.p_value == 6 / 8
    assert test.difference.value == pytest.approx(0.3 / 4)
    assert test.relative == pytest.approx(0.3 / 1.2)
    assert (test.wins, test.ties, test.losses) == (2, 1, 1)
    mean, squares = 0.075, 0.225**2 + 0.025**2 + 0.075**2 + 0.175**2
    assert test.effect_size == pytest.approx(mean / np.sqrt(squares / 3))
    assert (test.lists, test.queries) == (4, 4)


def by_plain_loop(sums):
    """The share of all sign flips with a sum at least as large as the observed one."""
    observed = abs(sum(sums))
    flips = list(itertools.product([1, -1], repeat=len(sums)))
    reached = [
        abs(sum(s * d for s, d in zip(signs, sums, strict=True))) for signs in flips
    ]
    return sum(one >= observed - 1e-12 for one in reached) / len(flips)


def test_the_exact_p_value_is_that_of_a_plain_loop_and_of_scipy():
    for seed in range(6):
        sums = np.random.default_rng(seed).normal(0.4, 1.0, size=9).round(1)
        got = permutation_p_values(sums[:, None], samples=10_000)[0]
        assert got == by_plain_loop(sums.tolist())
        scipy_value = stats.permutation_test(
            (sums, np.zeros(9)),
            lambda x, y, axis: (x - y).mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        ).pvalue
        assert got == pytest.approx(scipy_value)


def test_random_exchanges_estimate_the_exact_p_value():
    sums = np.random.default_rng(3).normal(0.5, 1.0, size=(12, 1))
    exact = permutation_p_values(sums, samples=10_000)[0]
    drawn = permutation_p_values(sums, samples=4_000, seed=5)[0]
    assert drawn == pytest.approx(exact, abs=0.03)
    assert drawn != exact


def test_the_p_value_agrees_with_the_paired_t_test_on_many_normal_differences():
    change = np.random.default_rng(8).normal(0.1, 1.0, size=(400, 1))
    got = permutation_p_values(change, samples=10_000)[0]
    assert got == pytest.approx(stats.ttest_1samp(change[:, 0], 0).pvalue, abs=0.02)


def test_without_a_difference_small_p_values_are_as_rare_as_their_level():
    rng = np.random.default_rng(0)
    differences = rng.exponential(size=(60, 600)) - rng.exponential(size=(60, 600))
    found = permutation_p_values(differences, samples=499) <= 0.05
    assert 0.03 < found.mean() < 0.07


def test_equal_models_have_p_value_1_and_only_ties():
    test = compared([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert test.p_value == 1.0
    assert (test.wins, test.ties, test.losses) == (0, 3, 0)
    assert test.effect_size is None
    assert not test.is_significant


def test_the_lists_of_a_query_are_exchanged_together():
    queries = ["ann"] * 8 + ["bob"] * 8
    better = np.linspace(0.1, 0.9, 16)
    test = compared(better - 0.05, better, queries)
    # Two queries have four exchanges, and two of them give the observed difference.
    assert test.p_value == 2 / 4
    assert (test.wins, test.lists, test.queries) == (2, 16, 2)
    assert compared(better - 0.05, better, samples=9_999).p_value < 0.001


def test_a_few_queries_are_never_significant():
    test = compared([0.0] * 5, [1.0] * 5, samples=10_000)
    assert test.p_value == 2 / 2**5
    assert test.difference.excludes(0)  # the bootstrap is overconfident here
    assert not test.is_significant


def test_lists_without_a_value_are_left_out():
    values = [0.1, np.nan, 0.4, 0.2], [0.3, np.nan, 0.4, 0.1]
    test = compared(*values)
    assert (test.lists, test.wins, test.ties, test.losses) == (3, 1, 1, 1)
    nothing = compared([np.nan, np.nan], [np.nan, np.nan])
    assert nothing.p_value is None
    assert nothing.queries == 0
    assert compared([], []).p_value is None


def test_holm_multiplies_and_keeps_the_order():
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1; none below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_is_that_of_a_plain_loop():
    p_values = np.random.default_rng(1).uniform(size=7).round(2).tolist()

    def rejected_at(level):
        """Holm's step-down procedure: stop at the first that is not rejected."""
        order, found = np.argsort(p_values, kind="stable"), set()
        for place, i in enumerate(order):
            if p_values[i] > level / (len(p_values) - place):
                break
            found.add(int(i))
        return found

    for level in (0.05, 0.1, 0.2, 0.4, 0.8):
        adjusted_values = holm(p_values)
        assert {i for i in range(7) if adjusted_values[i] <= level} == rejected_at(
            level
        )


def test_the_correction_counts_comparisons_with_a_p_value_only():
    strong = compared([0.0] * 9, [1.0] * 9, samples=10_000)
    nothing = compared([], [])
    found = adjusted([strong, nothing, strong])
    assert found[0].adjusted_p == pytest.approx(2 * strong.p_value)
    assert found[1].adjusted_p is None
    assert found[0].is_significant


def test_each_slice_is_compared_and_the_p_values_are_corrected():
    reference = table([0.5] * 12)
    other = table([0.1] * 6 + [0.9] * 6)
    place = np.arange(12)
    slices = {
        "item": {"tail": place < 6, "head": place >= 6},
        "query": {"new": place > 8},
    }
    tail, head, new = slice_tests(reference, other, slices, "mrr", samples=9_999)
    assert [(each.kind, each.name) for each in (tail, head, new)] == [
        ("item", "tail"),
        ("item", "head"),
        ("query", "new"),
    ]
    assert tail.test.difference.value == pytest.approx(-0.4)
    assert tail.test.p_value == 2 / 2**6
    assert tail.test.adjusted_p == pytest.approx(3 * 2 / 2**6)
    assert head.test.difference.value == pytest.approx(0.4)
    assert (new.test.wins, new.test.lists) == (3, 3)


def test_the_number_of_resamples_falls_with_the_number_of_queries():
    assert resamples(0) == resamples(943) == 10_000
    assert resamples(100_000) == 2_000
    assert resamples(10_000_000) == 1_000


def test_samples_must_be_positive():
    with pytest.raises(ValueError, match=r"`samples` must be at least 1.*samples=0"):
        permutation_p_values(np.zeros((2, 1)), samples=0)
