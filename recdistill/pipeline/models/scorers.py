"""Scorers: a model as a function of a batch that returns scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from recdistill.data.dataset import Progress
from recdistill.models.two_tower import TwoTowers
from recdistill.pipeline.models.model_building import Teacher, members_of

Scorer = Callable[[Any], Any]
"""A batch to scores `(batch, list_size)`."""

EXTERNAL_ONLY = ("raw", "list_key")
"""Entries of a batch that only external teachers read."""

PAIRS_AT_ONCE = 100_000
"""Candidates scored per call; with more, intermediate results do not fit the caches."""


@dataclass(frozen=True)
class TwoTowerScorer:
    """The scorer of a two-tower model, which can also rank a whole catalogue.

    Attributes:
        model: The model.
        score: The model as a TensorFlow function.
    """

    model: TwoTowers
    score: Scorer

    def __call__(self, x: Mapping[str, Any]) -> Any:
        """The scores `(batch, list_size)`."""
        return self.score(x)


@dataclass(frozen=True)
class PopularityScorer:
    """The popularity model: an item's score is its number of training interactions.

    Attributes:
        popularity: `(items,)`.
    """

    popularity: np.ndarray

    def __call__(self, x: Mapping[str, Any]) -> np.ndarray:
        """The scores `(batch, list_size)`."""
        index = np.asarray(x["candidate_index"])
        return np.broadcast_to(self.popularity[index], np.shape(x["mask"]))


def compiled(model: Teacher) -> Scorer:
    """The model as a TensorFlow function of a batch, for inference only.

    It is traced once per set of inputs, with all dimensions left open. The scorer of a
    two-tower model is a `TwoTowerScorer`. An external
    teacher is returned unchanged; in an ensemble with one, the other members are
    compiled.
    """
    if not isinstance(model, keras.Model):
        return model
    members = members_of(model)
    if not all(isinstance(member, keras.Model) for member in members):
        scorers = [compiled(member) for member in members]
        return lambda x: model.joined([score(x) for score in scorers], x)
    functions: dict[str, Any] = {}

    def score(x: dict[str, Any]) -> tf.Tensor:
        x = {name: value for name, value in x.items() if name not in EXTERNAL_ONLY}
        x = tf.nest.map_structure(tf.convert_to_tensor, x)
        key = str(tf.nest.map_structure(_rank, x))
        if key not in functions:
            signature = tf.nest.map_structure(
                lambda v: tf.TensorSpec([None] * v.shape.rank, v.dtype), x
            )
            function = tf.function(
                lambda batch: model(batch, training=False),
                input_signature=[signature],
                autograph=False,
            )
            functions[key] = function.get_concrete_function()
        return functions[key](x)

    return TwoTowerScorer(model, score) if isinstance(model, TwoTowers) else score


def _rank(value: tf.Tensor) -> int:
    return int(value.shape.rank)


def with_progress(score: Scorer, label: str, lists: int, progress: Progress) -> Scorer:
    """A scorer that reports progress after each call.

    Args:
        score: The scorer.
        label: The activity, for the progress display.
        lists: Number of lists that it is going to score.
        progress: Callback for progress.
    """
    done = 0

    def scored(x: dict[str, Any]) -> Any:
        nonlocal done
        result = score(x)
        done += len(x["mask"])
        progress(label, done, max(done, lists))
        return result

    return scored
