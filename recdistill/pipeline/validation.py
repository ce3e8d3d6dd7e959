"""Models judged: scored as one function of a batch, on held-out lists, by metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

from recdistill.data.batches import Lists, catalogue_mask, catalogue_relevance
from recdistill.data.collation import score_catalogue
from recdistill.data.shard_reading import in_order
from recdistill.errors import TeacherError
from recdistill.evaluation.rows import ListRows, measure
from recdistill.pipeline.model_building import Teacher, members_of
from recdistill.pipeline.prepared_data import Prepared
from recdistill.teachers import ScoreTable
from recdistill.teachers.score_table import keep_scored_by_all

Scorer = Callable[[Any], Any]

FROM_OUTSIDE = ("raw", "list_key")
"""What only teachers from outside read of a batch."""

PAIRS_AT_ONCE = 100_000
"""Candidates that a ranker scores in one call: more do not fit the caches."""


def compiled(model: Teacher) -> Scorer:
    """The model as a TensorFlow function of a batch, for scoring only.

    It is traced once for each set of inputs, with all sizes left open. A teacher from
    outside is called as it is; of an ensemble with such a one, the other members are
    compiled.
    """
    if not isinstance(model, keras.Model):
        return model
    members = members_of(model)
    if not all(isinstance(member, keras.Model) for member in members):
        scorers = [compiled(member) for member in members]
        return lambda x: model.joined([score(x) for score in scorers], x["mask"])
    functions: dict[tuple[str, ...], Any] = {}

    def score(x: dict[str, Any]) -> tf.Tensor:
        x = {name: value for name, value in x.items() if name not in FROM_OUTSIDE}
        x = tf.nest.map_structure(tf.convert_to_tensor, x)
        key = tuple(sorted(x))
        if key not in functions:
            signature = tf.nest.map_structure(
                lambda v: tf.TensorSpec([None] * v.shape.rank, v.dtype), x
            )
            function = tf.function(
                lambda batch: model(batch, training=False), input_signature=[signature]
            )
            functions[key] = function.get_concrete_function()
        return functions[key](x)

    return score


@dataclass(frozen=True)
class Validation:
    """Validation lists, ranked in full to choose checkpoints and learning rates.

    Attributes:
        lists: The lists, in pieces that can be scored at once.
        catalogue_size: Number of items.
        metrics: Metric names; the first one decides.
    """

    lists: Sequence[Lists]
    catalogue_size: int
    metrics: Sequence[str]

    @classmethod
    def of(
        cls,
        prepared: Prepared,
        metrics: Sequence[str],
        limit: int,
        seed: int,
        tables: Sequence[ScoreTable] = (),
    ) -> Validation:
        """A seeded sample of at most `limit` validation lists.

        Args:
            prepared: The prepared data.
            metrics: Metric names.
            limit: Most lists.
            seed: Seeds the sample.
            tables: Of a teacher that has only some scores: all models are then judged
                on those candidates, in all lists where a positive is among them.

        Raises:
            TeacherError: If there is no such list.
        """
        size = max(1, PAIRS_AT_ONCE // prepared.catalogue_size)
        if tables:
            pieces = list(lists_with_scored_candidates(prepared, "valid", tables))
        else:
            pieces = list(in_order(prepared.shards("valid"), size, limit, seed))
        return cls(pieces, prepared.catalogue_size, metrics)

    def rows(self, score: Scorer) -> pa.Table:
        """One row a list: the metrics of a model."""
        rows = ListRows()
        for lists in self.lists:
            scores = score_catalogue(score, lists, self.catalogue_size)
            judged = judge(lists, scores, self.metrics)
            rows.add(lists.list_id, list(lists.query_id), judged)
        return rows.table()

    def __call__(self, score: Scorer) -> float:
        """The mean of the first metric."""
        return float(np.nanmean(self.rows(score)[self.metrics[0]].to_numpy()))


def judge(
    lists: Lists, scores: np.ndarray, metrics: Sequence[str]
) -> dict[str, np.ndarray]:
    """Metrics of scores over the whole catalogue, seen items masked.

    Args:
        lists: The lists.
        scores: `(lists, items)`.
        metrics: Metric names.

    Returns:
        `(lists,)` for each metric; 0 where the catalogue lacks the positive.
    """
    size = scores.shape[1]
    lost = np.bincount(
        lists.positives.row_numbers(), lists.positives.values >= 0, len(lists)
    )
    return measure(
        scores,
        catalogue_relevance(lists, size),
        catalogue_mask(lists, size),
        metrics,
        unreachable=lost == 0,
    )


def lists_with_scored_candidates(
    prepared: Prepared, split: str, tables: Sequence[ScoreTable]
) -> Iterator[Lists]:
    """The lists of a split on which a teacher of some scores can be judged.

    These are the lists that have a positive among the candidates that it scored, with
    those candidates alone.

    Args:
        prepared: The prepared data.
        split: "valid" or "test".
        tables: The scores that there are.

    Yields:
        Lists, as many as can be scored at once.

    Raises:
        TeacherError: If there is no such list.
    """
    size, total = max(1, PAIRS_AT_ONCE // prepared.catalogue_size), 0
    for lists in in_order(prepared.shards(split), size):
        lists = keep_scored_by_all(lists, tables).with_positive()
        total += len(lists)
        if len(lists):
            yield lists
    if not total:
        raise TeacherError(
            f"The teacher must have scores for {split} lists, their positive among "
            "them, or it cannot be judged. Received: none. Have it score the "
            "candidates of some held-out lists as well."
        )
