"""Result of a load test: percentiles, errors, throughput, and latency during a swap."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from recdistill.serving.load_test.load_generator import Load
from recdistill.serving.load_test.request_samples import Percentiles, Samples
from recdistill.serving.load_test.version_swap import Swap
from recdistill.serving.load_test.workload import Workload

__all__ = ["LoadResult"]


@dataclass(frozen=True)
class LoadResult:
    """Result of a load test.

    Attributes:
        endpoint: URL of the server.
        workload: The messages that were sent.
        load: Rate or number of clients, and duration.
        samples: Samples of all requests.
        swap: The version swap during the test; None if there was none.
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
        """Lag of the generator over all requests: how late it sent them."""
        return Percentiles.of_seconds(self.samples.lag_s)

    @property
    def p99_ms(self) -> float:
        """p99 of the latency in milliseconds; infinite without answers."""
        return math.inf if self.latency.p99 is None else self.latency.p99

    @property
    def lag_p99_ms(self) -> float:
        """p99 of the generator's lag in milliseconds."""
        return self.lag.p99 or 0.0

    @property
    def answered(self) -> int:
        """Number of answered requests."""
        return int(self.samples.answered.sum())

    @property
    def failed(self) -> int:
        """Number of requests without an answer."""
        return len(self.samples) - self.answered

    @property
    def throughput(self) -> float:
        """Answers a second, from the start to the last answer."""
        # The last interval counts too: requests are evenly spaced.
        return self.answered / max(self.samples.elapsed_s, self.load.seconds)

    @property
    def growth(self) -> float:
        """Seconds by which the latency grew in a second of the test."""
        return self.samples.growth

    @property
    def generator_was_late(self) -> bool:
        """Whether the generator's own lag is a large part of the measured latency."""
        return self.lag_p99_ms > max(1.0, 0.2 * min(self.p99_ms, 1e6))

    @property
    def around_swap(self) -> dict[str, Percentiles]:
        """Latency `before`, `during` and `after` the swap, by when requests were due.

        Empty if no version was swapped.
        """
        if self.swap is None:
            return {}
        due, start, end = self.samples.due_s, self.swap.published_s, math.inf
        if self.swap.available_s is not None:
            end = self.swap.available_s
        return {
            "before": self.samples.percentiles(due < start),
            "during": self.samples.percentiles((due >= start) & (due < end)),
            "after": self.samples.percentiles(due >= end),
        }

    def to_json(self) -> dict[str, Any]:
        """All figures, JSON-ready; names that end in `_ms` are in milliseconds."""
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
            "answered": self.answered,
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
