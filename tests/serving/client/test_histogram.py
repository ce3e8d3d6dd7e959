"""histogram: percentiles against NumPy's."""

import math
from fractions import Fraction

import numpy as np
import pytest

from recdistill.serving.client.histogram import RELATIVE_ERROR, LatencyHistogram


def filled(values):
    histogram = LatencyHistogram()
    for value in values:
        histogram.record(value)
    return histogram


@pytest.mark.parametrize("percent", [0, 1, 50, 90, 99, 99.9, 99.99, 100])
@pytest.mark.parametrize("count", [1, 7, 1000, 20_000])
def test_a_percentile_is_the_nearest_rank_within_the_stated_error(percent, count):
    values = np.random.default_rng(3).lognormal(-6, 2, count)
    rank = max(1, math.ceil(Fraction(str(percent)) * count / 100))
    want = np.sort(values)[rank - 1]
    got = filled(values.tolist()).percentile(percent)
    assert abs(got - want) <= RELATIVE_ERROR * want
    if percent != 99.9:  # NumPy rounds 0.999 · 1000 up.
        numpys = np.percentile(values, percent, method="inverted_cdf")
        assert numpys == want


def test_the_99th_percentile_of_100_values_is_the_99th_value():
    """Nearest rank: rank ceil(0.99 · 100) = 99; interpolation would give 1.99."""
    histogram = filled([1.0] * 98 + [2.0, 100.0])
    assert histogram.percentile(99) == pytest.approx(2.0, rel=RELATIVE_ERROR)
    assert histogram.percentile(98) == pytest.approx(1.0, rel=RELATIVE_ERROR)


def test_a_percentile_is_the_middle_of_its_bucket():
    """0.75 s lies in [0.5, 1): step (0.75 - 0.5) · 256 = 64, and the middle of that
    bucket, of width 1/256, is 0.75 + 1/512."""
    histogram = filled([0.75, 2.0, 0.5])
    assert histogram.percentile(66) == 0.75 + 1 / 512
    assert (histogram.percentile(100), histogram.max) == (2.0, 2.0)


def test_maximum_and_mean_are_exact():
    histogram = filled([0.011, 0.022, 0.033])
    assert histogram.percentile(100) == 0.033
    assert histogram.mean == pytest.approx(0.022, rel=1e-12)
    assert histogram.count == 3


def test_many_latencies_need_few_buckets():
    histogram = filled(np.geomspace(1e-4, 1.0, 10_000).tolist())
    assert len(histogram._counts) < 128 * 15


def test_statistics_of_an_empty_histogram_are_nan():
    empty = LatencyHistogram()
    assert math.isnan(empty.percentile(50)) and math.isnan(empty.mean)
    assert math.isnan(empty.max) and empty.count == 0


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_an_invalid_latency_is_an_error(value):
    with pytest.raises(ValueError, match="`seconds` must be finite and not negative"):
        LatencyHistogram().record(value)
    with pytest.raises(ValueError, match="`percent` must be from 0 to 100"):
        LatencyHistogram().percentile(101)
    LatencyHistogram().record(0.0)
