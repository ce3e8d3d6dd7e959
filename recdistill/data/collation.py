"""Collation: converts lists to one batch of the tensor contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recdistill.data.batches import (
    Lists,
    catalogue_mask,
    catalogue_relevance,
    raw_inputs,
)
from recdistill.data.ragged import Ragged

Batch = tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]
_Candidates = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Collator:
    """Function from lists to one batch of the tensor contract.

    Attributes:
        catalogue_size: Number of items.
        tail: Number of uniformly sampled candidates in addition to the positives and to
            what was shown and not chosen; None to rank the whole catalogue. Each item
            is sampled with the probability `tail / catalogue_size`, the inverse of
            which is its weight. Lists with stored teacher scores keep the candidates of
            these; if the lists say what was shown, their relevance is learned from the
            shown and `tail` sampled candidates only, without weights.
        shared: Whether sampled lists share one `candidate_index`, which then holds the
            positives of all lists and what was shown in them. Sharing is faster for a
            model that encodes each candidate once, and slower for a model that scores
            each pair.
        training_rows: Training rows of all queries, as vocabulary indices; None if the
            teacher does not need them.
        with_teacher: Whether the batch has the stored teacher scores.
    """

    catalogue_size: int
    tail: int | None = None
    shared: bool = False
    training_rows: Ragged | None = None
    with_teacher: bool = False

    def __call__(self, lists: Lists, rng: np.random.Generator) -> Batch:
        """Batch of these lists; `rng` samples the candidates."""
        index, mask, relevance, weight = self._candidates(lists, rng)
        x = {"candidate_index": index, "query": dict(lists.query), "mask": mask}
        if weight is not None:
            x["item_weight"] = weight
        about = mask
        if self.with_teacher and self.tail is not None:
            about = self._labelled(lists, index, mask, rng)
        if self.with_teacher and lists.teacher_scores is not None:
            x["teacher_scores"] = lists.teacher_scores.astype("float32")
        if self.training_rows is not None:
            x["training_row"] = _training_row(lists, self.training_rows)
        y = (
            {"labels": relevance}
            if about is mask
            else {"labels": relevance, "mask": about}
        )
        return x, y, lists.weight

    def _candidates(self, lists: Lists, rng: np.random.Generator) -> _Candidates:
        """Candidate index, mask, relevance, and the weights of drawn candidates."""
        if lists.candidates is not None and self.with_teacher:
            return _stored(lists, lists.candidates)
        if self.tail is None or self.with_teacher:
            index = np.arange(self.catalogue_size, dtype="int32")
            mask = catalogue_mask(lists, self.catalogue_size)
            return index, mask, catalogue_relevance(lists, self.catalogue_size), None
        tail = self._draw(self.tail, rng)
        allowed = _allowed(lists, tail)
        found = (_shared if self.shared else _separate)(lists, tail, allowed)
        return *found, self._drawn_weight(lists, found[1], len(tail))

    def _drawn_weight(
        self, lists: Lists, mask: np.ndarray, drawn: int
    ) -> np.ndarray | None:
        """Weights of the candidates, the last of which were drawn.

        The shown candidates of a list are all that its relevance is about; the drawn
        ones only keep items low that are never shown.
        """
        if lists.not_chosen is not None or drawn in (0, self.catalogue_size):
            return None
        weight = np.ones(mask.shape, "float32")
        weight[:, mask.shape[1] - drawn :] = self.catalogue_size / drawn
        return weight

    def _draw(self, tail: int, rng: np.random.Generator) -> np.ndarray:
        """Sampled items, each once."""
        size = min(tail, self.catalogue_size)
        drawn = rng.choice(self.catalogue_size, size, replace=False)
        return np.asarray(drawn, "int32")

    def _labelled(
        self,
        lists: Lists,
        index: np.ndarray,
        mask: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Mask of the candidates from which the relevance is learned.

        It is not known whether an item that was not shown would have been chosen. The
        teacher's scores are learned for all candidates.
        """
        shown = lists.shown
        if shown is None or self.tail is None:
            return mask
        drawn = self._draw(self.tail, rng)
        return np.asarray(mask & (np.isin(index, drawn) | shown.holds(index)))


