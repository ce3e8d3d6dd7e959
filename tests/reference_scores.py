"""Reference implementation of the transforms of teacher scores, as plain loops."""

from collections.abc import Callable
from math import asinh, exp, log, log1p, sqrt

import numpy as np


def _z_scores(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    deviation = sqrt(sum((s - mean) ** 2 for s in row) / len(row))
    same = max(row) == min(row)
    return [0.0 if same else (s - mean) / deviation for s in row]


def _min_max(row: list[float]) -> list[float]:
    low, high = min(row), max(row)
    return [0.0 if low == high else (s - low) / (high - low) for s in row]


def _signed_log(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    distance = sum(abs(s - mean) for s in row) / len(row)
    same = max(row) == min(row)
    return [0.0 if same else asinh((s - mean) / distance) for s in row]


def _log_odds(row: list[float]) -> list[float]:
    near = 2.0**-24
    inside = [min(max(p, near), 1.0 - near) for p in row]
    return _z_scores([log(p) - log1p(-p) for p in inside])


def _log_rank(row: list[float]) -> list[float]:
    ranks = []
    for score in row:
        ahead = sum(other > score for other in row)
        tied = sum(other == score for other in row)
        own = [ahead + k for k in range(1, tied + 1)]
        ranks.append(sum(own) / tied)
    return [-log(rank) for rank in ranks]


def _by_list(
    function: Callable[[list[float]], list[float]],
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def transform(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
        result = np.zeros(scores.shape)
        for number, real in enumerate(mask):
            if real.any():
                result[number, real] = function(
                    [float(s) for s in scores[number][real]]
                )
        return result

    return transform


REFERENCE = {
    "none": _by_list(lambda row: row),
    "z_score": _by_list(_z_scores),
    "min_max": _by_list(_min_max),
    "log": _by_list(_signed_log),
    "logit": _by_list(_log_odds),
    "rank": _by_list(_log_rank),
}


def effective(
    scores: np.ndarray, mask: np.ndarray, temperature: float = 1.0
) -> list[float]:
    """Exponential of the entropy of each list's softmax; 1 for an empty list."""
    numbers = []
    for row, real in zip(scores, mask, strict=True):
        powers = [exp(float(s) / temperature) for s in row[real]]
        shares = [power / sum(powers) for power in powers]
        numbers.append(exp(-sum(p * log(p) for p in shares if p > 0)))
    return numbers
