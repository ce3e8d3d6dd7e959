"""The highest rate at which the p99 keeps within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Measured", "RateSearch", "Trial", "find_rate"]

_PRECISION = 1.1
"""The search ends when the bracket is no wider than this ratio."""

_MOST_RATE = 200_000.0
_HALVINGS = 5
_LEAST_REQUESTS, _MOST_STRETCHED = 300, 4
_CONFIRMATIONS = 5
_LONGER = 3


class Measured(Protocol):
    """What the search reads of a test."""

    @property
    def p99_ms(self) -> float:
        """p99 of the answered requests, in milliseconds; infinite if there is none."""

    @property
    def lag_p99_ms(self) -> float:
        """p99 of how late the generator was."""

    @property
    def failed(self) -> int:
        """Number of requests without an answer."""

    @property
    def throughput(self) -> float:
        """Answers a second."""


@dataclass(frozen=True)
class Trial:
    """One test of the search.

    Attributes:
        rate: Requests a second.
        seconds: For how long.
        p99_ms: What came of it, in milliseconds; None where nothing was answered.
        failed: Requests without an answer.
        throughput: Answers a second.
        passed: Whether it kept the budget.
        why: In a few words.
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
    """What the search found.

    Attributes:
        budget_ms: The budget of the p99.
        rate: The highest rate that kept it, confirmed by a longer test; None if none
            did.
        limited_by: "server"; or "generator", if the first rate that failed did so
            because the generator was late, and the server may be good for more.
        trials: All tests, in order.
    """

    budget_ms: float
    rate: float | None
    limited_by: str
    trials: list[Trial]


def find_rate(
    measure: Callable[[float, float], Measured],
    budget_ms: float,
    *,
    first_rate: float = 50.0,
    seconds: float = 5.0,
) -> RateSearch:
    """Brackets the highest rate that keeps a p99, and confirms it.

    Doubles the rate until the budget is broken (or halves it, five times at most, until
    it is kept), halves the bracket on a logarithmic scale until it is 10 % wide, and
    repeats its lower end three times as long. Where that fails it goes down by 10 %,
    five times at most. A test fails when a request fails, the p99 is over the budget,
    or the answers fall behind the requests by 5 %: such a queue grows, and the p99 with
    it, only the test was too short to see it.

    Args:
        measure: Runs a test of a rate, in requests a second, for so many seconds.
        budget_ms: Above 0.
        first_rate: Where to begin, in requests a second.
        seconds: Length of a test; up to four times as long where there would be no 300
            requests.

    Raises:
        ValueError: If a value is not positive.

    Example:
        A server whose latency is 1 ms until it breaks down at 240 requests a second.

        >>> from types import SimpleNamespace
        >>> def measure(rate, seconds):
        ...     p99 = 1.0 if rate < 240 else 900.0
        ...     return SimpleNamespace(
        ...         p99_ms=p99, lag_p99_ms=0.1, failed=0, throughput=rate
        ...     )
        >>> found = find_rate(measure, budget_ms=10.0)
        >>> round(found.rate), found.limited_by, len(found.trials)
        (238, 'server', 8)
    """
    for name, value in {
        "budget_ms": budget_ms,
        "first_rate": first_rate,
        "seconds": seconds,
    }.items():
        if not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
    search = _Search(measure, budget_ms, seconds)
    low = search.bracket(first_rate)
    return RateSearch(
        budget_ms,
        None if low is None else search.confirmed(low),
        search.limited_by,
        search.trials,
    )


class _Search:
    def __init__(
        self,
        measure: Callable[[float, float], Measured],
        budget_ms: float,
        seconds: float,
    ) -> None:
        self.measure, self.budget_ms, self.seconds = measure, budget_ms, seconds
        self.trials: list[Trial] = []
        self.lowest_failure, self.limited_by = math.inf, "server"

    def bracket(self, rate: float) -> float | None:
        """The highest rate that passed; None if none did."""
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
        """The rate, or one somewhat lower, that passes a longer test."""
        for _ in range(_CONFIRMATIONS):
            if self.passes(rate, _LONGER):
                return rate
            rate *= 0.9
        return None

    def passes(self, rate: float, longer: int = 1) -> bool:
        """Runs a test."""
        stretched = min(_LEAST_REQUESTS / rate, _MOST_STRETCHED * self.seconds)
        seconds = longer * max(self.seconds, stretched)
        got = self.measure(rate, seconds)
        late = got.lag_p99_ms > got.p99_ms / 2
        if got.failed:
            passed, why = False, f"{got.failed} failed"
        elif got.p99_ms > self.budget_ms:
            passed, why = False, "the generator was late" if late else "p99 over budget"
        elif got.throughput < 0.95 * rate:
            passed, why = False, "the answers fall behind"
        else:
            passed, why = True, "within the budget"
        if not passed and rate < self.lowest_failure:
            self.lowest_failure = rate
            self.limited_by = (
                "generator" if why == "the generator was late" else "server"
            )
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
