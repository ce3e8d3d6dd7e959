"""Percentiles by nearest rank: one definition for `latency`, load test and client.

The `q`-th percentile is the smallest recorded value with at least `q` per cent of the
values at or below it. It is always a recorded value and never interpolated, so a p99 is
a latency that a request really had. NumPy calls the method `inverted_cdf`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["nearest_rank", "percentiles"]


def nearest_rank(percent: float, count: int) -> int:
    """Rank of a percentile among sorted values, counted from 1.

    Args:
        percent: From 0 to 100.
        count: Number of values, at least 1.

    Examples:
        >>> nearest_rank(99, 1000), nearest_rank(99.9, 1000), nearest_rank(99, 10)
        (990, 999, 10)
    """
    # Rounded, because 99.9 / 100 * 1000 is slightly above 999 in floating point;
    # `numpy.percentile` returns the value of rank 1000 there.
    return max(1, math.ceil(round(percent * count / 100, 6)))


def percentiles(
    values: np.ndarray | Sequence[float], percents: Iterable[float]
) -> list[float]:
    """Percentiles of values by nearest rank.

    Args:
        values: `(n,)`, at least one, in any order.
        percents: The percentiles to return, each from 0 to 100.

    Examples:
        >>> percentiles([4.0, 1.0, 3.0, 2.0], [50, 75, 99])
        [2.0, 3.0, 4.0]
    """
    ordered = np.sort(np.asarray(values))
    ranks = [nearest_rank(percent, len(ordered)) for percent in percents]
    return [float(ordered[rank - 1]) for rank in ranks]
