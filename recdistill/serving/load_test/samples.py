"""What a load generator saw of each request, and what that says in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Percentiles", "Samples"]

_PERCENTS = (50, 90, 99, 99.9)


@dataclass(frozen=True)
class Percentiles:
    """Latencies in milliseconds.

    A percentile is the smallest latency that so many percent do not exceed. Of fewer
    than a thousand requests p99.9 is the slowest one.

    Attributes:
        p50: The median.
        p90: The 90th percentile.
        p99: The 99th percentile.
        p99_9: The 99.9th percentile.
        max: The slowest.
        mean: The mean.
        n: How many there are; without any, the others are None.
    """

    p50: float | None
    p90: float | None
    p99: float | None
    p99_9: float | None
    max: float | None
    mean: float | None
    n: int

    @classmethod
    def of_seconds(cls, values: np.ndarray) -> Percentiles:
        """The percentiles of latencies in seconds.

        Example:
            >>> Percentiles.of_seconds(np.arange(1, 101) / 1e3).p99
            99.0
        """
        if not len(values):
            return cls(None, None, None, None, None, None, 0)
        ordered = np.sort(values)
        # Rounded, as 99.9 / 100 * 1000 is a little above 999 in floating point.
        ranks = [math.ceil(round(p * len(ordered) / 100, 6)) for p in _PERCENTS]
        cuts = (ordered[rank - 1] for rank in ranks)
        found = np.array([*cuts, ordered[-1], ordered.mean()], "float64") * 1e3
        # To the microsecond: less is noise, and unreadable.
        p50, p90, p99, p99_9, slowest, mean = found.round(3).tolist()
        return cls(p50, p90, p99, p99_9, slowest, mean, len(values))


@dataclass(frozen=True)
class Samples:
    """One entry a request, in no order.

    Attributes:
        due_s: When it was due, in seconds since the start of the test, float64. In an
            open loop the schedule says so; in a closed loop it is when it was sent.
        latency_s: From then to the answer or failure, float32: a late generator or a
            queue in front of the server counts, which is the point of an open loop.
        lag_s: How much later than due the generator sent it, float32.
        code: Place of its code in `codes`, int16; 0, "OK", for an answer.
        version: The model version that answered, int64; -1 where it is not known.
        codes: The codes, the first of them "OK".
    """

    due_s: np.ndarray
    latency_s: np.ndarray
    lag_s: np.ndarray
    code: np.ndarray
    version: np.ndarray
    codes: Sequence[str]

    def __len__(self) -> int:
        return len(self.due_s)

    @property
    def answered(self) -> np.ndarray:
        """`(requests,)` bool."""
        return np.asarray(self.code == 0)

    @property
    def errors(self) -> dict[str, int]:
        """Number of failed requests by code."""
        counts = np.bincount(self.code, minlength=len(self.codes))
        return {
            code: int(count)
            for code, count in zip(self.codes[1:], counts[1:], strict=True)
            if count
        }

    @property
    def versions(self) -> dict[str, int]:
        """Number of answers by the version that gave them, where it is known."""
        known = self.version[self.answered & (self.version >= 0)]
        found, counts = np.unique(known, return_counts=True)
        return {str(v): int(n) for v, n in zip(found, counts, strict=True)}

    @property
    def elapsed_s(self) -> float:
        """From the start to the last answer."""
        return float((self.due_s + self.latency_s).max(initial=0.0))

    def percentiles(self, chosen: np.ndarray | None = None) -> Percentiles:
        """Latencies of answered requests; of all, or of those chosen by a mask."""
        mask = self.answered if chosen is None else self.answered & chosen
        return Percentiles.of_seconds(self.latency_s[mask])

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """All requests of several generators."""
        codes = ["OK", *sorted({c for part in parts for c in part.codes[1:]})]
        places = {code: place for place, code in enumerate(codes)}
        renumbered = [
            np.array([places[code] for code in part.codes], "int16")[part.code]
            for part in parts
        ]
        return cls(
            due_s=np.concatenate([part.due_s for part in parts]),
            latency_s=np.concatenate([part.latency_s for part in parts]),
            lag_s=np.concatenate([part.lag_s for part in parts]),
            code=np.concatenate(renumbered),
            version=np.concatenate([part.version for part in parts]),
            codes=codes,
        )
