"""Runs a load test at one rate, or searches for the highest rate within a budget.

In an **open loop** requests are sent on a schedule, and the latency of a request is
measured from the time at which it was due: if the server stalls for a second, the
latency of every request that was due in that second includes the delay. In a **closed
loop** each client sends its next request after the answer to the last one, so a server
that stalls receives fewer requests, and its percentiles look better than the latencies
of real users (coordinated omission: G. Tene, 2013). A closed loop measures what a fixed
number of clients experience that always wait for their answers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recdistill.errors import LoadTestError
from recdistill.serving.client.client import Client
from recdistill.serving.client.endpoints import Endpoint
from recdistill.serving.load_test.load_generator import Load, RequestCounts, generate
from recdistill.serving.load_test.load_result import LoadResult
from recdistill.serving.load_test.rate_search import RateSearch, find_rate
from recdistill.serving.load_test.version_swap import staged_copy
from recdistill.serving.load_test.workload import Workload

__all__ = ["run_load_test", "search_rate"]


def run_load_test(
    endpoint: Endpoint,
    workload: Workload,
    load: Load,
    *,
    reload: Path | None = None,
    progress: Callable[[RequestCounts], None] = lambda _: None,
) -> LoadResult:
    """Load test of a served model.

    Args:
        endpoint: Address of the server.
        workload: The messages to send.
        load: Rate or number of clients, and duration.
        reload: The folder of versions that the server watches. After a third of the
            test a copy of its latest version appears there; it is removed afterwards.
        progress: Callback for progress, called a few times a second.

    Raises:
        LoadTestError: If a generator process dies.
        BusyError: If an export is being written to `reload`.
        QueryError: If `reload` has no version.
        OSError: If the copy cannot be written.
    """
    url = endpoint.url
    if reload is None:
        samples = generate(endpoint, workload, load, progress)
        return LoadResult(url, workload, load, samples)
    with (
        Client(url, workload.target.model, retries=0) as client,
        staged_copy(reload, client.versions) as swap,
    ):
        samples = generate(
            endpoint,
            workload,
            load,
            progress,
            lambda start: swap.begin(start, load.seconds / 3),
        )
        return LoadResult(url, workload, load, samples, swap.end())


def search_rate(
    endpoint: Endpoint,
    workload: Workload,
    load: Load,
    budget_ms: float,
    *,
    progress: Callable[[float, RequestCounts], None] = lambda rate, _: None,
) -> tuple[RateSearch, LoadResult]:
    """Search for the highest rate whose p99 is within a budget.

    Args:
        endpoint: Address of the server.
        workload: The messages to send.
        load: `load.rate` is the first rate tried, `load.seconds` the duration of each
            test.
        budget_ms: Budget of the p99 in milliseconds.
        progress: Callback for progress with the current rate, called a few times a
            second.

    Returns:
        The search, and the last test at the rate that it found; if it found none, the
        last test.

    Raises:
        LoadTestError: If a generator process dies, the budget is not positive, or
            `load` has no rate.
    """
    if load.rate is None:
        raise LoadTestError("`load` must have a rate. Received: rate=None")
    results: dict[float, LoadResult] = {}

    def measure(rate: float, seconds: float) -> LoadResult:
        tried = Load(seconds, rate, None, load.processes, load.deadline_s)
        samples = generate(
            endpoint, workload, tried, lambda counts: progress(rate, counts)
        )
        results.pop(rate, None)  # So that the last test comes last.
        results[rate] = LoadResult(endpoint.url, workload, tried, samples)
        return results[rate]

    found = find_rate(measure, budget_ms, first_rate=load.rate, seconds=load.seconds)
    last = list(results)[-1] if found.rate is None else found.rate
    return found, results[last]
