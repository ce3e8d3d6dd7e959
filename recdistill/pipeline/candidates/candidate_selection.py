"""Selects the candidates of a list: the highest scores, each item once.

This costs a small multiple of reading the scores once: nothing is sorted but what is
selected.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from recdistill.data.ragged import Ragged

SAMPLE = 2**13
"""About so many scores of a row are read to estimate the threshold of the highest; in
rows of fewer than eight times as many, one in eight."""


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns of the highest scores of each row, in descending order of the score.

    Of equal scores the one with the lower column is first. A threshold that about
    `count` scores of a row reach is estimated from a part of the row; only these are
    sorted. Where it is too high, the exact threshold is computed.

    Args:
        scores: `(rows, columns)` float32, without NaN.
        count: Number of scores to select, at most the number of columns.

    Returns:
        `(rows, count)` int32.

    Examples:
        >>> highest(np.array([[0.5, 2.0, 0.5, -np.inf]], "float32"), 3)
        array([[1, 0, 2]], dtype=int32)
    """
    rows, columns = scores.shape
    if count == 0:
        return np.zeros((rows, 0), "int32")
    sampled = np.take(scores, sampled_columns(columns), axis=1)
    expected = count * sampled.shape[1] / columns
    # Too few reach the threshold in one of some 10,000 rows of random scores.
    reach = int(expected + 4.5 * expected**0.5 + 2)
    if reach < sampled.shape[1]:
        place = sampled.shape[1] - reach
        threshold = np.partition(sampled, place, axis=1)[:, place]
    else:
        threshold = np.full(rows, -np.inf, "float32")
    ends = np.arange(rows + 1) * columns
    cells = _reaching(scores, threshold)
    starts = np.searchsorted(cells, ends)
    low = np.diff(starts) < count
    if low.any():
        place = columns - count
        threshold[low] = np.partition(scores[low], place, axis=1)[:, place]
        cells = _reaching(scores, threshold)
        starts = np.searchsorted(cells, ends)
    # One sort by row, score and column, in one integer of 64 bits.
    row = np.repeat(np.arange(rows), np.diff(starts))
    bits = columns.bit_length()
    keys = row.astype("uint64") << np.uint64(32 + bits)
    keys |= _descending(scores.ravel()[cells]) << np.uint64(bits)
    keys |= (cells - row * columns).astype("uint64")
    keys.sort()
    first = keys[starts[:-1, None] + np.arange(count)]
    return np.asarray(first & np.uint64(2**bits - 1)).astype("int32")


