"""Ranking metrics of a model on the validation lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recdistill.data.batches import Lists, catalogue_mask, catalogue_relevance
from recdistill.data.collation import score_catalogue
from recdistill.evaluation.rows import ListRows, measure
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.scored_candidates import lists_to_evaluate
from recdistill.pipeline.scorers import Scorer
from recdistill.teachers import ScoreTable


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
    def sample(
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
            limit: Maximum number of lists.
            seed: Seed of the sample.
            tables: Partial scores of the teacher. All models then rank the scored
                candidates, in all lists with a scored positive.

        Raises:
            TeacherError: If no list has a scored positive.
        """
        pieces = list(lists_to_evaluate(prepared, "valid", tables, limit, seed))
        return cls(pieces, prepared.catalogue_size, metrics)

    def rows(self, score: Scorer) -> pa.Table:
        """The metrics of a model, one row per list."""
        rows = ListRows()
        for lists in self.lists:
            scores = score_catalogue(score, lists, self.catalogue_size)
            values = measure_lists(lists, scores, self.metrics)
            rows.add(lists.list_id, list(lists.query_id), values)
        return rows.table()

    def mean(self, rows: pa.Table) -> float:
        """The mean of the first metric over rows."""
        return float(np.nanmean(rows[self.metrics[0]].to_numpy()))

    def __call__(self, score: Scorer) -> float:
        """The mean of the first metric."""
        return self.mean(self.rows(score))


def measure_lists(
    lists: Lists, scores: np.ndarray, metrics: Sequence[str]
) -> dict[str, np.ndarray]:
    """Ranking metrics of the candidates of each list.

    Args:
        lists: The lists.
        scores: `(lists, items)`.
        metrics: Metric names.

    Returns:
        `(lists,)` for each metric; 0 for a list without a positive among its
        candidates.
    """
    size = scores.shape[1]
    relevance, mask = catalogue_relevance(lists, size), catalogue_mask(lists, size)
    reachable = ((relevance > 0) & mask).any(axis=1)
    return measure(scores, relevance, mask, metrics, unreachable=~reachable)
