"""Cross-fitting: a list is scored by a teacher that was not trained on its query.

A teacher's scores of the lists that it was trained on are overconfident, which makes
them poor training targets. The queries are therefore divided into folds, and a teacher
is also trained without each fold. The fold of a query follows from its training row, so
that training and scoring agree without a table of folds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from recdistill.data.ragged import Ragged

SHARED_BY_LISTS = 1
"""Rank of a `candidate_index` that all lists of a batch share."""


def folds_of(training_rows: Ragged, folds: int) -> np.ndarray:
    """The fold of each query, `(queries,)`, from its training row.

    Args:
        training_rows: The training items of each query, as vocabulary indices.
        folds: Number of folds.
    """
    total = np.concatenate([[0], np.cumsum(training_rows.values, dtype="int64")])
    return np.asarray(np.diff(total[training_rows.offsets]) % folds)


def score_by_fold(
    inputs: Any,
    training_row: tf.Tensor,
    scorers: Sequence[Callable[[Any], tf.Tensor]],
) -> tf.Tensor:
    """Scores of a batch; those of each fold come from the scorer of this fold.

    Args:
        inputs: Tensors whose first axis is that of the lists, in any structure.
        training_row: `(batch, n)` int, the training row of each query, padded with 0.
        scorers: The scorer of each fold: such inputs of some lists to their scores.

    Returns:
        `(batch, …)`, in the order of the batch.
    """
    fold = tf.reduce_sum(tf.cast(training_row, "int64"), axis=1) % len(scorers)
    places = [tf.where(fold == number)[:, 0] for number in range(len(scorers))]
    scores = []
    for place, scorer in zip(places, scorers, strict=True):
        own = tf.nest.map_structure(lambda v, p=place: tf.gather(v, p), inputs)
        scores.append(scorer(own))
    order = tf.argsort(tf.concat(places, axis=0))
    return tf.gather(tf.concat(scores, axis=0), order)


class CrossFittedTeacher(keras.Model):  # type: ignore[misc]
    """Teachers that were trained without one fold each; a list is scored by its own.

    Batches must have the training row of each query, from which the fold follows.

    Args:
        folds: The teacher that was trained without each fold.
    """

    def __init__(self, folds: Sequence[keras.Model]) -> None:
        # The teachers cast their own inputs.
        super().__init__(name="cross_fitted_teacher", autocast=False)
        self.folds = list(folds)
        self.built = True

    def call(self, batch: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        """Scores `(batch, list_size)`.

        Args:
            batch: A batch as described in `recdistill.data.batches`, with the
                `training_row` of each query.
            training: Whether dropout is active.
        """
        index = tf.convert_to_tensor(batch["candidate_index"])
        own = {k: v for k, v in batch.items() if k != "candidate_index"}
        shared = {}
        if index.shape.rank == SHARED_BY_LISTS:
            shared["candidate_index"] = index
        else:
            own["candidate_index"] = index
        scorers = [
            lambda part, model=model: model({**part, **shared}, training=training)
            for model in self.folds
        ]
        return score_by_fold(own, batch["training_row"], scorers)
