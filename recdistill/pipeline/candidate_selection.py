"""Selects the candidates of a list: the highest scores, and a uniform tail.

Both cost a small multiple of reading the scores once: nothing is sorted but what is
selected, and no random number is drawn for what is not.
"""

from __future__ import annotations

from functools import cache

import numpy as np

SAMPLED = 8
"""One of so many scores of a row is read to estimate the threshold of the highest."""


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
    sampled = scores[:, ::SAMPLED]
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


def uniform_tail(free: np.ndarray, count: int, keys: np.ndarray) -> np.ndarray:
    """Draws columns of each row uniformly and without replacement.

    Row `i` starts at a random free column b and reads the columns in the order
    `(a * j + b) mod p` for j = 0, 1, …, with a prime p that is not below the number of
    columns and a random a, and takes the first free ones. Each free column is drawn
    with the probability `count / free columns`, and pairs of them nearly as often as in
    a simple random sample. A row's draw depends on its own key only.

    Args:
        free: `(rows, columns)` bool, the columns that may be drawn.
        count: Number of columns to draw; fewer if fewer are free.
        keys: `(rows,)` uint64, the random key of each row.

    Returns:
        `(rows, count)` int32 in ascending order, padded with -1.
    """
    rows, columns = free.shape
    drawn = np.full((rows, count), -1, "int32")
    if not count or not rows:
        return drawn
    prime = _prime(columns)
    step = 1 + (mixed(keys) % np.uint64(max(1, prime - 1))).astype("int64")
    first = _free_column(free, keys)
    left, length = np.arange(rows), count + count // 4 + 16
    while len(left):
        length = min(length, prime)
        column = step[left, None] * np.arange(length) + first[left, None]
        column -= column // prime * prime
        place = np.minimum(column, columns - 1) + left[:, None] * columns
        valid = free.ravel()[place] & (column < columns)
        rank = np.cumsum(valid, axis=1, dtype="int32")
        done = (rank[:, -1] >= count) | (length == prime)
        taken = valid & (rank <= count) & done[:, None]
        row = np.repeat(left, np.count_nonzero(taken, axis=1))
        drawn[row, rank[taken] - 1] = column[taken]
        left, length = left[~done], 4 * length
    # Padding is last.
    order = drawn.view("uint32")
    order.sort(axis=1)
    return drawn


def _free_column(free: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """A random free column of each row, `(rows,)` int64; 0 if there is none."""
    rows, columns = free.shape
    tries = mixed(keys[:, None] + np.arange(1, 9, dtype="uint64"))
    column = (tries % np.uint64(columns)).astype("int64")
    hit = np.take_along_axis(free, column, axis=1)
    found = column[np.arange(rows), hit.argmax(axis=1)]
    for row in np.flatnonzero(~hit.any(axis=1)):
        own = np.flatnonzero(free[row])
        if len(own):
            found[row] = own[int(tries[row, 0] % np.uint64(len(own)))]
    return np.asarray(found)


def mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele et al., 2014): uint64 values as independent random bits."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


@cache
def _prime(least: int) -> int:
    """The smallest prime that is not below a number, and at least 2."""
    number = max(2, least)
    while any(number % k == 0 for k in range(2, int(number**0.5) + 1)):
        number += 1
    return number
