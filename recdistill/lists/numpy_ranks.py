"""Ranks and top-k of candidates from their scores, in NumPy.

All metrics use these conventions:

- Candidates are ranked from the highest score down, starting at rank 1. Ties are broken
  by position: of two equal scores, the earlier candidate ranks first.
- Padding never ranks, for any value under it.
- A score of `-inf` is valid and ranks last; it often marks an excluded candidate. NaN
  and `+inf` are errors, because they result from an overflow.

`real_scores` replaces padding by NaN once. NaN is neither above nor equal to any number
and sorts to the end, so the other functions need no mask.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Scores = npt.NDArray[Any]  # float32 or float64, NaN under padding

# Entries of an array in one step of a chunked computation: 32 MiB in float64.
_CHUNK_ENTRIES = 2**22
# Counting passes over the list once for each requested rank; a sort costs about as much
# as this number of passes.
_PASSES_OF_A_SORT = 16


def real_scores(scores: npt.ArrayLike, mask: npt.ArrayLike, *, name: str) -> Scores:
    """Check scores and put NaN under padding.

    Args:
        scores: `(batch, list_size)`. Unnormalised; entries under padding are ignored.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        name: Name of the scores in error messages.

    Returns:
        `(batch, list_size)`. float32 stays float32; any other type becomes float64.

    Raises:
        ValueError: If the shapes differ, `mask` is not boolean, or a real candidate has
            a score of NaN or `+inf`; the message names the row and the position.
    """
    real = checked_mask(mask)
    array = np.asarray(scores)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    check_same_shape(array, real, name=name)
    wrong = real & ~(array < np.inf)  # NaN is not below any number
    if wrong.any():
        row, position = np.argwhere(wrong)[0]
        raise ValueError(
            f"`{name}` must be below infinity and not NaN for a real candidate. "
            f"Received: {array[row, position]} in row {row} at position {position}"
        )
    return np.where(real, array, np.asarray(np.nan, array.dtype))


def checked_mask(mask: npt.ArrayLike) -> BoolArray:
    """The mask as a boolean array `(batch, list_size)`; ValueError otherwise."""
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.ndim != 2:
        raise ValueError(
            "`mask` must be a boolean array of shape (batch, list_size). "
            f"Received: {array.dtype} of shape {array.shape}"
        )
    return array


def check_same_shape(array: npt.NDArray[Any], mask: BoolArray, *, name: str) -> None:
    """Raise ValueError, with the array's name, unless it has the mask's shape."""
    if array.shape != mask.shape:
        raise ValueError(
            f"`{name}` must have the shape of `mask`, {mask.shape}. "
            f"Received: shape {array.shape}"
        )


def check_cutoff(name: str, value: int) -> None:
    """Raise ValueError unless the value is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )


def ranks_of(scores: Scores, row: IntArray, column: IntArray) -> IntArray:
    """The ranks of given candidates among the real candidates of their lists.

    A rank is one more than the number of candidates ahead: those with a higher score,
    and those with an equal score at an earlier position. They are counted without a
    sort. If many ranks are requested, the lists are sorted instead, with the same
    result.

    Args:
        scores: `(batch, list_size)`, from `real_scores`.
        row: `(n,)`. The list of each candidate.
        column: `(n,)`. Its position in the list; not padding.

    Returns:
        `(n,)`, from 1.
    """
    if len(row) > _PASSES_OF_A_SORT * len(scores):
        return _ranks_by_sorting(scores, row, column)
    return _ranks_by_counting(scores, row, column)


def in_top(scores: Scores, k: int) -> BoolArray:
    """Mask of the top k candidates of each list.

    Args:
        scores: `(batch, list_size)`, from `real_scores`.
        k: At least 1.

    Returns:
        `(batch, list_size)`. True for k candidates, or for all real ones of a list that
        has fewer.

    Raises:
        ValueError: If k is below 1.
    """
    check_cutoff("k", k)
    if k >= scores.shape[1]:
        return ~np.isnan(scores)
    chosen = np.empty(scores.shape, np.bool_)
    for rows in chunks(*scores.shape):
        part = scores[rows]
        # NaN sorts to the end: the k-th is NaN only if fewer than k are real.
        kth = -np.partition(-part, k - 1, axis=1)[:, k - 1 : k]
        above = (part > kth) | (np.isnan(kth) & ~np.isnan(part))
        equal = part == kth
        room = k - np.count_nonzero(above, axis=1, keepdims=True)
        crowded = np.flatnonzero(np.count_nonzero(equal, axis=1) > room[:, 0])
        equal[crowded] &= np.cumsum(equal[crowded], axis=1) <= room[crowded]
        chosen[rows] = above | equal
    return chosen


def first_k(scores: Scores, k: int) -> npt.NDArray[np.int32]:
    """The positions of the top k candidates of each list, best first.

    Args:
        scores: `(batch, list_size)`, from `real_scores`.
        k: At least 1.

    Returns:
        `(batch, k)`, padded with -1 if a list has fewer real candidates.

    Raises:
        ValueError: If k is below 1.

    Examples:
        >>> first_k(real_scores([[0.5, 0.9, 0.9]], [[True] * 3], name="scores"), 2)
        array([[1, 2]], dtype=int32)
    """
    row, column = np.nonzero(in_top(scores, k))
    held = np.bincount(row, minlength=len(scores))
    slot = np.arange(len(row)) - (np.cumsum(held) - held)[row]
    positions = np.full((len(scores), k), -1, np.int32)
    positions[row, slot] = column
    values = np.full((len(scores), k), np.nan, scores.dtype)
    values[row, slot] = scores[row, column]
    best_first = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(positions, best_first, axis=1)


def chunks(rows: int, entries_per_row: int) -> Iterator[slice]:
    """Slices over the rows, each small enough to be processed in memory."""
    step = max(1, _CHUNK_ENTRIES // max(1, entries_per_row))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def _ranks_by_counting(scores: Scores, row: IntArray, column: IntArray) -> IntArray:
    position = np.arange(scores.shape[1])
    rank = np.empty(len(row), np.int64)
    for chunk in chunks(len(row), scores.shape[1]):
        lists = scores[row[chunk]]
        own = scores[row[chunk], column[chunk]][:, None]
        ahead = lists > own
        ahead |= (lists == own) & (position < column[chunk, None])
        rank[chunk] = 1 + np.count_nonzero(ahead, axis=1)
    return rank


def _ranks_by_sorting(scores: Scores, row: IntArray, column: IntArray) -> IntArray:
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.broadcast_to(np.arange(1, scores.shape[1] + 1), order.shape)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, ranks, axis=1)
    return rank[row, column]
