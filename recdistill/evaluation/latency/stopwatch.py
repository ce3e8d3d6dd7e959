"""Wall-clock latency of a call: percentiles, alternating comparisons, and throughput.

A timed function must wait for its own result (for example by converting it to a NumPy
array): an operation that is only queued seems to take no time. Percentiles of a few
calls are not informative: the p99 of fewer than 100 calls is the slowest call. Every
result therefore also has the number of calls, `n`.
"""

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from recdistill.evaluation.latency.energy import energy_joules
from recdistill.evaluation.latency.percentiles import percentiles

TimedFunction = Callable[[], object]

CALLS_A_TURN = 10

QUANTILES = tuple(range(0, 101, 5))
"""Percentiles that describe the distribution of the times."""


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of repeated calls, in milliseconds.

    Attributes:
        p50: Median.
        p90: 90th percentile.
        p99: 99th percentile; see `recdistill.evaluation.latency.percentiles`.
        mean: Mean.
        min: Fastest call.
        n: Number of timed calls.
        quantiles: Percentiles 0, 5, …, 100, for a picture of the distribution; empty
            if they were not kept.
    """

    p50: float
    p90: float
    p99: float
    mean: float
    min: float
    n: int
    quantiles: tuple[float, ...] = ()


@dataclass(frozen=True)
class Throughput:
    """Result of several workers that call a function at the same time.

    Attributes:
        latency: Latency of single calls.
        per_second: Calls a second of wall-clock time, all workers together.
        cpu_ms: Processor time of a call in milliseconds, summed over all threads of
            this process: the cost of a call, independent of the number of cores that
            share it.
        joules: Energy of a call. It covers the whole processor, including anything else
            that runs on it. None if the machine has no energy counter; see
            `recdistill.evaluation.latency.energy`.
    """

    latency: Latency
    per_second: float
    cpu_ms: float
    joules: float | None


@dataclass(frozen=True)
class Comparison:
    """Result of timing several functions in turns.

    Attributes:
        latencies: Latency of each function, by name.
        speedup: By name, how many times faster a function is than the first one: in
            each round the first one's median time divided by its own, and then the
            median over rounds. 1 for the first.
    """

    latencies: dict[str, Latency]
    speedup: dict[str, float]


def compare(
    calls: Mapping[str, TimedFunction],
    *,
    warmup: int = 10,
    repeats: int = 200,
    budget_s: float = 10.0,
) -> Comparison:
    """Latency of several functions, timed in turns so that drift affects all equally.

    In each round every function is called ten times in a row, as a server answers one
    request after another. With single alternating calls, the time of a fast function
    would be dominated by cache misses that the slow function before it has caused. Each
    round starts with another function. Garbage is collected beforehand, and the
    collector is off while calls are timed.

    Args:
        calls: The functions, by name. Speed-ups are relative to the first.
        warmup: Number of untimed rounds made first, at least 0.
        repeats: Number of timed calls of each function after which no further round
            starts, at least 1.
        budget_s: Seconds after which no further round starts. At least one round is
            always timed.

    Raises:
        ValueError: If `calls` is empty or a setting is out of range.

    Examples:
        >>> compare({"slow": lambda: sum(range(9999)), "fast": int}).speedup["slow"]
        1.0
    """
    _check_settings(calls, warmup, repeats, budget_s)
    for _ in range(warmup):
        for call in calls.values():
            call()
    names = list(calls)
    turn = min(CALLS_A_TURN, repeats)
    rounds: list[dict[str, list[float]]] = []
    with _garbage_collection_off():
        end = time.perf_counter_ns() + budget_s * 1e9
        while len(rounds) * turn < repeats and (
            not rounds or time.perf_counter_ns() < end
        ):
            shift = len(rounds) % len(names)
            order = names[shift:] + names[:shift]
            rounds.append({name: _turn(calls[name], turn, end) for name in order})
    # A call faster than the clock's resolution counts as one nanosecond.
    medians = {
        name: np.array([max(np.median(one[name]), 1e-6) for one in rounds])
        for name in names
    }
    first = medians[names[0]]
    return Comparison(
        latencies={
            name: summarize(np.concatenate([one[name] for one in rounds]))
            for name in names
        },
        speedup={name: float(np.median(first / t)) for name, t in medians.items()},
    )


def measure_throughput(
    call: TimedFunction, *, workers: int = 1, warmup: int = 10, seconds: float = 1.0
) -> Throughput:
    """Throughput and cost of a function that several workers call without a pause.

    Args:
        call: The function; it must be thread-safe.
        workers: Number of threads, at least 1.
        warmup: Number of untimed calls made first, at least 0.
        seconds: Duration. Each worker makes at least one call.

    Raises:
        ValueError: If a setting is out of range.

    Examples:
        >>> measure_throughput(lambda: sum(range(1000)), seconds=0.01).latency.n > 0
        True
    """
    _check_settings({"call": call}, warmup, 1, seconds)
    if workers < 1:
        raise ValueError(f"`workers` must be at least 1. Received: workers={workers}")
    for _ in range(warmup):
        call()
    with _garbage_collection_off(), ThreadPoolExecutor(workers) as pool:
        energy, cpu = energy_joules(), time.process_time_ns()
        start = time.perf_counter_ns()
        end = start + seconds * 1e9
        turns = [pool.submit(_turn, call, sys.maxsize, end) for _ in range(workers)]
        times = np.concatenate([turn.result() for turn in turns])
        wall, cpu = time.perf_counter_ns() - start, time.process_time_ns() - cpu
        spent = energy_joules()
    return Throughput(
        latency=summarize(times),
        per_second=len(times) / max(wall, 1) * 1e9,
        cpu_ms=cpu / len(times) / 1e6,
        joules=_difference(energy, spent, len(times)),
    )


def summarize(times_ms: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Latency:
    """Percentiles, mean and minimum of measured times.

    Args:
        times_ms: `(n,)`, at least one, in milliseconds.

    Examples:
        >>> summarize(np.array([1.0, 2.0, 3.0])).p50
        2.0
    """
    p50, p90, p99 = percentiles(times_ms, [50, 90, 99])
    mean, fastest = float(times_ms.mean()), float(times_ms.min())
    quantiles = tuple(percentiles(times_ms, QUANTILES))
    return Latency(p50, p90, p99, mean, fastest, len(times_ms), quantiles)


def _difference(before: float | None, after: float | None, calls: int) -> float | None:
    """Joules per call; None without a counter, or if it restarted in the meantime."""
    if before is None or after is None or after < before:
        return None
    return (after - before) / calls


def _turn(call: TimedFunction, calls: int, end_ns: float) -> list[float]:
    """Times of up to `calls` calls in ms; the turn ends early after `end_ns`."""
    times: list[float] = []
    while not times or (len(times) < calls and time.perf_counter_ns() < end_ns):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def _check_settings(
    calls: Mapping[str, TimedFunction], warmup: int, repeats: int, budget_s: float
) -> None:
    if not calls:
        raise ValueError("`calls` must have at least one entry. Received: none")
    for name, value, least in (("warmup", warmup, 0), ("repeats", repeats, 1)):
        if value < least:
            raise ValueError(
                f"`{name}` must be at least {least}. Received: {name}={value}"
            )
    if not budget_s > 0:
        raise ValueError(f"`budget_s` must be positive. Received: budget_s={budget_s}")


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
