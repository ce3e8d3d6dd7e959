"""Latency histogram with percentiles, in a few kilobytes for any number of calls."""

import math
import threading
from collections import Counter

from recdistill.evaluation.latency.percentiles import nearest_rank

__all__ = ["RELATIVE_ERROR", "LatencyHistogram"]

_STEPS = 128
"""Number of buckets between consecutive powers of two."""

RELATIVE_ERROR = 1 / (2 * _STEPS)
"""Maximum relative error of a percentile: 0.4 %."""


class LatencyHistogram:
    """Latency histogram with buckets whose width grows with the latency.

    There are 128 buckets of equal width between consecutive powers of two. The width of
    a bucket is therefore at most 1/128 of its values, and its middle is within 1/256
    (0.4 %) of each of them. Empty buckets need no memory. It is thread-safe.

    Reference: HdrHistogram (G. Tene), which has the same bucket layout.

    Examples:
        >>> histogram = LatencyHistogram()
        >>> for milliseconds in range(1, 1001):
        ...     histogram.record(milliseconds / 1e3)
        >>> abs(histogram.percentile(99.9) - 0.999) < 0.999 * RELATIVE_ERROR
        True
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._sum, self._lowest, self._highest = 0.0, math.inf, 0.0
        self._lock = threading.Lock()

    def record(self, seconds: float) -> None:
        """Records a latency, of at least a nanosecond.

        Raises:
            ValueError: If `seconds` is negative or not finite.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(
                f"`seconds` must be finite and not negative. Received: {seconds}"
            )
        seconds = max(seconds, 1e-9)
        with self._lock:
            self._counts[_bucket(seconds)] += 1
            self._sum += seconds
            self._lowest = min(self._lowest, seconds)
            self._highest = max(self._highest, seconds)

    @property
    def count(self) -> int:
        """Number of recorded latencies."""
        with self._lock:
            return self._counts.total()

    @property
    def mean(self) -> float:
        """Exact mean in seconds; NaN if nothing was recorded."""
        count = self.count
        return self._sum / count if count else math.nan

    @property
    def max(self) -> float:
        """Exact maximum in seconds; NaN if nothing was recorded."""
        return self._highest if self._counts else math.nan

    def percentile(self, percent: float) -> float:
        """Percentile of the latencies, in seconds.

        It is the smallest recorded value with at least `percent` percent of the values
        at or below it (`recdistill.evaluation.latency.percentiles`, the definition of
        the whole library), rounded by `RELATIVE_ERROR` at most. The lowest and highest
        values are exact.

        Args:
            percent: From 0 to 100.

        Returns:
            The latency; NaN if nothing was recorded.

        Raises:
            ValueError: If `percent` is out of range.
        """
        if not 0 <= percent <= 100:
            raise ValueError(
                f"`percent` must be from 0 to 100. Received: percent={percent}"
            )
        with self._lock:
            counts = sorted(self._counts.items())
            low, high = self._lowest, self._highest
        total = sum(count for _, count in counts)
        rank = nearest_rank(percent, total)
        seen = 0
        for bucket, count in counts:
            seen += count
            if seen >= rank:
                return high if rank == total else min(max(_middle(bucket), low), high)
        return math.nan


def _bucket(seconds: float) -> int:
    mantissa, exponent = math.frexp(seconds)  # The mantissa is in [0.5, 1).
    return exponent * _STEPS + int((mantissa - 0.5) * 2 * _STEPS)


def _middle(bucket: int) -> float:
    exponent, step = divmod(bucket, _STEPS)
    return math.ldexp(0.5 + (step + 0.5) / (2 * _STEPS), exponent)