@lru_cache(maxsize=16)
def sampled_columns(columns: int) -> np.ndarray:
    """The columns that `highest` reads to estimate a threshold.

    One of each group of neighbours, at a random place in it: with the same place in all
    groups, a catalogue whose order has a period would mislead.
    """
    group = max(8, columns // SAMPLE)
    start = np.arange(0, columns, group)
    place = mixed(start.astype("uint64")) % np.uint64(group)
    return np.asarray(np.minimum(start + place.astype("int64"), columns - 1))


def highest_of_parts(
    parts: Iterable[np.ndarray], count: int, without: Ragged
) -> np.ndarray:
    """As `highest`, of scores that come as parts of the columns.

    Of all parts but the first, only the scores above the lowest one selected so far are
    looked at, so that most of the cost is one comparison for each score.

    Args:
        parts: `(rows, columns)` float32, without NaN; each has the next columns.
        count: Number of scores to select.
        without: Columns that a row does not select.

    Returns:
        `(rows, count)` int32; -1 fills rows with fewer scores above minus infinity.

    Examples:
        >>> parts = np.array([[0.5, 2.0]], "float32"), np.array([[3.0, 0.5]], "float32")
        >>> highest_of_parts(parts, 2, Ragged(np.array([1]), np.array([0, 1])))
        array([[2, 0]], dtype=int32)
    """
    best = np.full((len(without), count), -np.inf, "float32")
    chosen = np.full(best.shape, -1, "int32")
    enough = count + int(np.diff(without.offsets).max(initial=0)) if count else 0
    first = 0
    for scores in parts:
        columns = scores.shape[1]
        if first == 0:
            new = highest(scores, min(columns, enough))
        else:
            new = _above(scores, best.min(axis=1, initial=np.inf))
        value = np.take_along_axis(scores, np.maximum(new, 0), axis=1)
        new = np.where(new < 0, -1, new + first)
        value[(new < 0) | without.holds(new)] = -np.inf
        value = np.concatenate([best, value], axis=1)
        # The earlier columns are on the left, as `highest` orders equal scores.
        place = highest(value, count)
        best = np.take_along_axis(value, place, axis=1)
        new = np.concatenate([chosen, new], axis=1, dtype="int32")
        chosen = np.take_along_axis(new, place, axis=1)
        first += columns
    return np.where(best > -np.inf, chosen, np.int32(-1))


def _above(scores: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Columns of the scores above the threshold of their row; -1 fills the end."""
    rows, columns = scores.shape
    cells = _reaching(scores, np.nextafter(threshold, np.float32(np.inf)))
    edges = np.searchsorted(cells, np.arange(rows + 1) * columns)
    return Ragged(cells % columns, edges).padded(-1)


def _reaching(scores: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Flat positions of the scores that are not below the threshold of their row."""
    reaching = np.zeros(-(-scores.size // 8) * 8, bool)
    np.greater_equal(
        scores,
        threshold[:, None],
        out=reaching[: scores.size].reshape(scores.shape),
    )
    # Eight cells at once first: few are True.
    words = reaching.view("uint64")
    some = np.flatnonzero(words != 0)
    place = np.flatnonzero(words[some].view(bool))
    return np.asarray(some[place >> 3] * 8 + (place & 7))


def _descending(scores: np.ndarray) -> np.ndarray:
    """uint64 below 2³² in the reverse order of float32 scores."""
    bits = (scores + np.float32(0.0)).view("int32")  # -0.0 becomes 0.0
    bits ^= ~(bits >> 31) & np.int32(2**31 - 1)
    return np.asarray(bits.view("uint32").astype("uint64"))


def _first_places(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of each row in ascending order, with their places in the row.

    Of equal values the first is first; the last result tells which are the first ones.
    One sort of integers, which takes a fraction of the time of `argsort`.

    Args:
        values: `(rows, columns)` int, not below 0.
    """
    bits = max(1, values.shape[1] - 1).bit_length()
    largest = int(values.max(initial=0)) << bits
    ordered = values.astype("uint32" if largest < 2**32 - 2**bits else "uint64")
    ordered <<= ordered.dtype.type(bits)
    ordered |= np.arange(values.shape[1], dtype=ordered.dtype)
    ordered.sort(axis=1)
    place = (ordered & ordered.dtype.type(2**bits - 1)).astype("int32")
    ordered >>= ordered.dtype.type(bits)
    new = np.ones(values.shape, bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    return ordered, place, new


def distinct(items: np.ndarray) -> np.ndarray:
    """The items of each row without repetitions, in their order; -1 fills the end.

    Args:
        items: `(rows, columns)` int; values below 0 are left out.

    Examples:
        >>> distinct(np.array([[5, -1, 3, 5], [-1, 2, 2, 2]]))
        array([[ 5,  3, -1, -1],
               [ 2, -1, -1, -1]])
    """
    _, place, new = _first_places(np.maximum(items, -1) + 1)
    first = np.zeros(items.shape, bool)
    np.put_along_axis(first, place, new, axis=1)
    return to_the_left(items, first & (items >= 0))


def to_the_left(
    items: np.ndarray, kept: np.ndarray, width: int | None = None
) -> np.ndarray:
    """The kept items of each row, in their order; -1 fills the end.

    Args:
        items: `(rows, columns)` int.
        kept: `(rows, columns)` bool.
        width: Number of columns of the result, enough for each row; by default that of
            `items`.
    """
    width = items.shape[1] if width is None else width
    left = np.full((len(items), width), -1, items.dtype)
    count = np.count_nonzero(kept, axis=1)
    left[np.arange(width) < count[:, None]] = items[kept]
    return left


def of_width(items: np.ndarray, width: int) -> np.ndarray:
    """The first columns as int32, filled with -1 if there are fewer.

    Examples:
        >>> of_width(np.array([[5, 3]]), 3)
        array([[ 5,  3, -1]], dtype=int32)
    """
    items = items[:, :width]
    missing = width - items.shape[1]
    padded = np.pad(items, [(0, 0), (0, missing)], constant_values=-1)
    return np.asarray(padded, "int32")


def mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele et al., 2014): uint64 values as independent random bits."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
