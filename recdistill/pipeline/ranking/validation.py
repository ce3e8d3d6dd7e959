"""Ranking metrics of a model on the validation lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.evaluation.rows import ListRows, measure_ranks
from recdistill.pipeline.candidates.scored_candidates import lists_to_evaluate
from recdistill.pipeline.models.scorers import Scorer
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.ranking.candidate_ranker import CandidateRanker
from recdistill.teachers import ScoreTable

SCORES_OF_A_VALIDATION = 10**9
"""Pairs of a list and a candidate that one validation during training ranks: about 20
seconds with a two-tower model of width 32 on one core."""

FEWEST_LISTS = 500
"""Lists that a validation has, if there are so many, whatever they cost."""


@dataclass(frozen=True)
class Validation:
    """Validation lists, ranked in full to choose checkpoints and learning rates.

    Attributes:
        lists: The lists, in pieces.
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

    def with_sampled_candidates(
        self, popularity: np.ndarray, number: int, seed: int
    ) -> Validation:
        """The lists with candidates that do not depend on any model.

        A teacher that cannot rank the catalogue is trained by these: the positives, the
        most popular items, and as many uniformly drawn ones, the same for all lists.

        Args:
            popularity: `(items,)`, training interactions.
            number: Number of popular and of drawn items.
            seed: Seed of the draw.
        """
        order = np.argsort(-popularity, kind="stable")[:number]
        rng = np.random.default_rng(seed)
        drawn = rng.choice(len(popularity), min(number, len(popularity)), replace=False)
        common = np.union1d(order, drawn).astype("int32")

        def restricted(lists: Lists) -> Lists:
            offsets = np.arange(len(lists) + 1) * len(common)
            shared = Ragged(np.tile(common, len(lists)), offsets)
            return replace(lists, scored_candidates=shared.union(lists.positives))

        return replace(self, lists=[restricted(each) for each in self.lists])

    def during_training(self) -> Validation:
        """As many of the lists as may be ranked many times, spread over all of them.

        With a million items a student of 200 steps would spend most of its time on the
        ten rankings of 4,000 lists that choose its checkpoint.
        """
        total = len(self)
        scored = [each.scored_candidates for each in self.lists]
        pairs = sum(
            len(each) * self.catalogue_size if own is None else len(own.values)
            for each, own in zip(self.lists, scored, strict=True)
        )
        fewer = total * SCORES_OF_A_VALIDATION // max(1, pairs)
        return self.spread(max(FEWEST_LISTS, fewer))

    def spread(self, count: int) -> Validation:
        """At most `count` of the lists, spread over all of them."""
        total = len(self)
        if count >= total:
            return self
        chosen = np.arange(count) * total // count
        starts = np.cumsum([0, *map(len, self.lists)])
        edges = np.searchsorted(chosen, starts)
        pieces = [
            each.take(chosen[low:high] - start)
            for each, start, (low, high) in zip(
                self.lists, starts, pairwise(edges), strict=False
            )
            if high > low
        ]
        return replace(self, lists=pieces)

    def first(self, limit: int) -> Validation:
        """The first lists, at most `limit`."""
        piece = self.lists[0]
        return replace(self, lists=[piece.take(np.arange(min(limit, len(piece))))])

    def __len__(self) -> int:
        """Number of lists."""
        return sum(map(len, self.lists))

    def rows(self, score: Scorer) -> pa.Table:
        """The metrics of a model, one row per list; 0 if it has no positive candidate.

        Raises:
            NotRankableError: If a score is NaN or infinity.
        """
        rows = ListRows()
        ranker = CandidateRanker(score, self.catalogue_size)
        for lists in self.lists:
            values = measure_ranks(ranker.rank(lists, top=0).ranks, self.metrics)
            rows.add(lists.list_id, list(lists.query_id), values)
        return rows.table()

    def mean(self, rows: pa.Table) -> float:
        """The mean of the first metric over rows."""
        return float(np.nanmean(rows[self.metrics[0]].to_numpy()))

    def __call__(self, score: Scorer) -> float:
        """The mean of the first metric."""
        return self.mean(self.rows(score))
