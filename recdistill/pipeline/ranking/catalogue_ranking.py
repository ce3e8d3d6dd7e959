"""Rankings of a catalogue of any size, by blocks of queries in bounded memory.

A block has the scores of a few queries for all items. Its top items are selected
without a sort of the block, and the rank of a positive is one more than the number of
items ahead, which are counted. Nothing is kept of a block but these. Ties are broken by
the row of the catalogue: of two equal scores, the lower row ranks first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged, is_among, is_in_sorted
from recdistill.lists.numpy_ranks import first_k, ranks_of, real_scores
from recdistill.metrics.ranking import MISSED, RelevantRanks
from recdistill.pipeline.candidates.candidate_selection import highest, of_width

CatalogueScores = Callable[[Lists], np.ndarray]
"""Scores of the whole catalogue for some lists, `(lists, items)`."""

SCORES_AT_ONCE = 2**23
"""Scores of a block: 32 MiB in float32. A block has at least one query."""

_PASSES_OF_A_SORT = 16


class NotRankableError(ValueError):
    """A score of a candidate is NaN or infinity."""


@dataclass(frozen=True)
class Ranking:
    """Rankings of some lists by one model.

    Attributes:
        top: `(lists, n)` int32, rows of the first items, the best first; -1 pads lists
            with fewer candidates.
        ranks: Ranks of the positives among the candidates of their list; `MISSED` for
            those that are not among them, as for items outside the catalogue.
    """

    top: np.ndarray
    ranks: RelevantRanks

    @classmethod
    def joined(cls, parts: Sequence[Ranking]) -> Ranking:
        """The rankings of several groups of lists as one."""
        sizes = [each.ranks.batch_size for each in parts]
        before = np.cumsum([0, *sizes])
        ranks = RelevantRanks(
            int(before[-1]),
            np.concatenate(
                [p.ranks.row + b for p, b in zip(parts, before[:-1], strict=True)]
            ),
            np.concatenate([each.ranks.rank for each in parts]),
            np.concatenate([each.ranks.gain for each in parts]),
        )
        return cls(np.concatenate([each.top for each in parts]), ranks)


def rank_catalogue(
    score: CatalogueScores, lists: Lists, items: int, top: int
) -> Ranking:
    """Ranks the whole catalogue, without the excluded items of each list.

    Args:
        score: The model.
        lists: The lists. Their `scored_candidates` are not used.
        items: Number of items.
        top: Number of first items; 0 if only the positives are of interest.

    Raises:
        NotRankableError: If a score is NaN or infinity.
    """
    blocks = in_blocks(lists, SCORES_AT_ONCE // items)
    return Ranking.joined([rank_scores(score(each), each, top) for each in blocks])


def rank_same_scores(scores: np.ndarray, lists: Lists, top: int) -> Ranking:
    """Ranks the whole catalogue where all lists have the same scores, as by popularity.

    The catalogue is sorted once. A list costs its excluded items and its first ones.

    Args:
        scores: `(items,)`.
        lists: The lists. Their `scored_candidates` are not used.
        top: Number of first items; 0 if only the positives are of interest.

    Raises:
        NotRankableError: If a score is NaN or infinity.
    """
    check_scores(scores[None])
    items = len(scores)
    order = np.argsort(-scores, kind="stable")
    place = np.empty(items, "int64")
    place[order] = np.arange(items)
    excluded = lists.excluded.distinct()
    longest = int(np.diff(excluded.offsets).max(initial=0))
    first = order[: top + longest]
    parts = [np.zeros((0, top), "int32")]
    for block in in_blocks(lists, SCORES_AT_ONCE // max(1, len(first))):
        shown = np.broadcast_to(first, (len(block), len(first)))
        parts.append(of_width(_without(shown, block.excluded), top))
    row, item, gain = positives_of(lists)
    # The excluded items of a list, by their places.
    ahead = np.sort(excluded.row_numbers() * items + place[excluded.values])
    own = row * items
    before = np.searchsorted(ahead, own + place[item]) - np.searchsorted(ahead, own)
    rank = 1 + place[item] - before
    return Ranking(np.concatenate(parts), ordered_ranks(lists, row, rank, gain))


def in_blocks(lists: Lists, rows: int) -> Iterator[Lists]:
    """The lists, a few at a time; an empty block if there are none."""
    rows = max(1, rows)
    for low in range(0, max(1, len(lists)), rows):
        yield lists.take(np.arange(low, min(low + rows, len(lists))))


def rank_scores(scores: np.ndarray, lists: Lists, top: int) -> Ranking:
    """Ranks all columns of a block of scores, without the excluded items.

    Args:
        scores: `(lists, items)`.
        lists: The lists.
        top: Number of first items; 0 for none.

    Raises:
        NotRankableError: If a score is NaN or infinity.
    """
    scores = np.array(scores, order="C")
    excluded = lists.excluded
    scores[excluded.row_numbers(), excluded.values] = -np.inf
    check_scores(scores)
    count = min(top, scores.shape[1])
    if scores.dtype == np.float32:
        best = highest(scores, count)
        lowest = np.take_along_axis(scores, best, axis=1) == -np.inf
        if lowest.any():
            # Excluded items have taken places of others with minus infinity.
            longest = int(np.diff(excluded.offsets).max(initial=0))
            best = highest(scores, min(scores.shape[1], count + longest))
            best = _without(best, excluded)[:, :count]
    scores[excluded.row_numbers(), excluded.values] = np.nan
    if scores.dtype != np.float32:
        best = _first(scores, count)
    row, item, gain = positives_of(lists)
    rank = np.empty(len(row), np.int64)
    edges = np.searchsorted(row, np.arange(len(lists) + 1))
    for number in range(len(lists)):
        own = slice(edges[number], edges[number + 1])
        rank[own] = _ranks(scores[number], item[own])
    return Ranking(of_width(best, top), ordered_ranks(lists, row, rank, gain))


def rank_candidates(
    scores: np.ndarray, candidates: np.ndarray, lists: Lists, top: int
) -> Ranking:
    """Ranks the candidates of each list; positives that are none of them are missed.

    Args:
        scores: `(lists, n)`, scores of the candidates.
        candidates: `(lists, n)` int32, item rows in ascending order; -1 for no
            candidate.
        lists: The lists.
        top: Number of first items; 0 for none.

    Raises:
        NotRankableError: If the score of a candidate is NaN or infinity.
    """
    real = np.where(candidates >= 0, scores, np.asarray(-np.inf, scores.dtype))
    check_scores(real)
    real = real_scores(scores, candidates >= 0, name="scores")
    place = _first(real, top)
    best = np.take_along_axis(candidates, np.maximum(place, 0), axis=1)
    row, item, gain = positives_of(lists)
    real_place = np.flatnonzero(candidates >= 0)
    size = 1 + max(int(candidates.max(initial=0)), int(item.max(initial=0)))
    width = candidates.shape[1]
    known = real_place // max(1, width) * size + candidates.ravel()[real_place]
    inside = is_in_sorted(row * size + item, known)
    place_of = np.searchsorted(known, (row * size + item)[inside])
    rank = np.full(len(row), MISSED)
    rank[inside] = ranks_of(real, row[inside], real_place[place_of] % max(1, width))
    top_items = np.where(place >= 0, best, -1).astype("int32")
    return Ranking(top_items, ordered_ranks(lists, row, rank, gain))


def positives_of(lists: Lists) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of the list, item row and relevance of each positive, ordered by list.

    These are the items of the catalogue with a relevance above 0 that are not excluded,
    each once in its list.
    """
    size = 1 + max(int(lists.positives.values.max(initial=0)), 0)
    row, item, gain = lists.catalogue_positives()
    # Of a repeated positive the last relevance counts.
    key, place = np.unique((row * size + item)[::-1], return_index=True)
    row, item, gain = key // size, key % size, gain[::-1][place]
    own = Ragged(item, np.searchsorted(row, np.arange(len(lists) + 1)))
    allowed = _keys(own.difference(lists.excluded), size)
    free = is_among(key, allowed) & (gain != 0)
    if not ((gain[free] > 0) & (gain[free] < np.inf)).all():
        raise ValueError("`relevance` must be finite and at least 0")
    return row[free], item[free], gain[free].astype(np.float64)


