"""A table of scores as a teacher with partial scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.errors import TeacherError


class ScoreTable:
    """Table of teacher scores computed elsewhere, looked up by id.

    The table is kept in memory, with 16 bytes per row. It may have scores for some
    candidates only; `keep_scored` reduces lists to their scored candidates.

    Args:
        batches: Record batches with the columns `key` (id of a query, or of a list if
            the data has lists), `item` (item id) and `score`.
        items: `(items,)`, the ids of the catalogue in catalogue order.
        label: Name of the table in error messages.

    Attributes:
        keys: The different keys of queries, or of lists, with a scored item.

    Raises:
        TeacherError: If no row scores an item of the catalogue, or a pair has two
            scores.

    Examples:
        "bob" has scores for two of the three items.

        >>> rows = {"key": ["bob", "ann", "bob"], "item": ["c", "a", "a"]}
        >>> rows = pa.RecordBatch.from_pydict(rows | {"score": [0.5, 0.1, -2.0]})
        >>> table = ScoreTable([rows], ["a", "b", "c"])
        >>> mask = np.array([[True, False, True]])
        >>> x = {"list_key": ["bob"], "candidate_index": np.arange(3), "mask": mask}
        >>> table(x)
        array([[-2. ,  0. ,  0.5]], dtype=float32)
    """

    parameters: int | None = None
    size_bytes: int | None = None

    def __init__(
        self,
        batches: Iterable[pa.RecordBatch],
        items: Sequence[str],
        label: str = "table of scores",
    ) -> None:
        self.label, self._items = label, len(items)
        catalogue = pa.array(items, pa.string())
        keys, rows, scores = [], [], []
        for batch in batches:
            row = pc.fill_null(pc.index_in(batch["item"], value_set=catalogue), -1)
            row = np.asarray(row, "int64")
            known = row >= 0  # Scores of items outside the catalogue are not needed.
            keys.append(batch["key"].filter(pa.array(known)))
            rows.append(row[known])
            scores.append(np.asarray(batch["score"], "float32")[known])
        if not sum(map(len, rows)):
            raise TeacherError(
                f"The {label} must score items of the catalogue. Received: no such row"
            )
        codes = pa.chunked_array(keys).dictionary_encode().combine_chunks()
        self.keys = codes.dictionary
        key = codes.indices.to_numpy().astype("int64")
        place = key * self._items + np.concatenate(rows)
        order = np.argsort(place, kind="stable")
        self._places = place[order]
        self._scores = np.concatenate(scores)[order]
        again = self._places[1:] == self._places[:-1]
        again &= self._scores[1:] == self._scores[:-1]
        first = np.concatenate([[True], ~again])  # A list may show an item twice.
        self._places, self._scores = self._places[first], self._scores[first]
        twice = np.flatnonzero(self._places[1:] == self._places[:-1])
        if len(twice):
            key, item = divmod(int(self._places[twice[0]]), self._items)
            raise TeacherError(
                f"The {label} must have one score per pair. Received: {len(twice)} "
                f"pair(s) with two scores, such as {self.keys[key].as_py()!r} with "
                f"{items[item]!r}"
            )

    def __call__(self, batch: Mapping[str, Any], training: bool = False) -> np.ndarray:
        """Scores of a batch.

        Args:
            batch: `list_key`, `candidate_index` and `mask`, as in
                `recdistill.data.collation`.
            training: Not used.

        Returns:
            `(batch, list_size)` float32; 0 under padding.

        Raises:
            TeacherError: If a real candidate has no score.
        """
        mask = np.asarray(batch["mask"])
        code = self._codes(batch["list_key"])
        index = np.broadcast_to(np.asarray(batch["candidate_index"]), mask.shape)
        place = code[:, None] * self._items + index
        row = np.searchsorted(self._places, place)
        row = np.minimum(row, len(self._places) - 1)
        missing = mask & ((self._places[row] != place) | (code < 0)[:, None])
        if missing.any():
            raise TeacherError(
                f"The {self.label} must have a score for each candidate of a list. "
                f"Received: {int(missing.sum()):,} candidates without one"
            )
        return np.where(mask, self._scores[row], np.float32(0.0))

    def keep_scored(self, lists: Lists) -> Lists:
        """Reduces lists to their scored candidates; drops lists without any.

        Returns:
            Lists with `scored_candidates`.
        """
        code = self._codes(lists.list_key)
        low = np.searchsorted(self._places, code * self._items)
        high = np.searchsorted(self._places, (code + 1) * self._items)
        length = np.where(code >= 0, high - low, 0)
        offsets = np.concatenate([[0], np.cumsum(length)])
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - low, length)
        items = (self._places[place] % self._items).astype("int32")
        return lists.with_scored_candidates(Ragged(items, offsets))

    def _codes(self, keys: Any) -> np.ndarray:
        keys = pa.array(np.asarray(keys, object), pa.string())
        code = pc.fill_null(pc.index_in(keys, value_set=self.keys), -1)
        return np.asarray(code, "int64")


def keep_scored_by_all(lists: Lists, tables: Iterable[ScoreTable]) -> Lists:
    """Reduces lists to the candidates scored by all tables."""
    for table in tables:
        lists = table.keep_scored(lists)
    return lists
