"""stopwatch: percentiles, comparisons and throughput with a fake clock."""

import gc
import threading

import pytest

from recdistill.evaluation.latency import stopwatch
from recdistill.evaluation.latency.stopwatch import (
    Latency,
    compare,
    measure_throughput,
)


class Clock:
    """Replaces the time module; each call advances it by its duration."""

    def __init__(self):
        self.now_ns = 0
        self.log = []

    def perf_counter_ns(self):
        return self.now_ns

    def call(self, name, *times_ms):
        """A function that takes these times in turn, and then always the last one."""
        left = list(times_ms)

        def run():
            self.log.append(name)
            self.now_ns += int(1e6 * (left.pop(0) if len(left) > 1 else left[0]))

        return run


def measure_latency(call, **settings):
    return compare({"call": call}, **settings).latencies["call"]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


def test_percentiles_are_the_times_of_their_rank(clock):
    got = measure_latency(
        clock.call("a", *range(1, 101)), warmup=0, repeats=100, budget_s=1e9
    )
    # Nearest rank: the times of rank 50, 90 and 99 among 1 to 100 ms.
    want = Latency(
        p50=50.0,
        p90=90.0,
        p99=99.0,
        mean=50.5,
        min=1.0,
        n=100,
        quantiles=(1.0, *range(5, 101, 5)),
    )
    for name, value in vars(want).items():
        assert getattr(got, name) == pytest.approx(value), name


def test_warm_up_calls_are_not_timed(clock):
    got = measure_latency(clock.call("a", 900, 900, 5), warmup=2, repeats=3)
    assert (got.p99, got.n) == (pytest.approx(5.0), 3)
    assert len(clock.log) == 5


def test_the_budget_limits_the_calls_but_one_is_always_timed(clock):
    assert measure_latency(clock.call("a", 300), warmup=0, budget_s=1.0).n == 4
    assert measure_latency(clock.call("a", 5000), warmup=0, budget_s=1.0).n == 1


def test_functions_take_turns_of_ten_and_each_starts_in_turn(clock):
    compare({"a": clock.call("a", 1), "b": clock.call("b", 1)}, warmup=0, repeats=30)
    turns = [clock.log[k : k + 10] for k in range(0, 60, 10)]
    assert turns == [[name] * 10 for name in ["a", "b", "b", "a", "a", "b"]]


def test_a_turn_ends_early_when_the_budget_is_used_up(clock):
    got = compare(
        {"slow": clock.call("slow", 400), "fast": clock.call("fast", 1)},
        warmup=0,
        budget_s=1.0,
    )
    assert got.latencies["slow"].n == 3
    assert got.latencies["fast"].n == 1
    assert got.speedup["fast"] == pytest.approx(400)


def test_drift_does_not_change_the_speedup(clock):
    slowing = [1.0, 2.0, 40.0]
    got = compare(
        {
            "teacher": clock.call("teacher", *(10 * t for t in slowing)),
            "student": clock.call("student", *(2 * t for t in slowing)),
        },
        warmup=0,
        repeats=3,
    )
    assert got.speedup == {"teacher": 1.0, "student": pytest.approx(5.0)}
    assert got.latencies["student"].p50 == pytest.approx(4.0)
    assert list(got.latencies) == ["teacher", "student"]


def test_a_call_faster_than_the_clock_has_a_finite_speedup(clock):
    got = compare({"a": clock.call("a", 1), "b": clock.call("b", 0)}, repeats=5)
    assert got.speedup["b"] == pytest.approx(1e6)


@pytest.mark.parametrize("was_on", [True, False])
def test_the_garbage_collector_is_off_meanwhile_and_restored(was_on):
    states = []
    (gc.enable if was_on else gc.disable)()
    try:
        measure_latency(lambda: states.append(gc.isenabled()), warmup=0, repeats=3)
        assert states == [False] * 3
        assert gc.isenabled() is was_on
    finally:
        gc.enable()


def test_an_error_in_a_call_is_raised_and_the_collector_restored():
    def fail():
        raise RuntimeError("no such model")

    with pytest.raises(RuntimeError, match="no such model"):
        measure_latency(fail, warmup=0)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("setting", "value"), [("warmup", -1), ("repeats", 0), ("budget_s", 0.0)]
)
def test_a_setting_out_of_range_is_refused(setting, value):
    with pytest.raises(ValueError, match=f"`{setting}` must be.*{setting}={value}"):
        measure_latency(lambda: None, **{setting: value})


def test_a_comparison_requires_a_function():
    with pytest.raises(ValueError, match="`calls` must have at least one entry"):
        compare({})


def test_all_workers_call_at_the_same_time():
    # No call returns before all three workers have called.
    barrier = threading.Barrier(3)
    got = measure_throughput(barrier.wait, workers=3, warmup=0, seconds=1e-9)
    assert got.latency.n == 3
    assert not barrier.broken


def test_throughput_is_calls_per_second_of_wall_clock_time(clock, monkeypatch):
    clock.process_time_ns = lambda: clock.now_ns * 3
    counters = iter([10.0, 16.0])
    monkeypatch.setattr(stopwatch, "energy_joules", lambda: next(counters))
    got = measure_throughput(clock.call("a", 250), warmup=2, seconds=1.0)
    # Four calls of 250 ms on a processor whose three cores are always busy.
    assert got.latency.n == 4
    assert got.per_second == pytest.approx(4.0)
    assert got.cpu_ms == pytest.approx(750.0)
    assert got.joules == pytest.approx(6.0 / 4)


@pytest.mark.parametrize("counters", [(None, None), (16.0, 10.0)])
def test_without_a_counter_or_after_its_restart_there_are_no_joules(
    counters, monkeypatch
):
    left = iter(counters)
    monkeypatch.setattr(stopwatch, "energy_joules", lambda: next(left))
    assert measure_throughput(lambda: None, seconds=1e-3).joules is None


def test_throughput_requires_a_worker():
    with pytest.raises(ValueError, match=r"`workers` must be at least 1.*workers=0"):
        measure_throughput(lambda: None, workers=0)
