"""Bootstrap intervals: values by hand, coverage, pairing and missing numbers."""

import numpy as np
import pytest

from recdistill.evaluation.intervals import (
    Interval,
    bootstrap,
    gap_closed,
    kept,
    means_and_difference,
    paired_difference,
)
from tests.evaluation.metric_rows import table


def noise(seed, size=200, mean=0.5, scale=0.1):
    return np.random.default_rng(seed).normal(mean, scale, size)


def width(interval):
    return interval.high - interval.low


def test_values_derived_by_hand():
    baseline, student, teacher = [0.1, 0.2, 0.3], [0.2, 0.4, 0.3], [0.4, 0.5, 0.6]
    tables = [table(values) for values in (baseline, student, teacher)]
    alone, distilled, best = (0.1 + 0.2 + 0.3) / 3, (0.2 + 0.4 + 0.3) / 3, 1.5 / 3
    assert bootstrap(tables[0])["mrr"].value == pytest.approx(alone)
    difference = paired_difference(tables[1], tables[0])["mrr"]
    assert difference.value == pytest.approx(distilled - alone)
    closed = gap_closed(*tables)["mrr"]
    assert closed.value == pytest.approx((distilled - alone) / (best - alone))
    assert kept(tables[1], tables[2])["mrr"].value == pytest.approx(distilled / best)


def test_mean_is_over_lists_not_over_queries():
    rows = table([1.0, 1.0, 1.0, 0.0], queries=["ann", "ann", "ann", "bob"])
    mean = bootstrap(rows)["mrr"]
    assert mean.value == 3 / 4
    # Two queries have four resamples: means 1, 3/4 (twice) and 0.
    assert (mean.low, mean.high) == (0.0, 1.0)


def test_the_interval_matches_the_normal_approximation():
    values = noise(0, size=400)
    got = bootstrap(table(values), samples=4000)["mrr"]
    error = 1.96 * values.std() / np.sqrt(400)
    assert got.low == pytest.approx(values.mean() - error, abs=error / 10)
    assert got.high == pytest.approx(values.mean() + error, abs=error / 10)


GAINS = 1 / np.log2(np.arange(2, 12))
"""NDCG of a list whose only relevant item is at rank 1, 2, … 10."""


def simulated(seed, queries=100):
    """NDCG of lists of queries that differ in quality and in their number of lists.

    A query has 1 to 6 lists, n, and finds the item of a list with a probability from a
    beta distribution with mean 0.1 + 0.02 n: active queries are easier.
    """
    rng = np.random.default_rng(seed)
    lists = rng.integers(1, 7, queries)
    mean = 0.1 + 0.02 * lists
    found = np.repeat(rng.beta(4 * mean, 4 * (1 - mean)), lists)
    hit = rng.random(len(found)) < found
    values = np.where(hit, rng.choice(GAINS, len(found)), 0.0)
    return table(values, queries=np.repeat(np.arange(queries), lists))


@pytest.mark.slow
def test_the_interval_covers_the_true_mean_in_95_percent_of_1000_data_sets():
    # The mean over lists: E[n (0.1 + 0.02 n)] / E[n], with E[n] = 3.5, E[n²] = 91 / 6.
    true = (0.1 * 3.5 + 0.02 * 91 / 6) / 3.5 * GAINS.mean()
    covered = 0
    for seed in range(1_000):
        interval = bootstrap(simulated(seed), samples=300, seed=seed)["mrr"]
        covered += not interval.excludes(true)
    assert 0.93 <= covered / 1_000 <= 0.97


def test_copies_of_a_list_within_a_query_do_not_narrow_the_interval():
    values = noise(1, size=100)
    once = bootstrap(table(values))["mrr"]
    copied = np.repeat(values, 4)
    clustered = bootstrap(table(copied, queries=np.repeat(range(100), 4)))["mrr"]
    taken_for_new = bootstrap(table(copied))["mrr"]
    assert width(clustered) == pytest.approx(width(once))
    assert width(taken_for_new) == pytest.approx(width(once) / np.sqrt(4), rel=0.2)


def test_the_same_seed_gives_the_same_interval_for_rows_in_any_order():
    rows = table(noise(2), queries=np.repeat(range(50), 4))
    shuffled = rows.take(np.random.default_rng(0).permutation(len(rows)))
    first = bootstrap(rows, seed=7)["mrr"]
    assert bootstrap(shuffled, seed=7)["mrr"] == first
    assert bootstrap(rows, seed=8)["mrr"] != first


def test_resamples_drawn_in_chunks_give_the_same_interval(monkeypatch):
    rows = table(noise(3))
    whole = bootstrap(rows)["mrr"]
    monkeypatch.setattr("recdistill.evaluation.intervals._CHUNK_DRAWS", 700)
    chunked = bootstrap(rows)["mrr"]
    assert chunked.low == pytest.approx(whole.low, abs=width(whole) / 10)
    assert chunked.high == pytest.approx(whole.high, abs=width(whole) / 10)


