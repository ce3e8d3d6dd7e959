"""How long a call takes: percentiles of wall-clock time, measured fairly.

The call must wait for its own result (say by turning it into a numpy array); what is
only queued takes no time. A percentile of a few calls says little: p99 of fewer than
100 calls is close to the slowest one, so `n` stands beside it.
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

Call = Callable[[], object]

CALLS_A_TURN = 10


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of repeated calls.

    Attributes:
        p50: The median, in milliseconds.
        p90: The 90th percentile, in milliseconds.
        p99: The 99th percentile, in milliseconds.
        mean: In milliseconds.
        min: The fastest call, in milliseconds.
        n: How many calls were timed.
    """

    p50: float
    p90: float
    p99: float
    mean: float
    min: float
    n: int


@dataclass(frozen=True)
class Load:
    """Calls made by several workers at once, each one after another.

    Attributes:
        latency: Of single calls.
        per_second: Calls answered in a second of wall-clock time, by all together.
        cpu_ms: Processor time of a call, over all threads of this process, in
            milliseconds: what a call costs, however many cores share it.
        joules: Energy of the whole processor for a call, whatever else ran on it; None
            where the machine does not say, see `recdistill.evaluation.latency.energy`.
    """

    latency: Latency
    per_second: float
    cpu_ms: float
    joules: float | None


@dataclass(frozen=True)
class Comparison:
    """Calls that were timed in turns.

    Attributes:
        latencies: The latency of each call, by name.
        speedup: By name, how many times faster than the first call it is: the first
            call's median time in a round divided by its own, and of that the median
            over rounds. 1 for the first.
    """

    latencies: dict[str, Latency]
    speedup: dict[str, float]


def measure_latency(
    call: Call, *, warmup: int = 10, repeats: int = 200, budget_s: float = 10.0
) -> Latency:
    """Time a call.

    The garbage collector rests while calls are timed, and runs before.

    Args:
        call: What is timed, the wait for its result included.
        warmup: Calls made first and not timed; at least 0.
        repeats: Calls timed at most, at least 1.
        budget_s: Seconds after which no further call is timed. At least one always is.

    Returns:
        The percentiles, in milliseconds.

    Raises:
        ValueError: A setting is out of range.

    Example:
        >>> measure_latency(lambda: sum(range(1000)), repeats=50).n
        50
    """
    return compare(
        {"call": call}, warmup=warmup, repeats=repeats, budget_s=budget_s
    ).latencies["call"]


def compare(
    calls: Mapping[str, Call],
    *,
    warmup: int = 10,
    repeats: int = 200,
    budget_s: float = 10.0,
) -> Comparison:
    """Time several calls in turns, so that a machine's drift strikes all alike.

    In a round every call gets a turn of ten in a row, as a server answers one request
    after another: timed singly, a fast call would mostly pay for the caches that the
    slow one before it has emptied. The round starts with another call each time.

    Args:
        calls: What is timed, by name. The first is the one that others are compared to.
        warmup: Rounds made first and not timed; at least 0.
        repeats: Calls of each timed at most, at least 1.
        budget_s: Seconds after which no further round starts. One is always timed.

    Returns:
        The latency of each call, and how many times faster than the first it is.

    Raises:
        ValueError: There is no call, or a setting is out of range.

    Example:
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
    # A call faster than the clock's tick counts as one tick of a nanosecond.
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


def measure_load(
    call: Call, *, workers: int = 1, warmup: int = 10, seconds: float = 1.0
) -> Load:
    """Keeps several workers busy with a call, as a server under load is.

    Args:
        call: What each worker does over and over; must be safe to call from threads.
        workers: Threads, at least 1.
        warmup: Calls made first and not timed; at least 0.
        seconds: How long; each worker makes at least one call.

    Raises:
        ValueError: A setting is out of range.

    Example:
        >>> measure_load(lambda: sum(range(1000)), seconds=0.01).latency.n > 0
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
    return Load(
        latency=summarize(times),
        per_second=len(times) / max(wall, 1) * 1e9,
        cpu_ms=cpu / len(times) / 1e6,
        joules=_difference(energy, spent, len(times)),
    )


def _difference(before: float | None, after: float | None, calls: int) -> float | None:
    """Joules a call; None where the counter is not there, or began again meanwhile."""
    if before is None or after is None or after < before:
        return None
    return (after - before) / calls


def _turn(call: Call, calls: int, end_ns: float) -> list[float]:
    """Times in ms of so many calls in a row, fewer where time is up; at least one."""
    times = [_time_once(call) / 1e6]
    while len(times) < calls and time.perf_counter_ns() < end_ns:
        times.append(_time_once(call) / 1e6)
    return times


def _check_settings(
    calls: Mapping[str, Call], warmup: int, repeats: int, budget_s: float
) -> None:
    if not calls:
        raise ValueError("`calls` must have at least one entry. Received: none")
    if warmup < 0:
        raise ValueError(f"`warmup` must be at least 0. Received: warmup={warmup}")
    if repeats < 1:
        raise ValueError(f"`repeats` must be at least 1. Received: repeats={repeats}")
    if not budget_s > 0:
        raise ValueError(f"`budget_s` must be positive. Received: budget_s={budget_s}")


def _time_once(call: Call) -> int:
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


def summarize(times_ms: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Latency:
    """Percentiles of times.

    Args:
        times_ms: `(n,)`, at least one, in milliseconds.

    Example:
        >>> summarize(np.array([1.0, 2.0, 3.0])).p50
        2.0
    """
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99]).tolist()
    mean, fastest = float(times_ms.mean()), float(times_ms.min())
    return Latency(p50, p90, p99, mean, fastest, len(times_ms))


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
