"""Held-out lists that a teacher, or the student of an earlier run, was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data import column_values
from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged, is_in_sorted
from recdistill.data.shard_reading import read_lists
from recdistill.data.table_files import read_table
from recdistill.errors import DataError
from recdistill.pipeline.candidates.candidate_selection import mixed
from recdistill.pipeline.config.section import Section
from recdistill.pipeline.config.teacher_section import (
    is_own,
    members_of,
)
from recdistill.pipeline.preparation.prepared_data import Prepared

HELD_OUT = ("valid", "test")


def lists_trained_on(prepared: Prepared, teacher: Section) -> dict[str, int] | None:
    """Number of held-out lists that the teacher was trained on, if known.

    A teacher that the pipeline trains uses the training lists only. An external teacher
    can declare its training data in a table (`teacher.trained_on`), with a column
    `list_id` (row numbers of the interactions that are used, from 0) or with `query_id`
    and `item_id`. A pair that also occurs in the query's training part is not counted.

    Args:
        prepared: The prepared data.
        teacher: The `teacher` section of the configuration.

    Returns:
        The numbers for "valid" and "test", 0 for a part that must not be read; None if
        unknown.

    Raises:
        DataError: If a table cannot be read or lacks the columns.
    """
    members = members_of(teacher)
    trained_here = any(map(is_own, members))
    declared = [getattr(member, "trained_on", None) for member in members]
    tables = [_read_declared(path) for path in declared if path is not None]
    if not (trained_here or tables):
        return None
    known = [_declared_ids(table) for table in tables if _has_ids(table)]
    if trained_here:
        known += [_list_ids(path) for path in prepared.shards("train")]
    ids = np.sort(np.concatenate([np.array([], "int64"), *known]))
    pairs = [_pairs(table) for table in tables if not _has_ids(table)]
    counts = dict.fromkeys(HELD_OUT, 0)
    for split in prepared.held_out:
        for path in prepared.shards(split):
            trained = _has_row_among(path, ids)
            if pairs:
                trained |= _declared_pairs(read_lists(path), prepared, pairs)
            counts[split] += int(trained.sum())
    return counts


def lists_seen_before(prepared: Prepared, earlier: Prepared) -> dict[str, int]:
    """Number of held-out lists with a training pair of an earlier run.

    A pair that also occurs in the query's training part is not counted.

    Args:
        prepared: The prepared data.
        earlier: That of the earlier run, whose item ids are the first ones of this one.

    Returns:
        The numbers for "valid" and "test", 0 for a part that must not be read.
    """
    rows = earlier.training_rows
    queries = _hashed(earlier.training_queries)[rows.row_numbers()]
    known = np.sort(mixed(queries + rows.values.astype("uint64")))
    counts = dict.fromkeys(HELD_OUT, 0)
    for split in prepared.held_out:
        for path in prepared.shards(split):
            lists = read_lists(path, with_raw=False)
            row, item = lists.positives.row_numbers(), lists.positives.values
            row, item = row[item >= 0], prepared.item_index[item[item >= 0]]
            keys = mixed(_hashed(lists.query_id)[row] + item.astype("uint64"))
            found = np.flatnonzero(is_in_sorted(keys, known))
            trained = lists.query_row[row[found]]
            has_row = trained >= 0
            own = prepared.training_rows.take(trained[has_row])
            again = Ragged(item[found[has_row]], np.arange(int(has_row.sum()) + 1))
            new = ~has_row
            new[has_row] = np.diff(again.difference(own).offsets) > 0
            counts[split] += len(np.unique(row[found[new]]))
    return counts


def _hashed(ids: np.ndarray) -> np.ndarray:
    """`(ids,)` uint64, spread so that an item can be added."""
    return mixed(pd.util.hash_array(np.asarray(ids, object)))


def _read_declared(path: Path) -> pa.Table:
    try:
        table = read_table(path)
    except DataError as error:
        raise DataError(f"Cannot read `teacher.trained_on`: {error}") from error
    if not (_has_ids(table) or {"query_id", "item_id"} <= {*table.column_names}):
        raise DataError(
            "`teacher.trained_on` must have a column list_id, or the columns query_id "
            f"and item_id. Received: {path} with {', '.join(table.column_names)}"
        )
    return table


def _has_ids(table: pa.Table) -> bool:
    return "list_id" in table.column_names


def _declared_ids(table: pa.Table) -> np.ndarray:
    place = column_values.Place("`teacher.trained_on`", "list_id")
    ids = column_values.ids(table["list_id"].combine_chunks(), place)
    try:
        return np.asarray(ids.cast(pa.int64()))
    except pa.ArrowInvalid as error:
        raise DataError(
            "`teacher.trained_on` must have row numbers of the interactions in the "
            f"column list_id. Received: {error}"
        ) from error


def _list_ids(path: Path) -> np.ndarray:
    return np.asarray(pq.read_table(path, columns=["list_id"])["list_id"])


def _has_row_among(path: Path, numbers: np.ndarray) -> np.ndarray:
    """`(lists,)` bool: whether an interaction of the list has one of these numbers.

    They are in ascending order.
    """
    table = pq.read_table(path, columns=["rows"])
    rows = Ragged.from_arrow(table["rows"].combine_chunks())
    among = is_in_sorted(rows.values, numbers)
    return np.bincount(rows.row_numbers(), among, len(rows)) > 0


def _pairs(table: pa.Table) -> set[tuple[str, str]]:
    query, item = (
        column_values.ids(
            table[name].combine_chunks(),
            column_values.Place("`teacher.trained_on`", name),
        ).to_pylist()
        for name in ("query_id", "item_id")
    )
    return set(zip(query, item, strict=True))


def _declared_pairs(
    lists: Lists, prepared: Prepared, pairs: Iterable[set[tuple[str, str]]]
) -> np.ndarray:
    """`(lists,)` bool: query and a positive are declared, and not a training pair."""
    encoder = prepared.schema.items
    names = prepared.items[encoder.spec.column or encoder.feature]
    ids = names.cast(pa.string()).to_pylist()
    trained = np.zeros(len(lists), bool)
    for row, item in zip(
        lists.positives.row_numbers(), lists.positives.values, strict=True
    ):
        if item < 0 or trained[row]:
            continue
        pair = (str(lists.query_id[row]), ids[item])
        if any(pair in each for each in pairs):
            training_row = lists.query_row[row : row + 1]
            items = prepared.training_rows.take(training_row).values
            trained[row] = prepared.item_index[item] not in items
    return trained
