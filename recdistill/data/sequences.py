"""Sequences: windows over the training items of each query, for sequence models.

A training list has the history before its positive, so a window is the history of a
list followed by the positive. Each query has the window of its last list, and those of
earlier lists at a distance of half a window, so that almost every item is predicted
from at least half a window. The query features of an item in a window are those of the
list in which it was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.data.batches import Lists, joined_rows
from recdistill.data.shard_reading import read_lists
from recdistill.features.encoders import FIRST

__all__ = ["Windows", "next_items", "training_windows", "window_batches"]

LISTS_AT_ONCE = 16_384
"""Number of lists in a piece of `next_items`."""


@dataclass(frozen=True)
class Windows:
    """Windows over the training items of all queries.

    Attributes:
        items: `(windows, length + 1)` int32, vocabulary indices, oldest first, padded
            with 0 on the left.
        rows: `(windows, length)` int32, row in `query` of each item after the first; -1
            for an item that was not the choice in any list.
        query: Looked-up query features by name; the last row is 0.
    """

    items: np.ndarray
    rows: np.ndarray
    query: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, numbers: np.ndarray) -> dict[str, Any]:
        """Some windows, as `window_batches` yields them."""
        rows = self.rows[numbers]
        query = {name: values[rows] for name, values in self.query.items()}
        return {"known": rows >= 0, "query": query, "windows": self.items[numbers]}


def training_windows(
    shards: Sequence[Path],
    history: str,
    features: Sequence[str],
    item_index: np.ndarray,
    length: int,
    limit: int,
    check: Callable[[int], None] = lambda needed: None,
) -> Windows:
    """Windows over the training items of all queries.

    Args:
        shards: Files of training lists; those of one query follow each other in time.
        history: Name of the history, whose values are vocabulary indices, the newest
            first.
        features: Names of the other query features.
        item_index: `(items,)`, the vocabulary index of each catalogue row.
        length: Largest number of items before the positive.
        limit: Largest number of windows; of more, a random sample is taken.
        check: Called for each file, before its query features are collected, with the
            bytes that are needed for them.

    Returns:
        The windows. The last item of each is a list's first positive; 0 if it is not in
        the catalogue. Without other query features, windows with fewer than two items
        are left out.
    """
    total = sum(pq.read_metadata(path).num_rows for path in shards)
    windows_of = partial(
        _windows_of,
        history=history,
        item_index=item_index,
        length=length,
        fewest=1 if features else 2,
    )
    chosen = _sample(shards, windows_of, limit) if total > limit else None
    items, rows = [np.zeros((0, length + 1), "int32")], [np.zeros((0, length), "int32")]
    query: dict[str, list[np.ndarray]] = {name: [] for name in features}
    passed = first = collected = 0
    for path in shards:
        lists = read_lists(path, with_raw=False)
        last, each = windows_of(lists)
        if chosen is not None:
            kept = np.flatnonzero(chosen[passed : passed + len(last)])
            passed += len(last)
            last, each = last[kept], each[kept]
        items.append(each)
        own = np.full((len(last), length), -1)
        if features and len(last):
            own = _rows_of_choices(lists, item_index, last, each)
        used = np.unique(own[own >= 0])
        place = first + np.searchsorted(used, own)
        rows.append(np.where(own >= 0, place, -1).astype("int32"))
        first += len(used)
        added = len(used) * sum(lists.query[name][:1].nbytes for name in features)
        # Those of all files are in memory twice while they are joined.
        check(collected + 2 * added)
        collected += added
        for name in features:
            query[name].append(lists.query[name][used])
    joined = {name: _with_zeros(parts) for name, parts in query.items() if parts}
    return Windows(np.concatenate(items), np.concatenate(rows), joined)


def _sample(
    shards: Sequence[Path],
    windows_of: Callable[[Lists], tuple[np.ndarray, np.ndarray]],
    limit: int,
) -> np.ndarray | None:
    """Which of all windows are taken, `(windows,)` bool; None for all of them."""
    lists = (read_lists(path, with_raw=False) for path in shards)
    count = sum(len(windows_of(each)[0]) for each in lists)
    if count <= limit:
        return None
    chosen = np.zeros(count, bool)
    chosen[np.random.default_rng(0).choice(count, limit, replace=False)] = True
    return chosen


def _windows_of(
    lists: Lists, history: str, item_index: np.ndarray, length: int, fewest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Windows of at least `fewest` items over the lists of one file.

    Returns:
        `(windows,)`, the list in which the last item of each window was chosen; and
        `(windows, length + 1)` int32, its items, oldest first.
    """
    past = lists.query[history][:, :length]
    last = _spaced_rows(lists, max(1, past.shape[1] // 2))
    past = np.pad(past[last][:, ::-1], [(0, 0), (length - past.shape[1], 0)])
    target = _first_positives(lists, item_index)[last]
    each = np.concatenate([past, target[:, None]], axis=1).astype("int32")
    kept = np.flatnonzero(np.count_nonzero(each, axis=1) >= fewest)
    return last[kept], each[kept]


def _rows_of_choices(
    lists: Lists, item_index: np.ndarray, last: np.ndarray, windows: np.ndarray
) -> np.ndarray:
    """The list in which each item of a window but the first was chosen.

    A list says how many items its query has chosen before, so the place of an item
    among all choices of the query says in which list it was chosen. An interaction
    without a list, such as a repeat that is left out, has a place as well. Such a
    repeat gets no list if its first choice is in the same window, and the list of its
    first choice if it is not.

    Args:
        lists: Lists; those of one query follow each other in time.
        item_index: `(items,)`, the vocabulary index of each catalogue row.
        last: `(windows,)`, the list in which the last item was chosen.
        windows: `(windows, length + 1)`, items, oldest first.

    Returns:
        `(windows, length)`; -1 where there is no such list.
    """
    before = lists.earlier
    names = lists.query_id
    new_query = np.append(True, names[1:] != names[:-1])
    query = np.cumsum(new_query) - 1
    # Lists of one query with the same number of earlier choices have the same time.
    new = new_query | np.append(True, before[1:] != before[:-1])
    moment = np.cumsum(new) - 1
    places = int(before.max(initial=0)) + 1
    start = (query * places + before)[new]

    in_catalogue = np.isin(windows[:, :-1], item_index[item_index >= FIRST])
    later = np.cumsum(in_catalogue[:, ::-1], axis=1)[:, ::-1]
    place = np.maximum(before[last][:, None] - later, 0)
    found = np.searchsorted(start, query[last][:, None] * places + place, "right") - 1
    found = np.concatenate([found, moment[last][:, None]], axis=1)
    own = found >= np.searchsorted(start, query[last] * places)[:, None]

    chosen = lists.positives.values
    row_of = np.repeat(np.arange(len(lists)), np.diff(lists.positives.offsets))
    row_of, chosen = row_of[chosen >= 0], item_index[chosen[chosen >= 0]]
    if not len(chosen):
        return np.full((len(windows), windows.shape[1] - 1), -1)
    items = int(max(item_index.max(), windows.max(initial=0))) + 1
    choices = moment[row_of] * items + chosen
    order = np.argsort(choices, kind="stable")
    choices, row_of = choices[order], row_of[order]
    wanted = found * items + windows
    choice = np.minimum(np.searchsorted(choices, wanted), len(choices) - 1)
    row = row_of[choice]
    same = own & (choices[choice] == wanted) & (windows >= FIRST)
    if lists.seen_excluded:
        same &= ~_again(wanted)
    same, row = same[:, 1:], row[:, 1:]
    # An item with nothing before it in the window may be in a list with a history.
    same &= (windows[:, :-1] > 0) | (before[row] == 0)
    return np.where(same, row, -1)


def _again(values: np.ndarray) -> np.ndarray:
    """Whether each value is further left in its row as well."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    again = np.zeros(values.shape, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again


def _with_zeros(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The values of all files, and a row of zeros."""
    zeros = np.zeros((1, *parts[0].shape[1:]), parts[0].dtype)
    return joined_rows([*parts, zeros])


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


def window_batches(windows: Windows, batch_size: int, seed: int) -> tf.data.Dataset:
    """Endless shuffled batches of windows.

    A batch has the entries "windows", `(batch_size, length + 1)`; "query", the query
    features of each item after the first by name, `(batch_size, length, …)`; and
    "known", whether these are known, `(batch_size, length)`.

    Windows that do not fill a batch come first in the next epoch.

    Args:
        windows: At least one window.
        batch_size: Number of windows in a batch.
        seed: Seed of the order.
    """

    def produce() -> Iterator[dict[str, Any]]:
        rng, order = np.random.default_rng(seed), np.zeros(0, int)
        while True:
            order = np.concatenate([order, rng.permutation(len(windows))])
            while len(order) >= batch_size:
                yield windows.take(order[:batch_size])
                order = order[batch_size:]

    signature = tf.nest.map_structure(
        lambda each: tf.TensorSpec((batch_size, *each.shape[1:]), each.dtype),
        windows.take(np.zeros(1, int)),
    )
    dataset = tf.data.Dataset.from_generator(produce, output_signature=signature)
    return dataset.prefetch(4)
