"""The tensor contract of a batch, and lists in memory.

A batch is a dict. The **list is the last axis**; the mask is never inferred.

* `query`: {feature name: `(batch, …)`}, looked-up values;
* `candidate_index`: int32 rows of the item table, `(batch, list_size)`, or
  `(list_size,)` if all lists of the batch share their candidates;
* `mask`: `(batch, list_size)` bool, True for a real candidate;
* `item_weight`: `(batch, list_size)` float32, if candidates were drawn from a large
  catalogue: 1 for a candidate that was chosen, and 1 / probability for one that was
  drawn, so that a sum over the list estimates the sum over the catalogue (Horvitz and
  Thompson, 1952);
* `teacher_scores`: `(batch, list_size)` float32, if they are stored;
* `stratum`: int32 of the shape of `candidate_index`, if a distillation loss learns
  within strata of items of similar popularity;
* `training_row`: `(batch, n)` int32, the items that the query interacted with in the
  training part; linear item models leave them out (`recdistill.models.linear`);
* `raw` {input name: `(batch, …)`}, raw query inputs as the exported student takes them,
  and `list_key` `(batch,)` text, for external teachers (`recdistill.teachers`).

`y` is `{"labels": relevance}` and the sample weight is `(batch,)`. If the relevance is
known for some of the candidates only, `y` also has their "mask", and the `item_weight`
is that of the teacher's scores only. (Two masks that are equal would be two arrays for
a training step, which would compute each softmax twice.)

`recdistill.data.collation` turns lists into batches; `recdistill.data.shard_reading`
reads lists from files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recdistill.data.ragged import Ragged

QUERY_PREFIX, RAW_PREFIX = "query.", "raw."


@dataclass(frozen=True)
class Lists:
    """Lists in memory: one shard, or some of its rows.

    Attributes:
        list_id: `(lists,)` int64.
        query_id: `(lists,)` str.
        query: Looked-up query features by name, `(lists, …)`.
        positives: Item rows of the relevant candidates; -1 for an item that is not in
            the catalogue.
        relevance: Relevance of each of the `positives`.
        seen: Item rows that the query interacted with before, each once and in the
            order of their first interactions.
        weight: `(lists,)` float32.
        query_row: `(lists,)`, row of the query in the training matrix, or -1.
        candidates: `(lists, n)`, item rows of stored candidates, -1 for padding; None
            if the candidates are the whole catalogue.
        teacher_scores: Scores of `candidates`, or of the whole catalogue; None if the
            lists are not scored.
        raw: Raw query inputs by name, if the shard stores them.
        scored_candidates: Item rows that a teacher with partial scores has scored; only
            these are candidates. None for the whole catalogue.
        source_list: `(lists,)` str, id of the list in the source, if the source is a
            listwise table.
        seen_excluded: Whether seen items are not candidates.
        not_chosen: Item rows that were shown in the list and not chosen; None if the
            data does not say what was shown.
        drawn: Number of the last columns of `candidates` that were drawn.
        drawn_weight: `(lists,)` float32, number of items that each drawn candidate
            stands for; None if none was drawn.
        repeats: `(lists,)` int64, number of earlier interactions of the query with an
            item that it had interacted with before; None if there are none.
    """

    list_id: np.ndarray
    query_id: np.ndarray
    query: dict[str, np.ndarray]
    positives: Ragged
    relevance: Ragged
    seen: Ragged
    weight: np.ndarray
    query_row: np.ndarray
    candidates: np.ndarray | None = None
    teacher_scores: np.ndarray | None = None
    raw: dict[str, np.ndarray | Ragged] = field(default_factory=dict)
    scored_candidates: Ragged | None = None
    source_list: np.ndarray | None = None
    seen_excluded: bool = True
    not_chosen: Ragged | None = None
    drawn: int = 0
    drawn_weight: np.ndarray | None = None
    repeats: np.ndarray | None = None

    @property
    def earlier(self) -> np.ndarray:
        """`(lists,)`: number of earlier interactions with items of the catalogue."""
        seen = np.diff(self.seen.offsets)
        return seen if self.repeats is None else seen + self.repeats

    @property
    def excluded(self) -> Ragged:
        """Item rows that are not candidates: the seen items, if they are excluded."""
        if self.seen_excluded:
            return self.seen
        return Ragged(self.seen.values[:0], np.zeros(len(self) + 1, "int64"))

    @property
    def shown(self) -> Ragged | None:
        """Item rows that were shown, chosen or not; None if the data does not say."""
        if self.not_chosen is None:
            return None
        return self.not_chosen.union(self.positives)

    def observed(self) -> tuple[Ragged, Ragged]:
        """The positives, and then what was shown and not chosen; with the relevance."""
        if self.not_chosen is None:
            return self.positives, self.relevance
        zeros = np.zeros(len(self.not_chosen.values), self.relevance.values.dtype)
        return (
            self.positives.followed_by(self.not_chosen),
            self.relevance.followed_by(Ragged(zeros, self.not_chosen.offsets)),
        )

    def with_listed_candidates(self) -> Lists:
        """Restricts the candidates to the shown items, if the data says what was shown.

        All lists stay, also those without a shown item in the catalogue.
        """
        shown = self.shown
        if shown is None:
            return self
        if self.scored_candidates is not None:
            shown = shown.intersection(self.scored_candidates)
        return replace(self, scored_candidates=shown)

    @property
    def list_key(self) -> np.ndarray:
        """`(lists,)` str: key of the list in a table of scores."""
        return self.query_id if self.source_list is None else self.source_list

    def with_scored_candidates(self, scored: Ragged) -> Lists:
        """Restrict the candidates; lists without any scored candidate are left out.

        Args:
            scored: Scored item rows of each list. If the lists already have scored
                candidates, the intersection counts.
        """
        if self.scored_candidates is not None:
            scored = scored.intersection(self.scored_candidates)
        rows = np.flatnonzero(np.diff(scored.offsets))
        return replace(self, scored_candidates=scored).take(rows)

    def with_scored_positives(self) -> Lists:
        """The lists that have a positive among their scored candidates.

        Positives without a score are left out, because they are not candidates.
        """
        if self.scored_candidates is None:
            return self
        scored = self.positives.are_in(self.scored_candidates)
        positives = self.positives.where(scored)
        relevance = self.relevance.where(scored)
        left = replace(self, positives=positives, relevance=relevance)
        return left.take(np.flatnonzero(np.diff(positives.offsets)))

    def catalogue_positives(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """List number, item row and relevance of each positive in the catalogue."""
        inside = self.positives.values >= 0
        return (
            self.positives.row_numbers()[inside],
            self.positives.values[inside],
            self.relevance.values[inside],
        )

    def item_weight(self) -> np.ndarray | None:
        """Weights of `candidates`, `(lists, n)` float32; None if none was drawn."""
        if self.candidates is None or self.drawn_weight is None:
            return None
        return item_weight(self.candidates, self.drawn, self.drawn_weight)

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.list_id)

    def take(self, rows: np.ndarray) -> Lists:
        """The given lists, in the given order."""

        def pick(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: pick(each) for name, each in value.items()}
            if isinstance(value, Ragged):
                return value.take(rows)
            return value if value is None or isinstance(value, int) else value[rows]

        fields: dict[str, Any] = {k: pick(v) for k, v in vars(self).items()}
        return Lists(**fields)

    @classmethod
    def joined(cls, parts: Sequence[Lists]) -> Lists:
        """The lists of all parts, one after the other.

        Matrices get the width of the widest: candidates are padded with -1, others with
        0, which is the index of a missing value.
        """
        if len(parts) == 1:
            return parts[0]

        def join(name: str, values: list[Any]) -> Any:
            first = values[0]
            if isinstance(first, dict):
                return {key: join(key, [v[key] for v in values]) for key in first}
            if isinstance(first, Ragged):
                return Ragged.joined(values)
            if first is None or isinstance(first, int):
                return first
            return joined_rows(values, -1 if name == "candidates" else 0)

        each = [vars(part) for part in parts]
        return cls(**{name: join(name, [v[name] for v in each]) for name in each[0]})


def joined_rows(values: Sequence[np.ndarray], fill: int = 0) -> np.ndarray:
    """The rows of all arrays; narrow matrices are filled to the width of the widest."""
    if values[0].ndim == 2 and len({each.shape[1] for each in values}) > 1:
        values = _same_width(values, fill)
    return np.concatenate(values)


def _same_width(values: Sequence[np.ndarray], fill: int) -> list[np.ndarray]:
    width = max(each.shape[1] for each in values)
    return [
        np.pad(each, [(0, 0), (0, width - each.shape[1])], constant_values=fill)
        for each in values
    ]


def item_weight(
    candidates: np.ndarray, drawn: int, drawn_weight: np.ndarray
) -> np.ndarray:
    """Number of items that each candidate stands for, `(lists, n)` float32.

    Args:
        candidates: `(lists, n)`, item rows.
        drawn: Number of the last columns that were drawn.
        drawn_weight: `(lists,)`, number of items that each of these stands for.
    """
    weight = np.ones(candidates.shape, "float32")
    weight[:, candidates.shape[1] - drawn :] = drawn_weight[:, None]
    return weight


def raw_inputs(lists: Lists) -> dict[str, np.ndarray]:
    """Raw query inputs by name, each `(lists, …)`, as the exported student takes them.

    Lists of values are padded with "" on the right; `<name>_length` has their lengths.
    """
    raw: dict[str, np.ndarray] = {}
    for name, value in lists.raw.items():
        if isinstance(value, Ragged):
            raw[f"{name}_length"] = np.diff(value.offsets).astype("int32")
        raw[name] = value.padded("") if isinstance(value, Ragged) else value
    return raw


def catalogue_mask(lists: Lists, catalogue_size: int) -> np.ndarray:
    """Mask over the catalogue, `(lists, catalogue_size)` bool: True for candidates.

    Excluded items are masked. If lists have scored candidates, everything else is
    masked.
    """
    scored = lists.scored_candidates
    mask = np.full((len(lists), catalogue_size), scored is None)
    if scored is not None:
        mask[scored.row_numbers(), scored.values] = True
    excluded = lists.excluded
    mask[excluded.row_numbers(), excluded.values] = False
    return mask


def catalogue_relevance(lists: Lists, catalogue_size: int) -> np.ndarray:
    """Relevance of every item, `(lists, catalogue_size)` float32."""
    relevance = np.zeros((len(lists), catalogue_size), "float32")
    rows, items, value = lists.catalogue_positives()
    relevance[rows, items] = value
    return relevance
