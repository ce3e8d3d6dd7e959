"""The listwise losses once more, as plain loops over Python floats.

They are written from the formula, not from the library, and without regard for speed or
overflow. The function for a loss has the name of the library's function, takes arrays
`(batch, list_size)` in the same order and returns a list with one float for each list.
"""

from collections.abc import Sequence
from math import exp, log

import numpy as np


def listwise_kl_divergence(
    teacher_scores: np.ndarray,
    student_scores: np.ndarray,
    mask: np.ndarray,
    temperature: float = 1.0,
) -> list[float]:
    losses = []
    for teacher_row, student_row, mask_row in zip(
        teacher_scores, student_scores, mask, strict=True
    ):
        p = _softmax(_real(teacher_row, mask_row), temperature)
        q = _softmax(_real(student_row, mask_row), temperature)
        loss = 0.0
        for p_i, q_i in zip(p, q, strict=True):
            loss += temperature**2 * p_i * (log(p_i) - log(q_i))
        losses.append(loss)
    return losses


def listwise_cross_entropy(
    relevance: np.ndarray,
    student_scores: np.ndarray,
    mask: np.ndarray,
    temperature: float = 1.0,
) -> list[float]:
    losses = []
    for relevance_row, student_row, mask_row in zip(
        relevance, student_scores, mask, strict=True
    ):
        amounts = [max(amount, 0.0) for amount in _real(relevance_row, mask_row)]
        q = _softmax(_real(student_row, mask_row), temperature)
        loss = 0.0
        for amount, q_i in zip(amounts, q, strict=True):
            if amount > 0.0:
                loss -= amount / sum(amounts) * log(q_i)
        losses.append(loss)
    return losses


def _real(row: Sequence[float], mask_row: Sequence[bool]) -> list[float]:
    return [float(value) for value, real in zip(row, mask_row, strict=True) if real]


def _softmax(scores: list[float], temperature: float) -> list[float]:
    powers = [exp(score / temperature) for score in scores]
    return [power / sum(powers) for power in powers]
