"""moved_means: what moved beyond noise, and how often chance looks like it."""

import numpy as np
import pyarrow as pa
import pytest

from recdistill.evaluation.moved_means import (
    FEWEST,
    Comparison,
    change_json,
    changes,
)


def rows(values, name="overlap@10", start=0):
    """One list for each query."""
    ids = np.arange(start, start + len(values))
    return pa.table({"list_id": ids, "query_id": [f"u{k}" for k in ids], name: values})


def one(before, now, kind="agreement"):
    comparison = Comparison(
        kind, rows(before), rows(now, start=9_000), ["overlap@10"], {}
    )
    [change] = changes([comparison], samples=400)
    return change


def test_the_difference_and_its_interval_are_those_of_two_independent_means():
    rng = np.random.default_rng(1)
    before, now = rng.normal(0.7, 0.2, 800), rng.normal(0.6, 0.2, 600)
    change = one(before, now)
    assert change.difference.value == pytest.approx(now.mean() - before.mean())
    # Half of one per cent of error: one end is 2.576 standard errors away.
    error = np.sqrt(before.var() / 800 + now.var() / 600)
    half = change.difference.high - change.difference.value
    assert half == pytest.approx(2.576 * error, rel=0.1)
    assert change.is_worse
    assert change.in_words() == (
        f"overlap@10 fell from {before.mean():.4f} to {now.mean():.4f}."
    )


def test_more_is_worse_for_unknown_values_and_better_for_agreement():
    low, high = np.zeros(100), np.tile([0.0, 0.5], 50)
    assert one(low, high, "unknown values").is_worse
    assert not one(high, low, "unknown values").is_worse
    assert not one(low, high).is_worse
    assert one(high, low).is_worse


def test_a_change_below_the_margin_is_not_worse_however_sure_it_is():
    assert not one(np.full(90, 0.5), np.full(90, 0.495)).is_worse
    assert one(np.full(90, 0.5), np.full(90, 0.48)).is_worse


@pytest.mark.parametrize("queries", [FEWEST, 60, 200])
def test_a_rare_metric_that_is_0_in_a_small_sample_has_not_fallen(queries):
    # One list of 25 has a hit; 30 lists have none with a probability of 29 %.
    before = np.tile([1.0] + 24 * [0.0], 40)
    change = one(before, np.zeros(queries))
    deviation = np.sqrt(0.04 * 0.96)
    error = deviation * np.sqrt(1 / 1000 + 1 / queries)
    half = change.difference.high - change.difference.value
    assert half == pytest.approx(2.576 * error, rel=0.1)
    assert change.is_worse == (queries == 200)


def test_few_queries_have_no_interval_of_the_difference():
    change = one(np.tile([0.0, 1.0], 200), np.zeros(FEWEST - 1))
    assert not change.is_worse
    assert change.difference.value is None
    assert change.difference.reason == "fewer than 30 queries"


def test_queries_without_a_value_do_not_count():
    now = np.full(200, np.nan)
    now[: FEWEST - 1] = 0.0
    change = one(np.tile([0.0, 1.0], 200), now)
    assert change.queries == (400, FEWEST - 1)
    assert change.difference.reason == "fewer than 30 queries"
    everywhere = np.ones(200, bool)
    found = changes(
        [
            Comparison(
                "agreement",
                rows(np.full(200, 0.8)),
                rows(now),
                ["overlap@10"],
                {("item", "new"): (everywhere, everywhere)},
            )
        ],
        samples=50,
    )
    assert [change.part for change in found] == [None]
    # Of 40 queries with a value, the interval is that of 40 queries.
    now[:40] = np.tile([0.0, 1.0], 20)
    half = one(np.tile([0.0, 1.0], 200), now).difference.high
    assert half == pytest.approx(2.576 * 0.5 * np.sqrt(1 / 400 + 1 / 40), rel=0.15)


def test_two_samples_of_the_same_values_are_worse_in_at_most_two_of_a_hundred():
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(200):
        draws = [
            pa.table(
                {
                    "list_id": np.arange(size),
                    # Two lists of each query, which resemble each other.
                    "query_id": [f"u{k // 2}" for k in range(size)],
                    **{
                        name: np.clip(
                            0.6
                            + np.repeat(rng.normal(0, 0.2, size // 2), 2)
                            + rng.normal(0, 0.1, size),
                            0,
                            1,
                        )
                        for name in ("a", "b", "c")
                    },
                }
            )
            for size in (400, 200)
        ]
        found = changes(
            [Comparison("agreement", *draws, ["a", "b", "c"], {})], samples=200
        )
        alarms += any(change.is_worse for change in found)
    assert alarms <= 4


def test_a_slice_that_moved_is_named_and_a_small_one_is_left_out():
    before, now = np.full(200, 0.8), np.full(200, 0.8)
    now[:50] = 0.2
    part = np.arange(200) < 50
    few = np.arange(200) < FEWEST - 1
    slices = {("item", "new"): (part, part), ("item", "tail"): (few, few)}
    names = ["overlap@10"]
    found = changes(
        [Comparison("agreement", rows(before), rows(now), names, slices)], samples=50
    )
    assert [change.part for change in found] == [None, ("item", "new")]
    assert found[1].is_worse
    assert "in the slice item new fell from 0.8000 to 0.2000" in found[1].in_words()
    assert change_json(found[1])["slice"] == ["item", "new"]


def test_a_mean_without_an_interval_is_not_worse_and_has_a_reason():
    change = one(np.array([0.9]), np.array([0.1]))
    assert not change.is_worse
    assert "one query" in change_json(change)["difference"]["reason"]