def _allowed(lists: Lists, drawn: np.ndarray) -> np.ndarray:
    """`(lists, drawn)` bool: the drawn items that may be negatives of each list."""
    # A drawn positive would be its own negative.
    own, _ = lists.observed()
    return np.asarray(~(lists.excluded.holds(drawn) | own.holds(drawn)))


def _separate(
    lists: Lists, tail: np.ndarray, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each list has its own observed candidates, followed by the common tail."""
    observed, values = lists.observed()
    own = observed.padded(-1)
    real = own >= 0
    index = np.concatenate(
        [np.maximum(own, 0), np.broadcast_to(tail, allowed.shape)], axis=1
    )
    mask = np.concatenate([real, allowed], axis=1)
    relevance = np.concatenate(
        [values.padded(0.0) * real, np.zeros(allowed.shape, "float32")], axis=1
    )
    return index.astype("int32"), mask, relevance


def _shared(
    lists: Lists, tail: np.ndarray, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One `candidate_index` for all lists: their observed candidates, and the tail.

    The positive of one list is a candidate of another only if it was sampled; otherwise
    popular items would be negatives more often than they should.
    """
    observed, values = lists.observed()
    inside = observed.values >= 0
    rows, items = observed.row_numbers()[inside], observed.values[inside]
    own, place = np.unique(items, return_inverse=True)
    index = np.concatenate([own, tail]).astype("int32")
    mask = np.zeros((len(lists), len(index)), bool)
    mask[:, len(own) :] = allowed
    mask[rows, place] = True
    relevance = np.zeros(mask.shape, "float32")
    relevance[rows, place] = values.values[inside]
    return index, mask, relevance


def _stored(lists: Lists, stored: np.ndarray) -> _Candidates:
    """The candidates that are stored with their scores."""
    mask = stored >= 0
    index = np.maximum(stored, 0).astype("int32")
    relevance = np.zeros(mask.shape, "float32")
    # Without a table of each candidate with each positive.
    positives, value = lists.positives.padded(-1), lists.relevance.padded(0.0)
    for column in range(positives.shape[1]):
        same = (index == positives[:, column, None]) & mask
        relevance += same * value[:, column, None]
    return index, mask, relevance, lists.item_weight()


def _training_row(lists: Lists, training_rows: Ragged) -> np.ndarray:
    """The training row of each list's query, padded with 0; 0 for a new query."""
    rows = training_rows.take(np.maximum(lists.query_row, 0))
    return np.where(lists.query_row[:, None] >= 0, rows.padded(0), 0)


def scored_batch(
    lists: Lists,
    catalogue_size: int,
    candidates: np.ndarray | None = None,
    training_rows: Ragged | None = None,
) -> dict[str, Any]:
    """A batch of which only the scores are wanted, with raw inputs but without labels.

    Args:
        lists: The queries.
        catalogue_size: Number of items.
        candidates: `(lists, n)` int, item rows; those below 0 are masked. Or `(n,)`,
            item rows that all lists share, without the excluded ones. None for the
            whole catalogue.
        training_rows: As for `Collator`.
    """
    if candidates is None:
        index = np.arange(catalogue_size, dtype="int32")
        mask = catalogue_mask(lists, catalogue_size)
    elif candidates.ndim == 1:
        index = candidates.astype("int32")
        mask = ~lists.excluded.holds(candidates)
    else:
        index = np.maximum(candidates, 0).astype("int32")
        mask = candidates >= 0
    x = {
        "candidate_index": index,
        "query": dict(lists.query),
        "mask": mask,
        "raw": raw_inputs(lists),
        "list_key": lists.list_key,
    }
    if training_rows is not None:
        x["training_row"] = _training_row(lists, training_rows)
    return x


def score_catalogue(
    score: Callable[[Mapping[str, Any]], Any], lists: Lists, catalogue_size: int
) -> np.ndarray:
    """Scores of the whole catalogue, `(lists, catalogue_size)` float32.

    Args:
        score: Function from a batch of the tensor contract to scores
            `(batch, list_size)`.
        lists: The queries.
        catalogue_size: Number of items.
    """
    return np.asarray(score(scored_batch(lists, catalogue_size)))
