"""percentiles: nearest rank, derived by hand and against its definition."""

import numpy as np
import pytest

from recdistill.evaluation.latency.percentiles import nearest_rank, percentiles
from recdistill.evaluation.latency.stopwatch import summarize
from recdistill.serving.client.histogram import RELATIVE_ERROR, LatencyHistogram
from recdistill.serving.load_test.request_samples import Percentiles


@pytest.mark.parametrize(
    ("percent", "count", "rank"),
    [
        (50, 100, 50),
        (99, 100, 99),
        (99, 99, 99),  # 98.01 values: only all 99 are at least 99 %.
        (99.9, 1000, 999),  # 99.9 / 100 * 1000 is 999.0000000000001.
        (99.9, 10_000, 9990),
        (50, 1, 1),
        (0, 10, 1),
        (100, 7, 7),
    ],
)
def test_the_rank_is_the_share_of_the_count_rounded_up(percent, count, rank):
    assert nearest_rank(percent, count) == rank


@pytest.mark.parametrize("count", [1, 2, 9, 10, 101, 1000])
@pytest.mark.parametrize("percent", [1, 50, 90, 99, 99.9])
def test_it_is_the_smallest_value_with_that_share_at_or_below_it(percent, count):
    values = np.random.default_rng(count).integers(0, 50, count).astype("float64")
    (got,) = percentiles(values, [percent])
    share = {value: 100 * (values <= value).mean() for value in values}
    assert got == min(value for value in values if share[value] >= percent - 1e-9)


def test_it_is_the_method_inverted_cdf_of_numpy():
    values = np.random.default_rng(0).lognormal(size=777)
    want = np.percentile(values, [50, 90, 99], method="inverted_cdf")
    assert percentiles(values, [50, 90, 99]) == want.tolist()


def test_latency_load_test_and_client_have_the_same_p99():
    """Rank 198 of 200 values in an order that is not sorted."""
    milliseconds = np.random.default_rng(1).permutation(200) + 1.0
    assert summarize(milliseconds).p99 == 198.0
    assert Percentiles.of_seconds(milliseconds / 1e3).p99 == 198.0
    histogram = LatencyHistogram()
    for each in milliseconds:
        histogram.record(each / 1e3)
    assert histogram.percentile(99) == pytest.approx(0.198, rel=RELATIVE_ERROR)
