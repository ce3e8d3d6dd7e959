"""Ragged array: rows of unequal length, stored as values and offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

TABLE_BYTES = 2**22
"""Bytes of the table with which values of rows are looked up."""


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length: row `i` is `values[offsets[i]:offsets[i + 1]]`.

    The offsets start at 0 and end at the number of values.

    Examples:
        >>> rows = Ragged(np.array([5, 6, 7]), np.array([0, 2, 2, 3]))
        >>> rows.padded(-1)
        array([[ 5,  6],
               [-1, -1],
               [ 7, -1]])
        >>> rows.take(np.array([2, 0])).values
        array([7, 5, 6])
        >>> rows.row_numbers()
        array([0, 0, 2])
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_arrow(cls, column: pa.ListArray) -> Ragged:
        """Convert an Arrow list column."""
        offsets = column.offsets.to_numpy()
        values = column.flatten().to_numpy(zero_copy_only=False)
        return cls(values, (offsets - offsets[0]).astype("int64"))

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts, one after the other.

        Examples:
            >>> one = Ragged(np.array([5, 6]), np.array([0, 2]))
            >>> Ragged.joined([one, Ragged(np.array([7]), np.array([0, 0, 1]))]).offsets
            array([0, 2, 2, 3])
        """
        lengths = np.concatenate([np.diff(each.offsets) for each in parts])
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype="int64")])
        return cls(np.concatenate([each.values for each in parts]), offsets)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def take(self, rows: np.ndarray) -> Ragged:
        """The given rows, in the given order."""
        lengths = (self.offsets[1:] - self.offsets[:-1])[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Ragged(
            self.values[np.repeat(self.offsets[:-1][rows], lengths) + place], offsets
        )

    def padded(self, fill: Any) -> np.ndarray:
        """Dense array `(rows, longest)`, padded on the right; at least one column."""
        lengths = self.offsets[1:] - self.offsets[:-1]
        width = max(1, int(lengths.max(initial=0)))
        dense = np.full((len(self), width), fill, self.values.dtype)
        dense[np.arange(width)[None] < lengths[:, None]] = self.values
        return dense

    def row_numbers(self) -> np.ndarray:
        """Row number of each value."""
        return np.repeat(np.arange(len(self)), self.offsets[1:] - self.offsets[:-1])

    def intersection(self, other: Ragged) -> Ragged:
        """The values of each row that the same row of `other` also has.

        Values below 0 mark missing items; they are never part of the intersection.

        Examples:
            >>> one = Ragged(np.array([5, 6, 7]), np.array([0, 2, 3]))
            >>> one.intersection(Ragged(np.array([6, 5]), np.array([0, 1, 2]))).values
            array([6])
        """
        return self.where(self.are_in(other))

    def difference(self, other: Ragged) -> Ragged:
        """The values of each row that the same row of `other` does not have.

        Examples:
            >>> one = Ragged(np.array([5, 6, 7]), np.array([0, 2, 3]))
            >>> one.difference(Ragged(np.array([6, 5]), np.array([0, 1, 2]))).values
            array([5, 7])
        """
        return self.where(~self.are_in(other))

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Whether each row has each of these values, without a dense table of values.

        Args:
            values: `(n,)`, looked for in all rows; or `(rows, n)`, for each row its
                own.

        Returns:
            `(rows, n)` bool.

        Examples:
            >>> rows = Ragged(np.array([5, 6, 7]), np.array([0, 2, 3]))
            >>> rows.holds(np.array([7, 5]))
            array([[False,  True],
                   [ True, False]])
            >>> rows.holds(np.array([[6], [6]]))
            array([[ True],
                   [False]])
        """
        found = np.zeros((len(self), values.shape[-1]), bool)
        if not values.size or not len(self.values):
            return found
        if values.ndim == 2:
            return self._holds_own(values)
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        first = np.searchsorted(ordered, self.values, side="left")
        count = np.searchsorted(ordered, self.values, side="right") - first
        # A value that is looked for twice has several places.
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        place = order[np.repeat(first, count) + within]
        found[np.repeat(self.row_numbers(), count), place] = True
        return found

    def _holds_own(self, values: np.ndarray) -> np.ndarray:
        """Whether each row has each of its own values, `(rows, n)` bool.

        A few rows at a time have a table of all possible values.
        """
        found = np.zeros(values.shape, bool)
        size = 2 + max(int(self.values.max()), int(values.max()))
        rows = max(1, TABLE_BYTES // size)
        start = np.arange(rows) * size + 1  # The place before is for values below 0.
        table = np.zeros(rows * size, bool)
        for first in range(0, len(self), rows):
            offsets = self.offsets[first : first + rows + 1]
            own = np.maximum(self.values[offsets[0] : offsets[-1]], -1)
            own = own + np.repeat(start[: len(offsets) - 1], np.diff(offsets))
            wanted = np.maximum(values[first : first + rows], -1)
            table[own] = True
            table[start - 1] = False
            found[first : first + rows] = table[start[: len(wanted), None] + wanted]
            table[own] = False
        return found

    def union(self, other: Ragged) -> Ragged:
        """The values of each row, each once and in order; values below 0 are left out.

        Examples:
            >>> one = Ragged(np.array([5, 6, -1]), np.array([0, 2, 3]))
            >>> both = one.union(Ragged(np.array([6, 5]), np.array([0, 1, 2])))
            >>> both.values, both.offsets
            (array([5, 6, 5]), array([0, 2, 3]))
        """
        return self.followed_by(other).distinct()

    def distinct(self) -> Ragged:
        """The values of each row, each once and in order; values below 0 are left out.

        Examples:
            >>> rows = Ragged(np.array([6, 5, 6, -1]), np.array([0, 3, 4])).distinct()
            >>> rows.values, rows.offsets
            (array([5, 6]), array([0, 2, 2]))
        """
        values = self.values.astype("int64")
        size = 1 + int(values.max(initial=0))
        # A sort, because `np.unique` takes many times as long for millions of values.
        keys = (self.row_numbers() * size + values)[values >= 0]
        if len(self) * size < 2**31:
            keys = keys.astype("int32")
        keys.sort()
        new = np.ones(len(keys), bool)
        np.not_equal(keys[1:], keys[:-1], out=new[1:])
        keys = keys[new]
        row = keys // size
        offsets = np.searchsorted(row, np.arange(len(self) + 1))
        return Ragged((keys - row * size).astype(self.values.dtype), offsets)

    def followed_by(self, other: Ragged) -> Ragged:
        """The values of each row, and then those of the same row of `other`.

        Examples:
            >>> one = Ragged(np.array([5, 6, 7]), np.array([0, 2, 3]))
            >>> one.followed_by(Ragged(np.array([8]), np.array([0, 1, 1]))).values
            array([5, 6, 8, 7])
        """
        offsets = self.offsets + other.offsets
        values = np.empty(offsets[-1], np.result_type(self.values, other.values))
        for each, before in ((self, other.offsets[:-1]), (other, self.offsets[1:])):
            lengths = each.offsets[1:] - each.offsets[:-1]
            place = np.arange(len(each.values)) + np.repeat(before, lengths)
            values[place] = each.values
        return Ragged(values, offsets)

    def are_in(self, other: Ragged) -> np.ndarray:
        """Whether the same row of `other` has each value; False for those below 0.

        Returns:
            `(values,)` bool.
        """
        size = 1 + max(int(each.values.max(initial=0)) for each in (self, other))
        keys = [each.row_numbers() * size + each.values for each in (self, other)]
        return is_among(keys[0], keys[1][other.values >= 0]) & (self.values >= 0)

    def where(self, kept: np.ndarray) -> Ragged:
        """Some of the values, each in its row.

        Args:
            kept: `(values,)` bool.
        """
        lengths = np.bincount(self.row_numbers()[kept], minlength=len(self))
        return Ragged(self.values[kept], np.concatenate([[0], np.cumsum(lengths)]))


def is_among(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether each of the keys is a known one.

    A sort and a search, which takes less time than `np.isin` for millions of keys.

    Examples:
        >>> is_among(np.array([3, 1, 7]), np.array([7, 3]))
        array([ True, False,  True])
    """
    return is_in_sorted(keys, np.sort(known))


def is_in_sorted(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """As `is_among`, for known keys in ascending order."""
    if not len(known):
        return np.zeros(keys.shape, bool)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.asarray(known[place] == keys)
