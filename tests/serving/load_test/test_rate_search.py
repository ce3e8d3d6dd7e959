"""rate_search: servers with a known limit."""

from types import SimpleNamespace

import pytest

from recdistill.serving.load_test.rate_search import find_rate


class Queue:
    """A server with a queue that grows as the rate approaches its capacity."""

    def __init__(self, capacity, service_ms=1.0, lag_ms=0.1):
        self.capacity, self.service_ms, self.lag_ms = capacity, service_ms, lag_ms
        self.asked = []

    def __call__(self, rate, seconds):
        self.asked.append((rate, seconds))
        load = rate / self.capacity
        if load >= 1:
            waiting = 1e3 * seconds * (load - 1)
        else:  # p99 of an M/M/1 queue: ln(100) times the mean.
            waiting = 4.6 * self.service_ms / (1 - load)
        return SimpleNamespace(
            p99_ms=waiting + self.lag_ms,
            lag_p99_ms=self.lag_ms,
            failed=0,
            throughput=min(rate, self.capacity),
            growth=max(0.0, load - 1),
        )


@pytest.mark.parametrize("capacity", [3.0, 90.0, 1000.0, 40_000.0])
def test_the_rate_is_within_a_tenth_of_the_limit(capacity):
    """4.6 / (1 - rate / capacity) + 0.1 = 20 where rate = 0.7688 · capacity."""
    found = find_rate(Queue(capacity), budget_ms=20.0, seconds=1.0)
    limit = capacity * (1 - 4.6 / 19.9)
    assert limit / 1.1 <= found.rate <= limit
    assert found.limited_by == "server"


def test_the_rate_is_confirmed_by_a_longer_test():
    queue = Queue(1000.0)
    found = find_rate(queue, budget_ms=20.0, seconds=2.0)
    assert queue.asked[-1] == (found.rate, 6.0)
    assert found.trials[-1].passed


def test_the_rate_is_lowered_if_the_longer_test_fails():
    """A server that sustains 400 a second for two seconds, and 300 for longer."""

    def measure(rate, seconds):
        sustained = 300 if seconds > 3 else 400
        p99 = 1.0 if rate <= sustained else 500.0
        return SimpleNamespace(
            p99_ms=p99, lag_p99_ms=0, failed=0, throughput=rate, growth=0.0
        )

    found = find_rate(measure, budget_ms=10.0, seconds=2.0)
    assert 0.9 * 300 <= found.rate <= 300
    assert [trial.passed for trial in found.trials[-2:]] == [False, True]


def test_a_server_that_is_always_too_slow_has_no_rate():
    queue = Queue(1000.0, service_ms=100.0)
    found = find_rate(queue, budget_ms=20.0, seconds=1.0)
    assert found.rate is None
    assert len(found.trials) == 6
    assert {trial.why for trial in found.trials} == {"p99 over budget"}
    # At 1.6 requests a second, 300 requests would take three minutes.
    assert max(seconds for _, seconds in queue.asked) == 4.0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"failed": 1}, "1 failed"),
        ({"growth": 0.2}, "the answers fall behind"),
        ({"p99_ms": 30.0}, "p99 over budget"),
        ({"p99_ms": 30.0, "lag_p99_ms": 25.0}, "the generator was late"),
        ({"p99_ms": float("inf"), "failed": 9}, "9 failed"),
    ],
)
def test_the_reason_for_a_failed_test_is_recorded(change, why):
    def measure(rate, seconds):
        good = {"p99_ms": 1.0, "lag_p99_ms": 0.1, "failed": 0, "throughput": rate}
        good["growth"] = 0.04
        return SimpleNamespace(**(good | (change if rate >= 100 else {})))

    found = find_rate(measure, budget_ms=10.0, first_rate=100.0, seconds=1.0)
    first = found.trials[0]
    assert (first.passed, first.why) == (False, why)
    assert 90 <= found.rate < 100
    late = why == "the generator was late"
    assert found.limited_by == ("generator" if late else "server")


@pytest.mark.parametrize("name", ["budget_ms", "first_rate", "seconds"])
def test_settings_must_be_positive(name):
    with pytest.raises(ValueError, match=f"`{name}` must be positive"):
        find_rate(Queue(1.0), **{"budget_ms": 1.0, name: 0.0})
