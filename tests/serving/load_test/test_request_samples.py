"""request_samples: percentiles and counts, derived by hand."""

import numpy as np
import pytest

from recdistill.serving.load_test.request_samples import Percentiles, Samples
from tests.serving.load_test.made_samples import samples


def test_percentiles_of_a_thousand_latencies_are_those_of_their_rank():
    """Of 0 to 999 ms in any order the value of rank r is r - 1 ms."""
    got = Percentiles.of_seconds(np.random.default_rng(0).permutation(1000) / 1e3)
    assert (got.p50, got.p90, got.p99, got.p99_9) == (499.0, 899.0, 989.0, 998.0)
    assert (got.max, got.mean, got.n) == (999.0, 499.5, 1000)


def test_percentiles_of_few_latencies_are_the_slowest_one():
    got = Percentiles.of_seconds(np.array([0.004, 0.001, 0.003]))
    assert (got.p50, got.p90, got.p99, got.p99_9) == (3.0, 4.0, 4.0, 4.0)


def test_without_latencies_all_percentiles_are_none():
    got = Percentiles.of_seconds(np.array([]))
    assert (got.p50, got.p99, got.max, got.mean, got.n) == (None, None, None, None, 0)


def test_failed_requests_are_counted_by_code_and_have_no_latency():
    seen = samples([1, 2, 900, 900], code=[0, 0, 1, 2])
    assert seen.errors == {"UNAVAILABLE": 1, "INTERNAL": 1}
    assert seen.answered.tolist() == [True, True, False, False]
    assert seen.percentiles().max == 2.0


def test_percentiles_of_chosen_requests_leave_out_the_others():
    seen = samples([1, 2, 3], code=[0, 0, 1])
    assert seen.percentiles(np.array([True, False, True])).max == 1.0


def test_elapsed_time_ends_with_the_last_answer():
    seen = samples([500, 100], due_s=[1.0, 2.0])
    np.testing.assert_allclose(seen.elapsed_s, 2.1, rtol=1e-6)
    failed = samples([500, 100, 9_000], due_s=[1.0, 2.0, 0.0], code=[0, 0, 1])
    np.testing.assert_allclose(failed.elapsed_s, 2.1, rtol=1e-6)


def test_the_growth_of_the_latency_is_that_of_a_queue_and_not_its_level():
    due = np.arange(100) / 10
    assert samples([300.0] * 100, due_s=due).growth == pytest.approx(0.0)
    queue = samples(10.0 + 200 * due, due_s=due)  # 0.2 s a second
    assert queue.growth == pytest.approx(0.2, rel=1e-3)
    assert samples([1.0] * 3).growth == 0.0


def test_versions_are_counted_where_an_answer_names_one():
    seen = samples([1] * 4, code=[0, 0, 0, 1], version=[7, 7, -1, 7])
    assert seen.versions == {"7": 2}


def test_joining_generators_keeps_their_codes_apart():
    one = samples([1, 2], code=[0, 2], version=[3, -1])
    two = Samples(
        *[getattr(one, n) for n in ("due_s", "latency_s", "lag_s")],
        np.array([1, 0], "int16"),
        np.array([-1, 4]),
        ["OK", "ABORTED"],
    )
    both = Samples.joined([one, two])
    assert both.errors == {"INTERNAL": 1, "ABORTED": 1}
    assert both.versions == {"3": 1, "4": 1}
    assert len(both) == 4
