"""The student with its item embeddings rounded as its export stores them.

Metrics of a student whose export stores bfloat16 or int8 are those of the rounded
embeddings, so that the export serves what was evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from recdistill.models.two_tower import TwoTowers
from recdistill.pipeline.ranking.two_tower_catalogue import item_embeddings
from recdistill.retrieval.item_storage import (
    Storage,
    column_scales,
    from_storage,
    to_storage,
)


def as_exported(student: TwoTowers, storage: Storage) -> TwoTowers:
    """The student as its export scores items.

    Args:
        student: The trained student. Its weights must not change while the result is
            used.
        storage: Type in which the export stores the item embeddings.

    Returns:
        The student itself for float32. Otherwise a model for inference only.
    """
    if storage == "float32":
        return student
    return TwoTowers(
        student.model_inputs,
        student.candidate_table,
        _Queries(student),
        _RoundedItems(student, storage),
    )


class _Queries(keras.layers.Layer):  # type: ignore[misc]
    """The query tower of a student."""

    def __init__(self, student: TwoTowers) -> None:
        super().__init__()
        self._student = student

    def call(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The embeddings of the queries."""
        return self._student.encode_query(features)


class _RoundedItems(keras.layers.Layer):  # type: ignore[misc]
    """The candidate tower of a student, whose output is rounded."""

    def __init__(self, student: TwoTowers, storage: Storage) -> None:
        super().__init__()
        self._student, self._storage = student, storage
        self._scales = column_scales(np.asarray(item_embeddings(student)), storage)

    def call(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The rounded embeddings of the candidates."""
        embeddings = self._student.encode_candidates(features)
        embeddings = tf.cast(embeddings, tf.float32)
        stored = to_storage(embeddings, self._storage, self._scales)
        return from_storage(stored, self._scales)
