"""Ragged array: rows of unequal length, stored as values and offsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


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
        size = 1 + max(int(each.values.max(initial=0)) for each in (self, other))
        keys = [each.row_numbers() * size + each.values for each in (self, other)]
        found = np.isin(keys[0], keys[1][other.values >= 0]) & (self.values >= 0)
        lengths = np.bincount(self.row_numbers()[found], minlength=len(self))
        return Ragged(self.values[found], np.concatenate([[0], np.cumsum(lengths)]))
