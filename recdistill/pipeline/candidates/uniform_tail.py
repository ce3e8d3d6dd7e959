"""Uniform tail: items drawn uniformly and without replacement, by hashes of their ids.

A draw depends on the random key of its list and on the ids of the items, not on their
rows. When items are added to the catalogue or removed, a list keeps most of what it has
drawn, and the new draw is uniform among all items that there are now: a new item has
the same chance as an old one.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from recdistill.data.ragged import Ragged
from recdistill.pipeline.candidates.candidate_selection import (
    distinct,
    mixed,
    to_the_left,
)

CROWDED = 4
"""Up to so many free items for each draw, each of them gets a random number."""

ROWS_AT_ONCE = 64
"""Rows for which items are drawn at once."""

NUMBERS_AT_ONCE = 2**20
"""Random numbers of the rows that are drawn at once."""


class UniformTail:
    """Draws items of each row uniformly and without replacement.

    Each set of `count` free items has the same probability, so that a free item is
    drawn with the probability `count / free items`. A row's draw depends on its own key
    only.

    With many items, each has a cell of its own in a table that is at least twice as
    large. The cells are drawn, and those without a free item are passed over, so the
    time does not depend on the number of items. A few items are drawn as those with the
    smallest random numbers.

    Args:
        ids: `(items,)` uint64, hash of the id of each item.

    Examples:
        >>> taken = Ragged(np.array([0, 1, 3]), np.array([0, 3, 3]))
        >>> tail = UniformTail(mixed(np.arange(5, dtype="uint64")))
        >>> drawn, free = tail.draw(taken, 2, np.array([1, 2], "uint64"))
        >>> drawn[0], free
        (array([2, 4], dtype=int32), array([2, 5]))
    """

    def __init__(self, ids: np.ndarray) -> None:
        self._ids = ids

    def draw(
        self, taken: Ragged, count: int, keys: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws items.

        Args:
            taken: The items of each row that must not be drawn, each once.
            count: Number of items to draw; fewer if fewer are free.
            keys: `(rows,)` uint64, the random key of each row.

        Returns:
            `(rows, count)` int32 in ascending order, padded with -1; and `(rows,)`, the
            number of free items.
        """
        items = len(self._ids)
        free = items - np.diff(taken.offsets)
        drawn = np.full((len(taken), count), items, "int32")
        if not count or not items:
            return np.full_like(drawn, -1), free
        few = free <= CROWDED * count
        for rows, found_by, width in (
            (np.flatnonzero(few), self._smallest, items),
            (np.flatnonzero(~few), self._first_cells, 1),
        ):
            step = max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // max(1, width)))
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                found = found_by(taken.take(part), count, keys[part])
                drawn[part, : found.shape[1]] = np.where(found < 0, items, found)
        drawn.sort(axis=1)
        drawn[drawn == items] = -1
        return drawn, free

    def _smallest(self, taken: Ragged, count: int, keys: np.ndarray) -> np.ndarray:
        """The free items with the smallest random numbers; -1 if there are too few."""
        number = mixed(keys[:, None] ^ self._ids) >> np.uint64(1)
        none = np.uint64(2**64 - 1)
        number[taken.row_numbers(), taken.values] = none
        count = min(count, len(self._ids))
        first = np.argpartition(number, count - 1, axis=1)[:, :count]
        last = np.take_along_axis(number, first, axis=1) == none
        return np.where(last, -1, first).astype("int32")

    def _first_cells(self, taken: Ragged, count: int, keys: np.ndarray) -> np.ndarray:
        """The first distinct free items in random cells."""
        cells, shift = self._cells
        found = np.empty((len(keys), count), "int32")
        free = len(self._ids) - int(np.diff(taken.offsets).max())
        # The expected number of draws, and five times its deviation.
        mean = len(cells) * np.log(free / (free - count))
        length = int(mean + 5 * (mean * len(cells) / (free - count)) ** 0.5 + 2)
        left = np.arange(len(keys))
        while len(left):
            numbers = mixed(keys[left, None] + np.arange(length, dtype="uint64"))
            drawn = cells[(numbers >> shift).view("int64")]
            full = drawn >= 0
            most = int(np.count_nonzero(full, axis=1).max())
            drawn = to_the_left(drawn, full, most)
            drawn = np.where(taken.take(left).holds(drawn), -1, drawn)
            drawn = distinct(drawn)[:, :count]
            done = np.count_nonzero(drawn >= 0, axis=1) == count
            found[left[done]] = drawn[done]
            left, length = left[~done], 2 * length
        return found

    @cached_property
    def _cells(self) -> tuple[np.ndarray, np.uint64]:
        """The item of each cell, -1 for none; and the shift from 64 bits to a cell.

        An item has the cell of its hash, or the next one that no smaller hash has
        (ordered hashing; Amble and Knuth, 1974). So the cells of the items do not
        depend on their order, and a new item moves only its neighbours.
        """
        items = len(self._ids)
        bits = (2 * items).bit_length()
        shift = np.uint64(64 - bits)
        order, place = np.argsort(self._ids, kind="stable"), np.arange(items)
        home = (self._ids[order] >> shift).astype("int64")
        cell = np.maximum.accumulate(home - place) + place
        cell = np.minimum(cell, 2**bits - items + place)
        cells = np.full(2**bits, -1, "int32")
        cells[cell] = order
        return cells, shift