def _keys(rows: Ragged, size: int) -> np.ndarray:
    return np.asarray(rows.row_numbers() * size + rows.values)


def check_scores(scores: np.ndarray) -> None:
    """Checks that no score is NaN or infinity; minus infinity ranks last."""
    high = scores.max(axis=1, initial=-np.inf)
    wrong = np.flatnonzero(~(high < np.inf))  # NaN is not below any number
    if len(wrong):
        raise NotRankableError(
            "The scores of candidates must be below infinity and not NaN. Received: "
            f"{high[wrong[0]]} in list {wrong[0]}"
        )


def _ranks(scores: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Ranks of items among the scores of one list; NaN does not rank."""
    if len(items) > _PASSES_OF_A_SORT:
        rank = np.empty(len(scores), np.int64)
        rank[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
        return np.asarray(rank[items])
    found = [
        1
        + np.count_nonzero(scores > scores[item])
        + np.count_nonzero(scores[:item] == scores[item])
        for item in items.tolist()
    ]
    return np.array(found, np.int64)


def _first(scores: np.ndarray, top: int) -> np.ndarray:
    return first_k(scores, top) if top else np.zeros((len(scores), 0), "int32")


def ordered_ranks(
    lists: Lists, row: np.ndarray, rank: np.ndarray, gain: np.ndarray
) -> RelevantRanks:
    """The ranks of all positives of some lists, in ascending order in each list.

    Args:
        lists: The lists. Those of their positives that are not in the catalogue are
            added as missed.
        row: Number of the list of each positive in the catalogue.
        rank: Its rank.
        gain: Its relevance.
    """
    outside = (lists.positives.values < 0) & (lists.relevance.values > 0)
    row = np.append(row, lists.positives.row_numbers()[outside])
    rank = np.append(rank, np.full(np.count_nonzero(outside), MISSED))
    gain = np.append(gain, lists.relevance.values[outside])
    order = np.lexsort((rank, row))
    return RelevantRanks(len(lists), row[order], rank[order], gain[order])


def _without(best: np.ndarray, excluded: Ragged) -> np.ndarray:
    """The items that are not excluded, in their order, padded with -1."""
    left = excluded.holds(best)
    order = np.argsort(left, axis=1, kind="stable")
    found: np.ndarray = np.take_along_axis(np.where(left, -1, best), order, axis=1)
    return found
