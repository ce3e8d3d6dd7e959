"""What every listwise loss owes its users, and the lists to try it on.

The losses are found, not listed: a class that appears in `recdistill.losses` is tested
from then on. Two conventions make that possible. The function of a loss has the name of
its class in snake case, and so has its definition in `tests/reference.py`.
"""

import inspect
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from recdistill import losses
from tests import reference


class Lists(NamedTuple):
    """Labels (teacher scores or relevance), student scores and mask: one batch."""

    labels: np.ndarray
    student_scores: np.ndarray
    mask: np.ndarray


def listwise_losses() -> list[type[losses.ListLoss]]:
    """All listwise losses of the library."""
    return [
        cls
        for _, cls in inspect.getmembers(losses, inspect.isclass)
        if issubclass(cls, losses.ListLoss) and cls is not losses.ListLoss
    ]


def function_of(loss_cls: type[losses.ListLoss]) -> Callable:
    """The pure function behind a loss class."""
    return getattr(losses, _snake_case(loss_cls.__name__))


def reference_of(loss_cls: type[losses.ListLoss]) -> Callable:
    """The plain-loop definition of a loss class."""
    return getattr(reference, _snake_case(loss_cls.__name__))


def learns_from_teacher(loss_cls: type[losses.ListLoss]) -> bool:
    """Whether the labels of a loss are teacher scores (else they are relevance)."""
    return "teacher_scores" in inspect.signature(function_of(loss_cls)).parameters


def ragged_lists(loss_cls: type[losses.ListLoss]) -> Lists:
    """Six lists of 5, 3, 1, 0, 2 and 5 candidates, with labels that suit the loss.

    The list without candidates is padding only. Under padding stands junk.
    """
    rng = np.random.default_rng(7)
    mask = np.arange(5) < np.array([5, 3, 1, 0, 2, 5])[:, None]
    student_scores = rng.normal(0.0, 2.0, mask.shape)
    if learns_from_teacher(loss_cls):
        labels = rng.normal(-1.0, 2.0, mask.shape)
    else:
        labels = rng.integers(0, 4, mask.shape).astype(float)
        labels[:, 0] += 1.0
    junk = rng.choice([-77.0, 0.0, 88.0], mask.shape)
    labels, student_scores = (
        np.where(mask, values, junk).astype("float32")
        for values in (labels, student_scores)
    )
    return Lists(labels, student_scores, mask)


def _snake_case(name: str) -> str:
    word_starts = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    return re.sub(word_starts, "_", name).lower()