def test_a_higher_confidence_level_gives_a_wider_interval():
    rows = table(noise(4))
    narrow, wide = (bootstrap(rows, confidence=c)["mrr"] for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_the_paired_interval_is_narrower_than_separate_intervals():
    base = noise(5, scale=0.3)
    better = table(base + noise(6, mean=0.01, scale=0.01))
    difference = paired_difference(better, table(base))["mrr"]
    apart = [bootstrap(rows)["mrr"] for rows in (better, table(base))]
    assert difference.excludes(0)
    assert apart[0].low < apart[1].high
    assert width(difference) < width(apart[0]) / 10


def test_means_and_their_difference_are_those_of_separate_calls():
    rng = np.random.default_rng(4)
    queries = rng.integers(0, 30, 200)
    one, other = (table(rng.random(200), queries) for _ in range(2))
    settings = {"samples": 200, "seed": 3, "confidence": 0.9}
    got = means_and_difference(one, other, "mrr", **settings)
    want = (
        bootstrap(one, ["mrr"], **settings)["mrr"],
        bootstrap(other, ["mrr"], **settings)["mrr"],
        paired_difference(one, other, ["mrr"], **settings)["mrr"],
    )
    for found, expected in zip(got, want, strict=True):
        ends = (found.value, found.low, found.high)
        assert ends == pytest.approx((expected.value, expected.low, expected.high))


def test_the_difference_of_a_model_from_itself_is_0():
    rows = table(noise(7))
    reordered = rows.take(np.arange(len(rows))[::-1])
    assert paired_difference(rows, reordered)["mrr"] == Interval(0.0, 0.0, 0.0)
    assert kept(rows, reordered)["mrr"] == Interval(1.0, 1.0, 1.0)


def test_the_gap_closed_is_0_for_the_baseline_and_1_for_the_teacher():
    baseline, teacher = table(noise(8)), table(noise(8) + 0.2)
    assert gap_closed(baseline, baseline, teacher)["mrr"] == Interval(0.0, 0.0, 0.0)
    assert gap_closed(baseline, teacher, teacher)["mrr"] == Interval(1.0, 1.0, 1.0)


def test_the_scale_of_a_metric_does_not_change_ratios():
    values = [noise(9), noise(9) + noise(10, mean=0.1), noise(9) + 0.2]
    once = gap_closed(*(table(v) for v in values))["mrr"]
    scaled = gap_closed(*(table(8 * v) for v in values))["mrr"]
    assert (scaled.low, scaled.value, scaled.high) == pytest.approx(
        (once.low, once.value, once.high)
    )
    assert width(once) > 0


def test_without_a_gap_the_gap_closed_is_none_with_a_reason():
    baseline, student = table(noise(11)), table(noise(12))
    closed = gap_closed(baseline, student, table(noise(13)))["mrr"]
    assert closed.value is None
    assert closed.reason == "teacher and baseline do not differ beyond noise"
    worse = gap_closed(baseline, student, table(noise(11) - 0.2))["mrr"]
    assert worse.value is None
    assert worse.reason == "the teacher is worse than the baseline"


def test_one_query_has_a_value_and_no_interval():
    rows = table([0.2, 0.4], queries=["ann", "ann"])
    mean = bootstrap(rows)["mrr"]
    assert mean.value == pytest.approx(0.3)
    assert (mean.low, mean.high) == (None, None)
    assert mean.reason == "one query is too few for an interval"
    assert not mean.excludes(99.0)
    assert gap_closed(rows, rows, table([1, 1], ["ann", "ann"]))["mrr"] == Interval(
        None, reason="one query is too few for an interval"
    )


def test_lists_without_a_value_are_left_out():
    values = noise(14, size=60)
    with_gaps = np.concatenate([values, np.full(20, np.nan)])
    assert bootstrap(table(with_gaps))["mrr"].value == pytest.approx(values.mean())
    nothing = bootstrap(table([np.nan, np.nan]))["mrr"]
    assert nothing == Interval(None, reason="no list has a value")
    assert bootstrap(table([]))["mrr"] == nothing


def test_there_is_no_interval_if_some_resamples_have_no_value():
    mean = bootstrap(table([0.25, 0.75, np.nan, np.nan, np.nan]))["mrr"]
    assert mean.value == 0.5
    assert mean.low is None
    assert mean.reason == "the estimate is undefined for some resamples"


def test_the_share_kept_of_a_teacher_with_mean_0_is_undefined():
    zero = kept(table([0.1, 0.2]), table([0.0, 0.0]))["mrr"]
    assert zero == Interval(None, reason="the teacher's mean is 0")
    at_times = kept(table([0.0, 0.2]), table([0.0, 0.4]))["mrr"]
    assert at_times.value == pytest.approx(0.5)
    assert at_times.low is None


def test_each_metric_has_its_own_gaps():
    rows = table([0.2, np.nan, 0.4]).append_column("rbo", [[np.nan, 1.0, 0.0]])
    means = bootstrap(rows)
    assert means["mrr"].value == pytest.approx(0.3)
    assert means["rbo"].value == pytest.approx(0.5)
    assert list(bootstrap(rows, ["rbo"])) == ["rbo"]


def test_tables_of_different_lists_are_refused():
    rows = table([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"same lists.*list_id differs"):
        paired_difference(rows, rows.slice(1))
    with pytest.raises(ValueError, match=r"same lists.*query_id differs"):
        paired_difference(rows, table([0.1, 0.2, 0.3], queries=["a", "b", "c"]))
    with pytest.raises(ValueError, match="NaN in one table only"):
        paired_difference(rows, table([0.1, 0.2, np.nan]))
    with pytest.raises(ValueError, match=r"must have the columns \['ndcg@10'\]"):
        paired_difference(rows, rows, ["ndcg@10"])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_must_be_between_zero_and_one(confidence):
    with pytest.raises(ValueError, match=f"`confidence`.*confidence={confidence}"):
        bootstrap(table([0.1, 0.2]), confidence=confidence)


def test_samples_must_be_positive():
    with pytest.raises(ValueError, match=r"`samples` must be at least 1.*samples=0"):
        bootstrap(table([0.1, 0.2]), samples=0)
