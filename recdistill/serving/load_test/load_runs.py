"""The load test: how fast a served model answers, at which rate, and for how long.

In an **open loop** the clock decides when a request is sent, and its latency counts
from then: if the server stalls for a second, all requests that were due in that second
say so. A **closed loop** sends the next request after the answer to the last, so a
server that stalls is asked less and its percentiles look better than what users see
(coordinated omission: G. Tene, 2013). It says what so many patient clients get.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recdistill.serving.client.channels import Endpoint
from recdistill.serving.client.client import Client
from recdistill.serving.client.protocols import VersionStatus
from recdistill.serving.load_test.generator import Load, Progress, generate
from recdistill.serving.load_test.rate_search import RateSearch, find_rate
from recdistill.serving.load_test.samples import Percentiles, Samples
from recdistill.serving.load_test.version_swap import Swap, staged_copy
from recdistill.serving.load_test.workload import Workload

__all__ = ["LoadResult", "run_load_test", "search_rate"]

Tell = Callable[[Progress], None]


@dataclass(frozen=True)
class LoadResult:
    """What a load test measured.

    Attributes:
        endpoint: The server.
        workload: What was asked.
        load: How hard.
        samples: Every request.
        swap: When a version was swapped; None where none was.
    """

    endpoint: str
    workload: Workload
    load: Load
    samples: Samples
    swap: Swap | None = None

    @cached_property
    def latency(self) -> Percentiles:
        """Latency of the answered requests."""
        return self.samples.percentiles()

    @cached_property
    def lag(self) -> Percentiles:
        """How late the generator sent, all requests."""
        return Percentiles.of_seconds(self.samples.lag_s)

    @property
    def p99_ms(self) -> float:
        """p99 of the latency, in milliseconds; infinite if nothing was answered."""
        return math.inf if self.latency.p99 is None else self.latency.p99

    @property
    def lag_p99_ms(self) -> float:
        """p99 of the lag, in milliseconds."""
        return self.lag.p99 or 0.0

    @property
    def failed(self) -> int:
        """Number of requests without an answer."""
        return len(self.samples) - int(self.samples.answered.sum())

    @property
    def throughput(self) -> float:
        """Answers a second, from the start to the last answer."""
        # Evenly spaced, the last request stands for the time until the next one.
        elapsed = max(self.samples.elapsed_s, self.load.seconds)
        return int(self.samples.answered.sum()) / elapsed

    @property
    def generator_was_late(self) -> bool:
        """Whether the generator's own delay is a good part of what was measured."""
        return self.lag_p99_ms > max(1.0, 0.2 * min(self.p99_ms, 1e6))

    @property
    def around_swap(self) -> dict[str, Percentiles]:
        """Latency `before`, `during` and `after` the swap, by when requests were due.

        Empty where no version was swapped.
        """
        if self.swap is None:
            return {}
        due = self.samples.due_s
        until = self.swap.available_s
        end = math.inf if until is None else until
        # What was due just before may still have met it.
        first = self.swap.published_s
        return {
            "before": self.samples.percentiles(due < first),
            "during": self.samples.percentiles((due >= first) & (due < end)),
            "after": self.samples.percentiles(due >= end),
        }

    def to_json(self) -> dict[str, Any]:
        """All figures, JSON-ready; times in milliseconds where the name says so."""
        target = self.workload.target
        content: dict[str, Any] = {
            "endpoint": self.endpoint,
            "model": target.model,
            "version": target.version,
            "label": target.label,
            "signature": self.workload.signature,
            "batch_size": self.workload.batch_size,
            "queries": self.workload.queries,
            "loop": "open" if self.load.rate else "closed",
            **asdict(self.load),
            "requests": len(self.samples),
            "answered": int(self.samples.answered.sum()),
            "errors": self.samples.errors,
            "throughput": round(self.throughput, 2),
            "latency_ms": asdict(self.latency),
            "generator_lag_ms": asdict(self.lag),
            "generator_was_late": self.generator_was_late,
            "answers_by_version": self.samples.versions,
        }
        if self.swap is not None:
            content["swap"] = asdict(self.swap) | {
                "latency_ms": {n: asdict(p) for n, p in self.around_swap.items()}
            }
        return content


def run_load_test(
    endpoint: Endpoint,
    workload: Workload,
    load: Load,
    *,
    reload: Path | None = None,
    progress: Tell = lambda _: None,
) -> LoadResult:
    """Runs a load test.

    Args:
        endpoint: The server.
        workload: What is asked.
        load: How hard.
        reload: The folder of versions that the server watches: a third into the test
            a copy of its newest version appears there, and is removed afterwards.
        progress: Told a few times a second.

    Raises:
        GeneratorError: If a generator process dies.
        BusyError: If an export is being written to `reload`.
        QueryError: If `reload` has no version.
        OSError: If the copy cannot be written.
    """
    url = endpoint.url
    if reload is None:
        samples = generate(endpoint, workload, load, progress)
        return LoadResult(url, workload, load, samples)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(url, workload.target.model, retries=0))
        swap = stack.enter_context(staged_copy(reload, _versions_of(client)))
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
    progress: Callable[[float, Progress], None] = lambda rate, _: None,
) -> tuple[RateSearch, LoadResult]:
    """Finds the highest rate that keeps the p99 within a budget.

    Args:
        endpoint: The server.
        workload: What is asked.
        load: Its rate is where the search begins, its seconds are those of a test.
        budget_ms: The budget, in milliseconds.
        progress: Told the rate, and a few times a second how the test goes.

    Returns:
        What the search found, and the last test of the rate that it found; of the last
        rate tried, if it found none.

    Raises:
        GeneratorError: If a generator process dies.
        ValueError: If the budget is not positive, or `load` has no rate.
    """
    if load.rate is None:
        raise ValueError("`load` must have a rate. Received: rate=None")
    results: dict[float, LoadResult] = {}

    def measure(rate: float, seconds: float) -> LoadResult:
        pushed = Load(seconds, rate, None, load.processes, load.deadline_s)
        samples = generate(endpoint, workload, pushed, lambda p: progress(rate, p))
        results.pop(rate, None)
        results[rate] = LoadResult(endpoint.url, workload, pushed, samples)
        return results[rate]

    found = find_rate(measure, budget_ms, first_rate=load.rate, seconds=load.seconds)
    last = list(results)[-1] if found.rate is None else found.rate
    return found, results[last]


def latency_over_time(
    samples: Samples, bins: int = 60
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median and p99 of the latency in equal spans of time.

    Args:
        samples: What was measured.
        bins: Number of spans.

    Returns:
        The middle of each span in seconds, and the two in milliseconds, `(bins,)` each;
        NaN where nothing was answered.
    """
    due, latency = samples.due_s[samples.answered], samples.latency_s[samples.answered]
    edges = np.linspace(0.0, float(samples.due_s.max(initial=1e-9)), bins + 1)
    place = np.clip(np.searchsorted(edges, due, side="right") - 1, 0, bins - 1)
    medians, slow = np.full(bins, np.nan), np.full(bins, np.nan)
    for span in range(bins):
        inside = latency[place == span]
        if len(inside):
            both = np.percentile(inside, [50, 99], method="inverted_cdf") * 1e3
            medians[span], slow[span] = both
    return (edges[:-1] + edges[1:]) / 2, medians, slow


def _versions_of(client: Client) -> Callable[[], list[VersionStatus]]:
    return client.versions
