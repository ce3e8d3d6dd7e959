"""Samples recorded for each request of a load test, and their percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recdistill.evaluation.latency.percentiles import percentiles

__all__ = ["Percentiles", "Samples"]


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of latencies in milliseconds.

    They follow `recdistill.evaluation.latency.percentiles`. With fewer than a thousand
    requests p99.9 is the slowest one.

    Attributes:
        p50: Median. All figures but `n` are None if there are no latencies.
        p90: 90th percentile.
        p99: 99th percentile.
        p99_9: 99.9th percentile.
        max: Slowest.
        mean: Mean.
        n: Number of latencies.
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
        """Percentiles of latencies that are given in seconds.

        Examples:
            >>> Percentiles.of_seconds(np.arange(1, 101) / 1e3).p99
            99.0
        """
        if not len(values):
            return cls(None, None, None, None, None, None, 0)
        found = [*percentiles(values, [50, 90, 99, 99.9, 100]), float(values.mean())]
        # Rounded to microseconds: further digits are noise.
        p50, p90, p99, p99_9, slowest, mean = (np.array(found) * 1e3).round(3).tolist()
        return cls(p50, p90, p99, p99_9, slowest, mean, len(values))


@dataclass(frozen=True)
class Samples:
    """Samples of all requests, one entry per request, in no particular order.

    Attributes:
        due_s: When the request was due, in seconds since the start of the test,
            float64. In an open loop that is its scheduled time; in a closed loop it is
            the time at which it was sent.
        latency_s: Time from `due_s` to the answer or failure, float32. It therefore
            includes delays of the generator and queues in front of the server, as an
            open loop should.
        lag_s: How much later than `due_s` the generator sent it, float32.
        code: Index of its status code in `codes`, int16; 0 is "OK".
        version: Model version that answered, int64; -1 if unknown.
        codes: Status codes; the first is "OK".
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
        """Whether each request was answered, `(requests,)` bool."""
        return np.asarray(self.code == 0)

    @property
    def errors(self) -> dict[str, int]:
        """Number of failed requests by status code."""
        counts = np.bincount(self.code, minlength=len(self.codes)).tolist()
        by_code = dict(zip(self.codes, counts, strict=True))
        return {code: n for code, n in by_code.items() if n and code != "OK"}

    @property
    def versions(self) -> dict[str, int]:
        """Number of answers by model version, where the version is known."""
        known = self.version[self.answered & (self.version >= 0)]
        found, counts = np.unique(known, return_counts=True)
        return {str(v): int(n) for v, n in zip(found, counts, strict=True)}

    @property
    def elapsed_s(self) -> float:
        """Seconds from the start to the last answer."""
        ended = (self.due_s + self.latency_s)[self.answered]
        return float(ended.max(initial=0.0))

    @property
    def growth(self) -> float:
        """Seconds by which the latency grew in a second, as a queue makes it grow.

        From the medians of the first and the last quarter of the answered requests; 0
        with too few of them.
        """
        order = np.argsort(self.due_s[self.answered], kind="stable")
        due, latency = (
            each[self.answered][order] for each in (self.due_s, self.latency_s)
        )
        quarter = len(order) // 4
        if not quarter:
            return 0.0
        first, last = slice(None, quarter), slice(-quarter, None)
        between = float(np.median(due[last]) - np.median(due[first]))
        grown = float(np.median(latency[last]) - np.median(latency[first]))
        return grown / between if between > 0 else 0.0

    def percentiles(self, chosen: np.ndarray | None = None) -> Percentiles:
        """Percentiles of the latency of answered requests.

        Args:
            chosen: Mask of requests, `(requests,)` bool; None for all.
        """
        mask = self.answered if chosen is None else self.answered & chosen
        return Percentiles.of_seconds(self.latency_s[mask])

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """Samples of several generators as one."""
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
