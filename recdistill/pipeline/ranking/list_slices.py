"""Slices of the test lists: by item popularity, activity, history and category."""

from __future__ import annotations

import numpy as np

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.features.encoders import MISSING, UNKNOWN, VocabularyEncoder
from recdistill.pipeline.preparation.prepared_data import Prepared

ITEM, ACTIVITY, HISTORY = "item", "activity", "history"
"""Kinds of slices besides the columns of categories."""

GROUPS = 3
"""Number of groups of about equal size into which counts are divided."""

MOST_CATEGORIES = 8
"""Categories of a column with slices of their own; the others are one slice."""

SEGMENTS, MIXED = ("head", "torso", "tail", "new"), "mixed"

HEAD, TORSO = 0.5, 0.9
"""Shares of the training interactions up to which items are head and torso."""

Groups = dict[str, np.ndarray]
"""For each slice of a kind, `(lists,)` bool: whether a list belongs to it."""


class ListSlices:
    """Slices of the test lists, collected piece by piece.

    - `item`: popularity of the relevant items. The most frequent items with half of the
      training interactions are "head", those up to nine tenths "torso", the others
      "tail", and items without training interactions "new". A list with items of
      several of these is "mixed", so that the metric of a slice is about its items
      alone. Lists whose relevant items are not in the catalogue belong to no slice.
    - `activity`: number of interactions of the query in the training part.
    - `history`: number of items of the history, as the models read it.
    - Each feature of kind `category` or `categories`: its value for the query, or for
      the relevant items. The most frequent values are slices of their own.

    A kind whose lists would all be in one slice is left out.

    Args:
        prepared: The prepared data.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared, self._schema = prepared, prepared.schema
        self._segment = segments(prepared.popularity)
        self._trained = np.diff(prepared.training_rows.offsets)
        self._categories = {
            **{e.feature: (e, False) for e in self._schema.query if _is_category(e)},
            **{e.feature: (e, True) for e in self._schema.candidate if _is_category(e)},
        }
        self._collected: dict[str, list[np.ndarray]] = {}
        self._values: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._lists = 0

    def add(self, lists: Lists) -> None:
        """Adds lists; their order is that of the slices' members."""
        self._collect(ITEM, self._segments_of(lists.positives))
        row = lists.query_row
        own = self._trained[np.maximum(row, 0)] if len(self._trained) else 0 * row
        self._collect(ACTIVITY, np.where(row >= 0, own, 0))
        history = self._schema.history
        if history is not None:
            past = lists.query[history.feature]
            self._collect(HISTORY, (past != MISSING).sum(axis=1))
        for name, (_, of_item) in self._categories.items():
            if of_item:
                number, items, _ = lists.catalogue_positives()
                values = self._prepared.catalogue[name][items]
            else:
                number, values = np.arange(len(lists)), lists.query[name]
            values = values.reshape(len(number), -1)
            number = np.repeat(number + self._lists, values.shape[1])
            self._values.setdefault(name, []).append((number, values.ravel()))
        self._lists += len(lists)

    def members(self) -> dict[str, Groups]:
        """The slices of each kind, and the lists that belong to them."""
        segment = np.concatenate(self._collected[ITEM])
        found = {ITEM: {name: segment == name for name in (*SEGMENTS, MIXED)}}
        for kind in (ACTIVITY, HISTORY):
            if kind in self._collected:
                found[kind] = groups_of(np.concatenate(self._collected[kind]))
        for name, (encoder, _) in self._categories.items():
            kind = f"{name} (column)" if name in (ITEM, ACTIVITY, HISTORY) else name
            found[kind] = self._by_category(name, encoder)
        filled = {
            kind: {name: inside for name, inside in slices.items() if inside.any()}
            for kind, slices in found.items()
        }
        return {
            kind: slices
            for kind, slices in filled.items()
            if len(slices) > 1 or kind == ITEM
        }

    def _collect(self, kind: str, values: np.ndarray) -> None:
        self._collected.setdefault(kind, []).append(values)

    def _segments_of(self, positives: Ragged) -> np.ndarray:
        """Segment of the relevant items of each list; "" if it has none."""
        number = np.searchsorted(np.sort(SEGMENTS), self._segment)
        rows = positives.padded(-1)
        known, own = rows >= 0, number[rows]
        first = np.where(known, own, len(SEGMENTS)).min(axis=1, initial=len(SEGMENTS))
        last = np.where(known, own, -1).max(axis=1, initial=-1)
        names = np.array([*np.sort(SEGMENTS), ""])
        return np.where(known.any(axis=1) & (first < last), MIXED, names[first])

    def _by_category(self, name: str, encoder: VocabularyEncoder) -> Groups:
        number, value = (
            np.concatenate(each) for each in zip(*self._values[name], strict=True)
        )
        members: Groups = {}
        counts = np.bincount(value[value > UNKNOWN], minlength=encoder.size)
        frequent = np.argsort(-counts, kind="stable")[:MOST_CATEGORIES]
        for index in frequent[counts[frequent] > 0]:
            word = encoder.values[index - len((MISSING, UNKNOWN))].as_py()
            members[word] = self._inside(number[value == index])
        rest = (value > UNKNOWN) & ~np.isin(value, frequent)
        for word, chosen in (
            ("other values", rest),
            ("unknown in training", value == UNKNOWN),
        ):
            members.setdefault(word, self._inside(number[chosen]))
        present = np.unique(number[value != MISSING])
        members.setdefault("no value", ~self._inside(present))
        return members

    def _inside(self, numbers: np.ndarray) -> np.ndarray:
        inside = np.zeros(self._lists, bool)
        inside[numbers] = True
        return inside


