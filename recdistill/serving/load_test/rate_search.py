"""Search for the highest request rate whose p99 is within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recdistill.errors import LoadTestError

if TYPE_CHECKING:
    from recdistill.serving.load_test.load_result import LoadResult

__all__ = ["RateSearch", "Trial", "find_rate"]

_PRECISION = 1.1
"""The search ends when the bracket is no wider than this ratio."""

_MOST_GROWTH = 0.05
"""Seconds by which the latency may grow in a second."""

_MOST_RATE = 200_000.0
_HALVINGS = 5
_LEAST_REQUESTS, _MOST_STRETCHED = 300, 4
_CONFIRMATIONS = 5
_LONGER = 3


_Measure = Callable[[float, float], "LoadResult"]


@dataclass(frozen=True)
class Trial:
    """One test of the search.

    Attributes:
        rate: Requests a second.
        seconds: Duration.
        p99_ms: p99 of the latency in milliseconds; None without answers.
        failed: Number of requests without an answer.
        throughput: Answers a second.
        passed: Whether the p99 was within the budget.
        why: The reason, in a few words.
    """

    rate: float
    seconds: float
    p99_ms: float | None
    failed: int
    throughput: float
    passed: bool
    why: str


@dataclass(frozen=True)
class RateSearch:
    """Result of the search.

    Attributes:
        budget_ms: Budget of the p99 in milliseconds.
        rate: The highest rate within the budget, confirmed by a longer test; None if
            no rate was.
        limited_by: "server"; or "generator" if the lowest rate that failed did so
            because the generator was late: the server may then sustain more.
        trials: All tests, in order.
    """

    budget_ms: float
    rate: float | None
    limited_by: str
    trials: list[Trial]


def find_rate(
    measure: _Measure,
    budget_ms: float,
    *,
    first_rate: float = 50.0,
    seconds: float = 5.0,
) -> RateSearch:
    """Search for the highest rate whose p99 is within a budget.

    Doubles the rate until a test fails (or halves it, at most five times, until one
    passes), bisects the bracket on a logarithmic scale until it is 10 % wide, and
    repeats its lower end for three times as long. If that fails, the rate is lowered by
    10 %, at most five times. A test fails if a request fails, the p99 exceeds the
    budget, or the latency grows by more than 5 % of the time: the queue then grows, and
    the p99 would exceed the budget in a longer test.

    Args:
        measure: Runs a test, given a rate in requests a second and a duration in
            seconds.
        budget_ms: Budget of the p99 in milliseconds, above 0.
        first_rate: The first rate tried, in requests a second.
        seconds: Duration of a test; up to four times as long if it would have fewer
            than 300 requests.

    Raises:
        LoadTestError: If a value is not positive.

    Examples:
        A server whose latency is 1 ms up to 240 requests a second and 900 ms above.

        >>> from types import SimpleNamespace
        >>> def measure(rate, seconds):
        ...     p99 = 1.0 if rate < 240 else 900.0
        ...     return SimpleNamespace(
        ...         p99_ms=p99, lag_p99_ms=0.1, failed=0, throughput=rate, growth=0.0
        ...     )
        >>> found = find_rate(measure, budget_ms=10.0)
        >>> round(found.rate), found.limited_by, len(found.trials)
        (238, 'server', 8)
    """
    settings = {"budget_ms": budget_ms, "first_rate": first_rate, "seconds": seconds}
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise LoadTestError(f"`{name}` must be positive. Received: {name}={value}")
    search = _Search(measure, budget_ms, seconds)
    low = search.bracket(first_rate)
    rate = None if low is None else search.confirmed(low)
    return RateSearch(budget_ms, rate, search.limited_by, search.trials)


class _Search:
    def __init__(self, measure: _Measure, budget_ms: float, seconds: float) -> None:
        self.measure, self.budget_ms, self.seconds = measure, budget_ms, seconds
        self.trials: list[Trial] = []
        self.lowest_failure, self.limited_by = math.inf, "server"

    def bracket(self, rate: float) -> float | None:
        """Highest rate that passed; None if none did."""
        low: float | None = None
        while self.lowest_failure == math.inf and rate <= _MOST_RATE:
            if self.passes(rate):
                low, rate = rate, rate * 2
        for _ in range(0 if low else _HALVINGS):
            rate /= 2
            if self.passes(rate):
                low = rate
                break
        while low is not None and _PRECISION * low < self.lowest_failure < math.inf:
            middle = math.sqrt(low * self.lowest_failure)
            low = middle if self.passes(middle) else low
        return low

    def confirmed(self, rate: float) -> float | None:
        """The given rate, or a slightly lower one, that passes a longer test."""
        for _ in range(_CONFIRMATIONS):
            if self.passes(rate, _LONGER):
                return rate
            rate *= 0.9
        return None

    def passes(self, rate: float, longer: int = 1) -> bool:
        """Runs a test and records it."""
        stretched = min(_LEAST_REQUESTS / rate, _MOST_STRETCHED * self.seconds)
        seconds = longer * max(self.seconds, stretched)
        got = self.measure(rate, seconds)
        late = got.lag_p99_ms > got.p99_ms / 2
        if got.failed:
            passed, why = False, f"{got.failed} failed"
        elif got.p99_ms > self.budget_ms:
            passed, why = False, "the generator was late" if late else "p99 over budget"
        elif got.growth > _MOST_GROWTH:
            passed, why = False, "the answers fall behind"
        else:
            passed, why = True, "within the budget"
        if not passed and rate < self.lowest_failure:
            self.lowest_failure = rate
            limited = why == "the generator was late"
            self.limited_by = "generator" if limited else "server"
        self.trials.append(
            Trial(
                round(rate, 2),
                round(seconds, 2),
                got.p99_ms if math.isfinite(got.p99_ms) else None,
                got.failed,
                round(got.throughput, 2),
                passed,
                why,
            )
        )
        return passed
