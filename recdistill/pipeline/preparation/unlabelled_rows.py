"""Unlabelled lists: requests whose choice was not observed.

Nothing is known about what such a request would have led to, but the teacher can score
it, and the student learns its scores (semi-supervised distillation; Xie et al., "Self-
training with noisy student", 2020, for images). In a table of requests each row is one;
in listwise data each list without a relevant row.

The history of a request is what its query interacted with before. If the table has a
column with the name of the history, such as a log of what was sent to the exported
model, that is the history.

Only requests of the training part are used. Otherwise a student could learn the
teacher's scores of the very requests of the validation and the test part, and the
measured agreement would be better than that of new requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data import Dataset
from recdistill.data.dataset import require_columns
from recdistill.errors import DataError
from recdistill.features.specs import CategoriesSpec
from recdistill.pipeline.preparation.feature_columns import FeatureColumn
from recdistill.pipeline.preparation.interaction_sort import drawn_times
from recdistill.pipeline.preparation.listed_rows import NotChosenRows
from recdistill.pipeline.preparation.partitioned_rows import PartitionedRows
from recdistill.pipeline.preparation.partitions import Partition, Partitions
from recdistill.pipeline.preparation.row_parts import TRAIN


class UnlabelledRows:
    """The unlabelled lists, on disk by partition.

    Args:
        dataset: The data set.
        parts: The partitions of its interactions.
        not_chosen: Rows that were shown and not chosen, of listwise data.
        folder: An existing folder for the files.
        last_training_time: The time of the latest training interaction of all queries.
        history: Name of the history; None if there is none.

    Attributes:
        requests: Number of rows of the table of requests; 0 for listwise data.
        query_ids: Id of each query, by its number: the queries of the interactions have
            the same numbers as there, and the others follow.

    Raises:
        DataError: If a column is missing, or a value is bad.
    """

    def __init__(
        self,
        dataset: Dataset,
        parts: Partitions,
        not_chosen: NotChosenRows,
        folder: Path,
        last_training_time: int,
        history: str | None = None,
    ) -> None:
        self._parts, self._listwise = parts, parts.columns.list is not None
        self._latest = last_training_time
        self._history: str | None = None
        self.requests = 0
        if self._listwise:
            self._rows = not_chosen.rows
        else:
            features = list(parts.features)
            batches: Iterator[pa.RecordBatch] = iter(())
            if dataset.unlabelled is not None:
                first = next(dataset.unlabelled(), None)
                if first is not None:
                    names = [feature.column for feature in features]
                    require_columns(first.schema.names, names, "Table `unlabelled`")
                    if history is not None and history in first.schema.names:
                        self._history = f"feature{len(features)}"
                        features.append(_items_of(history, first[history].type))
                batches = dataset.unlabelled()
            place = folder / "unlabelled"
            self._rows = PartitionedRows(batches, parts, features, place, "unlabelled")
            self.requests = self._rows.count
        self._others = self._rows.other_queries
        self.query_ids = pa.concat_arrays([parts.query_ids, self._others])

    def of(self, part: Partition) -> tuple[Partition, np.ndarray] | None:
        """The unlabelled lists of a partition that belong to the training part.

        Args:
            part: The partition.

        Returns:
            The partition with one more row for each list, after the others, in which
            `first_of_query` and `first_of_moment` say which rows are the list's
            history; and these rows. None if there is no list.
        """
        table = self._rows.of(part)
        if table is None or not (rows := self._lists(table, part)).num_rows:
            return None
        query = self._numbers(rows["query"].combine_chunks(), part)
        time = np.asarray(rows["time"])
        start = np.searchsorted(part.query, query)
        known = np.searchsorted(part.query, query, side="right") > start
        place = _first_not_earlier(part, query, time)
        kept = self._in_training(part, time, np.where(known, start, -1))
        if not self._listwise and self._history is None:
            # A request that led to an interaction has a list of its own.
            at = np.minimum(place, len(part) - 1)
            kept &= (part.query[at] != query) | (part.time[at] != time)
        chosen = np.flatnonzero(kept)
        if not len(chosen):
            return None
        rows, query = rows.take(pa.array(chosen)), query[chosen]
        start = np.where(known, start, 0)[chosen]
        place = np.where(known, place, 0)[chosen]
        past = np.array([], "int32")
        if self._history is not None:
            lists = rows[self._history].combine_chunks()
            past, offsets = self._items(lists)
            start, place = len(part) + offsets[:-1], len(part) + offsets[1:]
        number = len(part) + len(past) + np.arange(len(rows))
        return _extended(part, past, rows, query, start, place), number

    def _items(self, lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the items of all lists, and where each list starts and ends.

        Items without interactions are left out, because no model knows them.
        """
        number = pc.index_in(lists.flatten(), value_set=self._parts.item_ids)
        found = np.asarray(pc.fill_null(number, -1), "int32")
        ends = np.concatenate([[0], np.cumsum(pc.list_value_length(lists))])
        return found[found >= 0], np.concatenate([[0], np.cumsum(found >= 0)])[ends]

    def _lists(self, table: pa.Table, part: Partition) -> pa.Table:
        """One row for each request, with a drawn time if the data has none."""
        if self._listwise:
            labelled = pc.is_in(
                table["list"], value_set=part.table["list"].combine_chunks()
            )
            table = table.filter(pc.invert(labelled))
            codes = table["list"].combine_chunks().dictionary_encode().indices
            _, first = np.unique(np.asarray(codes), return_index=True)
            table = table.take(pa.array(np.sort(first)))
        if self._parts.times is None:
            choice = "list" if self._listwise else "row"
            texts = table[choice].cast(pa.string())
            times = drawn_times(table["query"], texts, self._parts.seed)
            table = table.append_column("time", pa.array(times))
        return table

    def _numbers(self, query: pa.Array, part: Partition) -> np.ndarray:
        """`(rows,)`: the number of each query."""
        first, last = int(part.query[0]), int(part.query[-1])
        own = self._parts.query_ids.slice(first, last + 1 - first)
        inside = pc.index_in(query, value_set=own)
        other = pc.index_in(query, value_set=self._others)
        found = pc.coalesce(
            pc.add(inside, first), pc.add(other, len(self._parts.query_ids))
        )
        return np.asarray(found)

    def _in_training(
        self, part: Partition, time: np.ndarray, start: np.ndarray
    ) -> np.ndarray:
        """`(rows,)` bool: whether each request is in the training part.

        It is if it is not later than the last training interaction of its query, or of
        all queries if its query has no interactions or all parts end at one moment.

        Args:
            part: The partition.
            time: `(rows,)`: the time of each request.
            start: `(rows,)`: the first interaction of its query; -1 if there is none.
        """
        if self._parts.cuts is not None:
            return np.asarray(time <= self._parts.cuts[0])
        least = np.iinfo("int64").min
        latest = np.full(len(part), least)
        train = part.split == TRAIN
        np.maximum.at(latest, part.first_of_query[train], part.time[train])
        if self._parts.times is None:
            overall = np.iinfo("int64").max
        else:
            overall = self._latest
        return np.asarray(time <= np.where(start < 0, overall, latest[start]))


