"""histogram: percentiles against a sorted list, and no loss in adding up."""

import json
import math

import numpy as np
import pytest

from recdistill.serving.client.histogram import RELATIVE_ERROR, LatencyHistogram


def filled(values):
    histogram = LatencyHistogram()
    for value in values:
        histogram.record(value)
    return histogram


def by_sorting(values, percent):
    """The definition: the value of rank ceil(percent / 100 · n)."""
    ordered = sorted(values)
    rank = max(1, math.ceil(round(percent * len(ordered) / 100, 6)))
    return ordered[rank - 1]


@pytest.mark.parametrize("percent", [0, 1, 50, 90, 99, 99.9, 99.99, 100])
@pytest.mark.parametrize("count", [1, 7, 1000, 20_000])
def test_a_percentile_is_within_the_stated_error_of_the_sorted_list(percent, count):
    values = np.random.default_rng(3).lognormal(-6, 2, count).tolist()
    got, want = filled(values).percentile(percent), by_sorting(values, percent)
    assert abs(got - want) <= RELATIVE_ERROR * want


def test_a_bucket_derived_by_hand():
    """0.75 s lies in [0.5, 1): step (0.75 - 0.5) · 256 = 64, and the middle of that
    bucket, of width 1/256, is 0.75 + 1/512."""
    histogram = filled([0.75, 2.0, 0.5])
    assert histogram.percentile(66) == 0.75 + 1 / 512
    assert (histogram.percentile(100), histogram.max) == (2.0, 2.0)


def test_the_ends_and_the_mean_are_exact():
    histogram = filled([0.011, 0.022, 0.033])
    assert histogram.percentile(100) == 0.033
    assert histogram.mean == pytest.approx(0.022, rel=1e-12)
    assert histogram.count == 3


def test_merging_is_as_recording_all_in_one():
    values = np.random.default_rng(4).exponential(0.01, 300).tolist()
    one, two = filled(values[:100]), filled(values[100:])
    sent = json.loads(json.dumps(two.to_json()))
    one.merge(LatencyHistogram.from_json(sent))
    one.merge(LatencyHistogram())
    whole = filled(values)
    assert one.to_json()["counts"] == whole.to_json()["counts"]
    assert one.percentile(99.9) == whole.percentile(99.9)
    assert one.mean == pytest.approx(whole.mean)


def test_a_million_latencies_take_a_few_hundred_buckets():
    histogram = filled(np.geomspace(1e-4, 1.0, 10_000).tolist())
    assert len(histogram.to_json()["counts"]) < 128 * 15


def test_nothing_recorded_has_no_percentiles():
    empty = LatencyHistogram()
    assert math.isnan(empty.percentile(50)) and math.isnan(empty.mean)
    assert math.isnan(empty.max) and empty.count == 0
    assert json.dumps(empty.to_json(), allow_nan=False)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_latency_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="`seconds` must be finite and not negative"):
        LatencyHistogram().record(value)
    with pytest.raises(ValueError, match="`percent` must be from 0 to 100"):
        LatencyHistogram().percentile(101)
    LatencyHistogram().record(0.0)
