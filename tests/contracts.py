"""Discovery of all losses over lists for contract tests, and test data for them.

Every public loss in a module of `recdistill.losses` is tested without being listed. Two
conventions make this possible. The function of a loss has the name of its class in
snake case, and so has its definition in `tests/reference_losses.py`. Every argument
besides labels, scores, mask, strata and weights is a setting, for which `UNUSUAL` and
`BAD` have values.
"""

import inspect
import pkgutil
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from recdistill import losses
from tests import reference_losses

INFINITY, NAN = float("inf"), float("nan")

UNUSUAL: dict[str, Any] = {
    "temperature": 2.5,
    "k": 2,
    "decay": 3.0,
    "tail_weight": 4.0,
    "sharpness": 0.3,
    "strata": 2,
    "from_probabilities": True,
}
"""A non-default value for each setting."""

BAD: dict[str, list[Any]] = {
    "temperature": [0, -1.5, INFINITY, NAN],
    "k": [0, -3, 2.5, True],
    "decay": [0, -1.5, INFINITY, NAN],
    "tail_weight": [0, -1.5, INFINITY, NAN],
    "sharpness": [0, -1.5, INFINITY, NAN],
    "strata": [0, -3, 2.5, True, None],
    "from_probabilities": [],
}
"""Invalid values of each setting."""

CHANGED_BY_SHIFT = {
    "PointwiseBinaryCrossEntropy",
    "PointwiseMSE",
    "TopKPositionWeighted",
    "TopKRankDistil",
}
"""Losses that change if a constant is added to all student scores of a list."""

WEIGHT_IS_COUNT = {
    "ListwiseCrossEntropy",
    "ListwiseJensenShannon",
    "ListwiseKLDivergence",
    "ListwiseSoftCrossEntropy",
    "PairwiseMarginMSE",
    "PairwiseRankNet",
    "PointwiseBinaryCrossEntropy",
    "PointwiseMSE",
    "StratifiedKLDivergence",
}
"""Losses for which a candidate of weight 2 gives the same gradient as two candidates of
weight 1. In a loss with ranks or cut-offs two candidates take two ranks."""

MINIMUM_AT_TEACHER = WEIGHT_IS_COUNT - {"ListwiseCrossEntropy"} | {"TopKDualCorrection"}
"""Losses at their minimum if the student's scores are the teacher's. Losses on the
order alone decrease further as the scores spread."""

TEACHER, RELEVANCE = "teacher_scores", "relevance"
NO_SETTINGS = {TEACHER, RELEVANCE, "student_scores", "mask", "item_weight", "stratum"}


class Lists(NamedTuple):
    """Labels (teacher scores or relevance), student scores and mask: one batch."""

    labels: np.ndarray
    student_scores: np.ndarray
    mask: np.ndarray


def all_losses() -> list[type[keras.losses.Loss]]:
    """All public Keras losses defined in modules of the package."""
    found = []
    for module in pkgutil.iter_modules(losses.__path__, "recdistill.losses."):
        home = import_module(module.name)
        for name, cls in inspect.getmembers(home, inspect.isclass):
            is_loss = issubclass(cls, keras.losses.Loss) and not name.startswith("_")
            if is_loss and cls.__module__ == home.__name__:
                found.append(cls)
    return found


def list_losses() -> list[type[losses.ListLoss]]:
    """All losses that learn from a list of teacher scores or relevance."""
    return [
        cls for cls in all_losses() if {TEACHER, RELEVANCE} & set(parameters_of(cls))
    ]


def learns_from_teacher(loss_cls: type[losses.ListLoss]) -> bool:
    """Whether the labels of a loss are teacher scores; otherwise they are relevance."""
    return TEACHER in parameters_of(loss_cls)


def function_of(loss_cls: type[losses.ListLoss]) -> Callable:
    """The pure function behind a loss class."""
    return getattr(losses, _snake_case(loss_cls.__name__))


def reference_of(loss_cls: type[losses.ListLoss]) -> Callable:
    """The plain-loop definition of a loss class."""
    return getattr(reference_losses, _snake_case(loss_cls.__name__))


def parameters_of(loss_cls: type[losses.ListLoss]) -> list[str]:
    """The arguments of the loss function; empty if the class has no function."""
    if _snake_case(loss_cls.__name__) not in losses.__all__:
        return []
    return list(inspect.signature(function_of(loss_cls)).parameters)


def settings_of(loss_cls: type[losses.ListLoss]) -> list[str]:
    """The names of the settings of a loss."""
    return [name for name in parameters_of(loss_cls) if name not in NO_SETTINGS]


def unusual(loss_cls: type[losses.ListLoss]) -> dict[str, Any]:
    """All settings of a loss with non-default values."""
    return {name: UNUSUAL[name] for name in settings_of(loss_cls)}


def cut_short(loss_cls: type[losses.ListLoss]) -> dict[str, Any]:
    """A cut-off below the list size, for a loss that has a cut-off by default."""
    cut = getattr(loss_cls(), "k", None) is not None
    return {"k": UNUSUAL["k"]} if cut else {}


def at_temperature(loss_cls: type[losses.ListLoss], value: float) -> dict[str, Any]:
    """The temperature as keyword argument, if the loss has one."""
    return {"temperature": value} if "temperature" in settings_of(loss_cls) else {}


def ragged_lists(loss_cls: type[losses.ListLoss]) -> Lists:
    """Six lists of 5, 3, 1, 0, 2 and 5 candidates, with labels that suit the loss.

    The values under padding are arbitrary.
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


def item_weights() -> np.ndarray:
    """Item weights for `ragged_lists`, which remove one candidate from three lists."""
    weight = np.random.default_rng(8).uniform(0.5, 3.0, (6, 5))
    weight[0, 3] = weight[1, 1] = weight[5, 4] = 0.0
    return weight.astype("float32")


def loss_and_gradient(
    function: Callable, labels: Any, student_scores: Any, mask: Any, **settings: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of each list, and the gradient of their sum by the student's scores."""
    student_scores = tf.constant(student_scores)
    with tf.GradientTape() as tape:
        tape.watch(student_scores)
        loss = function(labels, student_scores, mask, **settings)
        target = tf.reduce_sum(loss)
    return loss.numpy(), tape.gradient(target, student_scores).numpy()


def _snake_case(name: str) -> str:
    word_starts = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    return re.sub(word_starts, "_", name).lower()
