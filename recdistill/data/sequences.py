"""Sequences: windows over the training items of each query, for sequence models.

A training list has the history before its positive, so a window is the history of a
list followed by the positive. Each query has the window of its last list, and those of
earlier lists at a distance of half a window, so that almost every item is predicted
from at least half a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.data.batches import Lists
from recdistill.data.shard_reading import read_lists

__all__ = ["next_items", "training_windows", "window_batches"]

LISTS_AT_ONCE = 16_384
"""Number of lists in a piece of `next_items`."""


def training_windows(
    shards: Sequence[Path], history: str, item_index: np.ndarray, length: int
) -> np.ndarray:
    """Windows over the training items of all queries.

    Args:
        shards: Files of training lists; those of one query follow each other in time.
        history: Name of the history, whose values are vocabulary indices, the newest
            first.
        item_index: `(items,)`, the vocabulary index of each catalogue row.
        length: Largest number of items before the positive.

    Returns:
        `(windows, length + 1)` int32, oldest first, padded with 0 on the left. The last
        item is a list's first positive; 0 if it is not in the catalogue. Windows with
        fewer than two items are left out.
    """
    found = [np.zeros((0, length + 1), "int32")]
    for path in shards:
        lists = read_lists(path, with_raw=False)
        past = lists.query[history][:, :length]
        lists = lists.take(_spaced_rows(lists, max(1, past.shape[1] // 2)))
        past = lists.query[history][:, :length][:, ::-1]
        past = np.pad(past, [(0, 0), (length - past.shape[1], 0)])
        target = _first_positives(lists, item_index)
        each = np.concatenate([past, target[:, None]], axis=1)
        found.append(each[np.count_nonzero(each, axis=1) > 1].astype("int32"))
    return np.concatenate(found)


def next_items(
    shards: Sequence[Path], history: str, item_index: np.ndarray, limit: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Histories of training lists with the items that were chosen next.

    Args:
        shards: Files of training lists.
        history: Name of the history.
        item_index: `(items,)`, the vocabulary index of each catalogue row.
        limit: Largest number of lists; of more, lists at equal distances are taken.

    Yields:
        For some lists, the vocabulary indices of the history `(lists, length)`, the
        newest first, and of the positives `(lists, n)`, both padded with 0; and the row
        of the query's training row `(lists,)`.
    """
    total = sum(pq.read_metadata(path).num_rows for path in shards)
    distance, first = max(1, -(-total // limit)), 0
    for path in shards:
        lists = read_lists(path, with_raw=False)
        rows = np.arange(-first % distance, len(lists), distance)
        first += len(lists)
        for start in range(0, len(rows), LISTS_AT_ONCE):
            part = lists.take(rows[start : start + LISTS_AT_ONCE])
            chosen = part.positives.padded(-1)
            chosen = np.where(chosen >= 0, item_index[np.maximum(chosen, 0)], 0)
            yield part.query[history], chosen, part.query_row


def _spaced_rows(lists: Lists, distance: int) -> np.ndarray:
    """The last list of each query, and every list at a multiple of this distance."""
    names = lists.query_id
    last = np.flatnonzero(np.append(names[1:] != names[:-1], True))
    behind = np.repeat(last, np.diff(np.append(-1, last))) - np.arange(len(names))
    return np.flatnonzero(behind % distance == 0)


def _first_positives(lists: Lists, item_index: np.ndarray) -> np.ndarray:
    """Vocabulary index of each list's first positive; 0 for an unknown item."""
    first, stop = lists.positives.offsets[:-1], lists.positives.offsets[1:]
    item = np.full(len(lists), -1)
    some = first < stop
    item[some] = lists.positives.values[first[some]]
    return np.where(item >= 0, item_index[np.maximum(item, 0)], 0)


def window_batches(windows: np.ndarray, batch_size: int, seed: int) -> tf.data.Dataset:
    """Endless shuffled batches of windows, `(batch_size, length + 1)`.

    Windows that do not fill a batch come first in the next epoch.

    Args:
        windows: `(windows, length + 1)`, at least one.
        batch_size: Number of windows in a batch.
        seed: Seed of the order.
    """

    def produce() -> Iterator[np.ndarray]:
        rng, order = np.random.default_rng(seed), np.zeros(0, int)
        while True:
            order = np.concatenate([order, rng.permutation(len(windows))])
            while len(order) >= batch_size:
                yield windows[order[:batch_size]]
                order = order[batch_size:]

    signature = tf.TensorSpec([batch_size, windows.shape[1]], tf.int32)
    dataset = tf.data.Dataset.from_generator(produce, output_signature=signature)
    return dataset.prefetch(4)
