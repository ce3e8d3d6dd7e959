"""Ranks the candidates of lists with a model: their own ones, or the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recdistill.data.batches import Lists, catalogue_mask
from recdistill.data.collation import score_catalogue, scored_batch
from recdistill.data.ragged import Ragged
from recdistill.pipeline.models.scorers import (
    PAIRS_AT_ONCE,
    PopularityScorer,
    Scorer,
    TwoTowerScorer,
)
from recdistill.pipeline.ranking.catalogue_ranking import (
    CatalogueScores,
    Ranking,
    in_blocks,
    rank_candidates,
    rank_catalogue,
    rank_same_scores,
)
from recdistill.pipeline.ranking.two_tower_catalogue import TwoTowerCatalogue


@dataclass(frozen=True)
class CandidateRanker:
    """Ranks the candidates of lists with a model.

    The weights of a two-tower model must not change while the object is used, because
    its candidates are encoded once.

    Attributes:
        score: The model.
        items: Number of items in the catalogue.
    """

    score: Scorer
    items: int

    @cached_property
    def _two_towers(self) -> TwoTowerCatalogue | None:
        """The catalogue of a two-tower model; None for another model."""
        if not isinstance(self.score, TwoTowerScorer):
            return None
        return TwoTowerCatalogue(self.score.model)

    @cached_property
    def _catalogue(self) -> CatalogueScores:
        """Scores of the whole catalogue, in the fastest way that the model allows."""
        score, items = self.score, self.items
        if self._two_towers is not None:
            return self._two_towers.scores
        if isinstance(score, PopularityScorer):
            popularity = score.popularity
            return lambda lists: np.broadcast_to(popularity, (len(lists), items))

        def each_pair(lists: Lists) -> np.ndarray:
            blocks = in_blocks(lists, PAIRS_AT_ONCE // items)
            return np.concatenate([score_catalogue(score, b, items) for b in blocks])

        return each_pair

    def scores(self, lists: Lists, candidates: np.ndarray) -> np.ndarray:
        """Scores of a block of lists, `(lists, n)`.

        Args:
            lists: The lists.
            candidates: The result of `candidates_of`.
        """
        if lists.scored_candidates is None:
            return self._catalogue(lists)
        return np.asarray(self.score(scored_batch(lists, self.items, candidates)))

    def rank(self, lists: Lists, top: int) -> Ranking:
        """Ranks the candidates of each list.

        Args:
            lists: The lists.
            top: Number of first items; 0 if only the positives are of interest.

        Raises:
            NotRankableError: If the score of a candidate is NaN or infinity.
        """
        if lists.scored_candidates is None and isinstance(self.score, PopularityScorer):
            return rank_same_scores(self.score.popularity, lists, top)
        if lists.scored_candidates is None and self._two_towers is not None:
            return self._two_towers.rank(lists, top)
        if lists.scored_candidates is None:
            return rank_catalogue(self._catalogue, lists, self.items, top)
        parts = []
        for block, candidates in candidate_blocks(lists, self.items):
            scores = self.scores(block, candidates)
            parts.append(rank_candidates(scores, candidates, block, top))
        return Ranking.joined(parts)


def candidate_blocks(lists: Lists, items: int) -> Iterator[tuple[Lists, np.ndarray]]:
    """A few lists at a time, with their candidates.

    Args:
        lists: The lists.
        items: Number of items in the catalogue.

    Yields:
        Lists, and `(lists, n)` int32: rows of the candidates in ascending order; -1
        marks items of the catalogue that are not candidates, and padding.
    """
    scored, excluded = lists.scored_candidates, lists.excluded
    own: Ragged | None = None
    if scored is not None:
        own = scored.distinct().difference(excluded)
    width = items if own is None else max(1, int(np.diff(own.offsets).max(initial=0)))
    size = max(1, PAIRS_AT_ONCE // width)
    for low in range(0, len(lists), size):
        rows = np.arange(low, min(low + size, len(lists)))
        block = lists.take(rows)
        if own is None:
            mask = catalogue_mask(block, items)
            candidates = np.where(mask, np.arange(items), -1)
        else:
            candidates = own.take(rows).padded(-1)
        yield block, candidates.astype("int32")
