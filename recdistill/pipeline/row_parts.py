"""Split of the rows into a training, a validation and a test part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recdistill.pipeline.config import SplitConfig

TRAIN, VALID, TEST = 0, 1, 2
SPLITS = ("train", "valid", "test")


def copies(first_of_moment: np.ndarray, item: np.ndarray) -> np.ndarray:
    """The first row with the same query, time and item as each row.

    Args:
        first_of_moment: `(rows,)`: the first row of the same query and time.
        item: `(rows,)`: a number for each item, from 0.

    Returns:
        `(rows,)` int64; a row that has no copy before it is its own first row.
    """
    key = first_of_moment.astype("int64") * (int(item.max(initial=0)) + 1) + item
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return np.asarray(first[inverse])


def last_of_each_query(
    split: SplitConfig, first_of_query: np.ndarray, unit: np.ndarray
) -> np.ndarray:
    """Parts that hold out the last interactions of each query.

    Args:
        split: The `split` section.
        first_of_query: `(rows,)`: the first row of the same query; rows are sorted by
            query and time.
        unit: `(rows,)`: the first row of what counts as one interaction: of the
            copies of a row, or of a list.

    Returns:
        `(rows,)`: TRAIN, VALID or TEST; the same for all rows of a unit.
    """
    counted = unit == np.arange(len(unit))
    start, query = np.unique(first_of_query, return_inverse=True)
    size = np.bincount(query, counted).astype("int64")
    before = np.cumsum(counted) - counted
    from_end = size[query] - (before - before[start][query])
    valid, test = _held_out(split, size)
    held = np.where(from_end <= test[query], TEST, VALID)
    part = np.where(from_end <= (valid + test)[query], held, TRAIN)
    return np.asarray(part[unit])


def _held_out(split: SplitConfig, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interactions of each query for validation and for the test."""
    if split.by != "query_time":
        number = np.where(size > 2 * split.held_out, split.held_out, 0)
        return number, number

    def share(part: float) -> np.ndarray:
        # Without the 1e-7, floor(0.29 * 100) would be 28.
        wanted = np.floor(size * part + 1e-7).astype("int64")
        return np.where(size < 3, 0, np.maximum(wanted, 1))

    return share(split.valid), share(split.test)


def kept_together(part: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """The parts with all rows of a group in the latest part of its rows.

    Args:
        part: `(rows,)`: TRAIN, VALID or TEST.
        groups: Each `(rows,)`: the first row of the row's group.
    """
    while True:
        before = part
        for first in groups:
            latest = np.zeros(len(part), "int8")
            np.maximum.at(latest, first, part.astype("int8"))
            part = latest[first]
        if (part == before).all():
            return part
