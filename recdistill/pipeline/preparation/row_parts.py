"""Split of the rows into a training, a validation and a test part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recdistill.pipeline.config import SplitConfig

TRAIN, VALID, TEST = 0, 1, 2
SPLITS = ("train", "valid", "test")


def first_of_runs(new: np.ndarray) -> np.ndarray:
    """`(rows,)`: the first row of each row's run; `new` is True at first rows."""
    return np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))


@dataclass(frozen=True)
class Pairs:
    """Rows with the same query and item, and copies with the same time as well.

    Attributes:
        first_of_pair: `(rows,)`: the first row of the same query and item.
        first_copy: `(rows,)`: the first row of the same query, item and time; a row
            that has no copy before it is its own first row.
    """

    first_of_pair: np.ndarray
    first_copy: np.ndarray

    @classmethod
    def find(
        cls, first_of_query: np.ndarray, item: np.ndarray, first_of_moment: np.ndarray
    ) -> Pairs:
        """Finds the pairs and copies of rows that are sorted by query and time.

        Args:
            first_of_query: `(rows,)`: the first row of the same query.
            item: `(rows,)`: a number for each item, from 0.
            first_of_moment: `(rows,)`: the first row of the same query and time.
        """
        rows = len(item)
        items = int(item.max(initial=0)) + 1
        pair = first_of_query.astype("int64") * items + item
        bits = rows.bit_length()
        if int(pair.max(initial=0)).bit_length() + bits < 63:
            # Sorting whole numbers is faster than sorting their places.
            order = np.sort((pair << bits) | np.arange(rows)) & ((1 << bits) - 1)
        else:
            order = np.argsort(pair, kind="stable")
        own, moment = pair[order], first_of_moment[order]
        new_pair = np.concatenate([[True], own[1:] != own[:-1]])[:rows]
        new_copy = new_pair | np.concatenate([[True], moment[1:] != moment[:-1]])[:rows]
        firsts = []
        for new in (new_pair, new_copy):
            first = np.empty(rows, "int64")
            first[order] = order[first_of_runs(new)]
            firsts.append(first)
        return cls(*firsts)


def last_of_each_query(
    split: SplitConfig, first_of_query: np.ndarray, first_of_list: np.ndarray
) -> np.ndarray:
    """Parts that hold out the last lists of each query.

    Args:
        split: The `split` section.
        first_of_query: `(rows,)`: the first row of the same query; rows are sorted by
            query and time.
        first_of_list: `(rows,)`: the first row of the same list.

    Returns:
        `(rows,)`: TRAIN, VALID or TEST; the same for all rows of a list.
    """
    counted = first_of_list == np.arange(len(first_of_list))
    start = np.flatnonzero(np.diff(first_of_query, prepend=-1))
    query = np.repeat(
        np.arange(len(start)), np.diff(np.append(start, len(first_of_query)))
    )
    size = np.bincount(query, counted).astype("int64")
    before = np.cumsum(counted) - counted
    from_end = size[query] - (before - before[start][query])
    valid, test = _held_out(split, size)
    held = np.where(from_end <= test[query], TEST, VALID)
    part = np.where(from_end <= (valid + test)[query], held, TRAIN)
    return np.asarray(part[first_of_list])


def _held_out(split: SplitConfig, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists of each query for validation and for the test."""
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
    groups = [g for g in groups if (g != np.arange(len(g))).any()]
    while True:
        before = part
        for first in groups:
            latest = np.zeros(len(part), "int8")
            np.maximum.at(latest, first, part.astype("int8"))
            part = latest[first]
        if (part == before).all():
            return part
