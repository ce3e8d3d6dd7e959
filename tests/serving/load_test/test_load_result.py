"""load_result: figures of a load test, derived by hand from made-up samples."""

import json
import math

import pytest

from recdistill.serving.load_test.version_swap import Swap
from tests.serving.load_test.made_samples import result_of, samples


def test_throughput_counts_answers_over_the_length_of_the_test():
    """Eight answers and two failures in two seconds."""
    result = result_of(samples([1.0] * 10, code=[0] * 8 + [1, 2]))
    assert (result.answered, result.failed, result.throughput) == (8, 2, 4.0)


def test_throughput_counts_until_the_last_answer_if_that_is_late():
    result = result_of(samples([1.0, 4000.0], due_s=[0.0, 1.0]))
    assert result.throughput == pytest.approx(2 / 5)


def test_without_answers_the_p99_is_infinite_and_json_has_none():
    result = result_of(samples([1.0] * 3, code=[1] * 3))
    assert result.p99_ms == math.inf
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert content["latency_ms"]["p99"] is None
    assert (content["requests"], content["answered"]) == (3, 0)
    assert content["errors"] == {"UNAVAILABLE": 3}


def test_a_generator_is_late_if_its_lag_is_over_a_fifth_of_the_latency():
    assert not result_of(samples([5.0] * 10, lag_ms=0.5)).generator_was_late
    assert result_of(samples([5.0] * 10, lag_ms=2.0)).generator_was_late
    assert not result_of(samples([50.0] * 10, lag_ms=2.0)).generator_was_late


def test_latencies_are_split_by_when_requests_were_due_around_the_swap():
    seen = samples([1.0, 2.0, 30.0, 40.0, 5.0], due_s=[0.0, 0.4, 0.5, 0.7, 0.8])
    around = result_of(seen, swap=Swap(8, 0.5, 0.8)).around_swap
    assert {name: (got.n, got.max) for name, got in around.items()} == {
        "before": (2, 2.0),
        "during": (2, 40.0),
        "after": (1, 5.0),
    }


def test_a_swap_that_did_not_end_lasts_until_the_end_of_the_test():
    result = result_of(samples([1.0] * 4), swap=Swap(8, 0.02, None))
    assert {name: got.n for name, got in result.around_swap.items()} == {
        "before": 2,
        "during": 2,
        "after": 0,
    }
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert content["swap"]["available_s"] is None
    assert content["swap"]["latency_ms"]["during"]["n"] == 2


def test_without_a_swap_nothing_is_split():
    result = result_of(samples([1.0]))
    assert result.around_swap == {} and "swap" not in result.to_json()


@pytest.mark.parametrize(
    ("load", "loop"), [({}, "open"), ({"rate": None, "clients": 3}, "closed")]
)
def test_json_names_the_kind_of_loop(load, loop):
    assert result_of(samples([1.0]), **load).to_json()["loop"] == loop