def _items_of(history: str, kind: pa.DataType) -> FeatureColumn:
    """The column of a history: lists of item ids."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise DataError(
            f"Table `unlabelled`, column `{history}`: it is named like the history, so "
            "its values must be lists of item ids, which Parquet and JSON lines have. "
            f"Received: {kind}. Write lists, or rename the column: then the histories "
            "are made of the interactions."
        )
    return FeatureColumn(history, CategoriesSpec(), "unlabelled", history)


def _extended(
    part: Partition,
    past: np.ndarray,
    rows: pa.Table,
    query: np.ndarray,
    first_of_query: np.ndarray,
    first_of_moment: np.ndarray,
) -> Partition:
    """A partition with more rows: those of given histories, and then the requests.

    Args:
        part: The partition.
        past: `(items,)`, the numbers of the items of given histories.
        rows: The requests.
        query: `(requests,)`, the number of the query.
        first_of_query: `(requests,)`, the first row of the history.
        first_of_moment: `(requests,)`, the row after the history.
    """
    count = len(past) + len(rows)
    own = len(part) + np.arange(count)
    before = own[: len(past)]
    given = {
        "query": np.concatenate([np.zeros(len(past), "int32"), query]),
        "item": np.concatenate([past, np.zeros(len(rows), "int32")]),
        # Differs from the numbers of all interactions.
        "row": np.append(np.zeros(len(past), "int64"), -1 - np.asarray(rows["row"])),
    }
    columns = []
    for field in part.table.schema:
        if field.name in given:
            values = pa.array(given[field.name])
        elif field.name in rows.column_names:
            # Rows of a history have no values: only their items are read.
            nothing = pa.nulls(len(past), rows[field.name].type)
            values = pa.chunked_array([nothing, *rows[field.name].chunks])
        else:  # Known of interactions only.
            values = pa.nulls(count, field.type)
        columns.append(values.cast(field.type))
    more = pa.Table.from_arrays(columns, names=part.table.column_names)
    return replace(
        part,
        table=pa.concat_tables([part.table, more]),
        split=np.append(part.split, np.full(count, TRAIN, part.split.dtype)),
        first_of_query=np.concatenate([part.first_of_query, before, first_of_query]),
        first_of_moment=np.concatenate([part.first_of_moment, before, first_of_moment]),
        first_of_list=np.append(part.first_of_list, own),
        first_of_pair=np.append(part.first_of_pair, own),
        first_copy=np.append(part.first_copy, own),
    )


def _first_not_earlier(
    part: Partition, query: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """`(rows,)`: how many rows come before a query and time in the order of the part.

    Args:
        part: A partition, whose rows are sorted by query and time.
        query: `(rows,)`, numbers of queries.
        time: `(rows,)`, times.
    """
    times = np.unique(part.time)
    width = len(times) + 1
    keys = part.query.astype("int64") * width + np.searchsorted(times, part.time)
    wanted = query.astype("int64") * width + np.searchsorted(times, time)
    return np.asarray(np.searchsorted(keys, wanted))