def segments(popularity: np.ndarray) -> np.ndarray:
    """Segment of each item: "head", "torso", "tail" or "new".

    Args:
        popularity: Training interactions of each item.
    """
    share = share_before(popularity)
    warm = np.select([share < HEAD, share < TORSO], ["head", "torso"], "tail")
    return np.where(popularity > 0, warm, "new")


def strata(popularity: np.ndarray, count: int) -> np.ndarray:
    """Stratum of each item, `(items,)` int32: 0 for the most popular items.

    The items are sorted by popularity and divided into strata with about equal numbers
    of training interactions (Chen et al., 2023). Items without training interactions
    belong to the last one.

    Args:
        popularity: Training interactions of each item.
        count: Number of strata.

    Example:
        >>> strata(np.array([1, 4, 0, 1, 2]), count=2)
        array([1, 0, 1, 1, 1], dtype=int32)
    """
    stratum = np.floor(share_before(popularity) * count).astype("int32")
    return np.where(popularity > 0, np.minimum(stratum, count - 1), count - 1)


def share_before(popularity: np.ndarray) -> np.ndarray:
    """Share of the training interactions that more popular items have, `(items,)`."""
    order = np.argsort(-popularity, kind="stable")
    share = np.zeros(len(popularity))
    before = np.cumsum(popularity[order], dtype="float64") - popularity[order]
    share[order] = before / max(1.0, float(popularity.sum()))
    return share


def groups_of(counts: np.ndarray) -> Groups:
    """Groups of about equal size by count; lists with count 0 are their own group.

    Args:
        counts: `(lists,)`, at least 0.

    Example:
        >>> {name: int(inside.sum()) for name, inside in
        ...  groups_of(np.array([0, 1, 2, 3, 4, 5, 600])).items()}
        {'0': 1, '1 to 2': 2, '3 to 4': 2, '5 to 600': 2}
    """
    members: Groups = {"0": counts == 0}
    above = np.sort(counts[counts > 0])
    places = np.arange(1, GROUPS + 1) * len(above) // GROUPS
    low = 0
    for end in np.unique(above[np.maximum(places, 1) - 1] if len(above) else above):
        inside = (counts > low) & (counts <= end)
        members[_span(counts[inside])] = inside
        low = end
    return members


def _span(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _is_category(encoder: object) -> bool:
    return isinstance(encoder, VocabularyEncoder) and encoder.spec.kind != "id"
