"""Hashes of what a teacher's scores depend on: equal content has equal scores.

They do not depend on the place of a list or of an item in the data, so they stay the
same when lists and items are added or removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.models.ensemble import EnsembleTeacher
from recdistill.pipeline.candidates.candidate_selection import mixed
from recdistill.pipeline.models.model_building import Teacher, members_of
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.teachers import ExternalTeacher

LISTS_AT_ONCE = 64
"""Lists of candidates that are hashed at once; they fit the processor's cache."""


@dataclass(frozen=True)
class ContentHashes:
    """Hashes of items, queries and lists, for one teacher.

    Attributes:
        ids: `(items,)` uint64, of the id of each item.
        items: `(items,)` uint64, of its id and of its features that the teacher reads.
        raw: Names of the raw features that external members of the teacher read.
        looked_up: Whether a member of the teacher reads looked-up features; then all of
            them count.
    """

    ids: np.ndarray
    items: np.ndarray
    raw: frozenset[str] = frozenset()
    looked_up: bool = True

    @classmethod
    def of(cls, prepared: Prepared, teacher: Teacher) -> ContentHashes:
        """The hashes for a teacher.

        Args:
            prepared: The prepared data.
            teacher: The teacher.
        """
        members = members_of(teacher)
        external = [each for each in members if isinstance(each, ExternalTeacher)]
        raw = frozenset().union(*(each.features for each in external))
        ids = hashes_of_ids(prepared)
        found = cls(ids, ids, raw, len(external) < len(members))
        values: dict[str, Any] = {"id": prepared.item_ids}
        if found.looked_up:
            values |= {f"index.{k}": v for k, v in prepared.catalogue.items()}
        read = raw.intersection(prepared.raw_candidates)
        values |= {f"raw.{name}": prepared.raw_candidates[name] for name in read}
        return replace(found, items=_combined(values))

    def draw_keys(
        self,
        list_key: np.ndarray,
        observed: Ragged,
        seed: int,
        query: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """The random key of each list, `(lists,)` uint64, from its id and its items.

        Args:
            list_key: `(lists,)` str, as in `Lists`.
            observed: Item rows of the positives, and of what was shown with them; -1
                for an item that is not in the catalogue.
            seed: Seed.
            query: Looked-up query features. They count for lists without observed
                items, of which a query may have many.
        """
        items = Ragged(_at(self.ids, observed.values), observed.offsets)
        keys = _combined({"list": list_key, "observed": items}, seed)
        empty = np.diff(observed.offsets) == 0
        if query is not None and empty.any():
            values = {f"index.{name}": value[empty] for name, value in query.items()}
            keys[empty] = _combined({"key": keys[empty], **values})
        return keys

    def of_queries(self, lists: Lists) -> np.ndarray:
        """Hash of the query of each list, `(lists,)` uint64.

        Training rows do not count: a teacher that leaves them out was fitted on all of
        them, and changes with each.
        """
        values: dict[str, Any] = {
            f"raw.{name}": value
            for name, value in lists.raw.items()
            if not self.raw.isdisjoint({name, f"{name}_length"})
        }
        if self.looked_up:
            values |= {f"index.{name}": value for name, value in lists.query.items()}
            values["list"] = lists.list_key  # The training row is that of the query.
        if not values:
            return np.full(len(lists), mixed(np.zeros(1, "uint64"))[0])
        return _combined(values)

    def of_lists(
        self, queries: np.ndarray, items: np.ndarray, drawn: int, weight: np.ndarray
    ) -> np.ndarray:
        """Hash of the query and the candidates of each list, `(lists,)` uint64.

        The order of the candidates counts, their columns do not.

        Args:
            queries: From `of_queries`.
            items: `(lists, n)`, item rows; -1 for no candidate.
            drawn: Number of the last columns that were drawn.
            weight: `(lists,)`, number of items that each of these stands for.
        """
        sums = np.empty(len(items), "uint64")
        for start in range(0, len(items), LISTS_AT_ONCE):
            part = items[start : start + LISTS_AT_ONCE]
            real = part >= 0
            each = self.items[part] + np.cumsum(real, axis=1, dtype="uint64")
            sums[start : start + len(part)] = (mixed(each) * real).sum(axis=1)
        values = {"query": queries, "items": sums}
        if drawn:
            real = items[:, items.shape[1] - drawn :] >= 0
            values |= {"drawn": np.count_nonzero(real, axis=1), "weight": weight}
        return _combined(values)

    def of_whole_lists(self, queries: np.ndarray, excluded: Ragged) -> np.ndarray:
        """Hash of the query and the candidates of each list of the whole catalogue.

        Args:
            queries: From `of_queries`.
            excluded: Item rows that are no candidates.
        """
        each = mixed(self.items + np.arange(len(self.items), dtype="uint64"))
        without = _sums(each[excluded.values], excluded.offsets)
        return _combined({"query": queries, "items": each.sum() - without})


def hashes_of_ids(prepared: Prepared) -> np.ndarray:
    """`(items,)` uint64, the hash of the id of each item."""
    return _combined({"id": prepared.item_ids})


def scores_apart(teacher: Teacher) -> bool:
    """Whether the score of a candidate is the same in any list.

    It is not for a model of whole lists, nor for an ensemble that transforms the scores
    of its members within each list.
    """
    if isinstance(teacher, EnsembleTeacher):
        return teacher.normalize == "none" and all(map(scores_apart, teacher.members))
    return not isinstance(teacher, ExternalTeacher) or teacher.layout == "pairs"


def _at(hashes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The hashes of item rows; 0 for -1."""
    return np.asarray(np.append(hashes, np.uint64(0))[rows])


def _combined(values: Mapping[str, np.ndarray | Ragged], seed: int = 0) -> np.ndarray:
    """`(rows,)` uint64: one hash of the rows of all arrays and of their names."""
    total = mixed(np.array([seed], "uint64"))
    for name, value in sorted(values.items()):
        label = pd.util.hash_array(np.array([name], object))[0]
        total = mixed(total * np.uint64(3) + mixed(_hashed(value) ^ label))
    return total


def _hashed(value: np.ndarray | Ragged) -> np.ndarray:
    """`(rows,)`, hashes of the rows of an array, in which positions count.

    The padding of a matrix, 0 or "", does not: its width depends on other rows.
    """
    if isinstance(value, Ragged):
        values, offsets = value.values, value.offsets
        ends = np.diff(offsets).astype("uint64")
    else:
        values = np.asarray(value).reshape(len(value), -1)
        offsets = np.arange(len(values) + 1) * values.shape[1]
        values, ends = values.ravel(), np.zeros(len(values), "uint64")
    place = np.arange(len(values)) - np.repeat(offsets[:-1], np.diff(offsets))
    # Mixed twice: consecutive numbers at other places would have equal sums.
    each = mixed(mixed(_bits(values)) + place.astype("uint64"))
    each[values == (0 if values.dtype.kind in "biuf" else "")] = 0
    return np.asarray(_sums(each, offsets) + ends)


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`(rows,)` uint64, the sums of the values of each row."""
    sums = np.cumsum(np.append(np.uint64(0), values))
    return np.asarray(sums[offsets[1:]] - sums[offsets[:-1]])


def _bits(values: np.ndarray) -> np.ndarray:
    """Numbers as their bits, and everything else as hashes, uint64."""
    if values.dtype.kind in "biu":
        return values.astype("int64").view("uint64")
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.nan, values).astype("float64")
        return values.view("uint64")
    return np.asarray(pd.util.hash_array(values.astype(object)))
