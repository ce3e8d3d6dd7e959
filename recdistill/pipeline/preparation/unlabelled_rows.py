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
from recdistill.pipeline.preparation.time_statistics import TimeStatistics

PIECE = 2**15
"""Largest number of requests whose rows are in memory together."""


class UnlabelledRows:
    """The unlabelled lists, on disk by partition.

    Args:
        dataset: The data set.
        parts: The partitions of its interactions.
        not_chosen: Rows that were shown and not chosen, of listwise data.
        folder: An existing folder for the files.
        last_training_time: The time of the latest training interaction of all queries.
        history: Name of the history; None if there is none.
        per_query: Largest number of lists of a query; the latest ones are kept.

    Attributes:
        requests: Number of rows of the table of requests; 0 for listwise data.
        query_ids: Id of each query, by its number: the queries of the interactions have
            the same numbers as there, and the others follow.

    Raises:
        DataError: If a column is missing, a value is bad, or the times have another
            unit than those of the interactions.
    """

    def __init__(
        self,
        dataset: Dataset,
        parts: Partitions,
        not_chosen: NotChosenRows,
        folder: Path,
        last_training_time: int,
        history: str | None = None,
        per_query: int | None = None,
    ) -> None:
        self._parts, self._listwise = parts, parts.columns.list is not None
        self._latest, self._per_query = last_training_time, per_query
        self._history: str | None = None
        self.requests = 0
        if self._listwise:
            self._rows = not_chosen.rows
        else:
            features = list(parts.features)
            first = None
            if dataset.unlabelled is not None:
                first = next(dataset.unlabelled(), None)
            if first is not None:
                names = [feature.column for feature in features]
                require_columns(first.schema.names, names, "Table `unlabelled`")
                if history is not None and history in first.schema.names:
                    self._history = f"feature{len(features)}"
                    features.append(self._items_of(history, first[history].type))
            times = TimeStatistics()
            self._rows = PartitionedRows(
                self._batches(dataset, times),
                parts,
                features,
                folder / "unlabelled",
                "unlabelled",
            )
            self.requests = self._rows.count
            self._check_unit(times)
        self._others = self._rows.other_queries
        self.query_ids = pa.concat_arrays([parts.query_ids, self._others])

    def _batches(
        self, dataset: Dataset, times: TimeStatistics
    ) -> Iterator[pa.RecordBatch]:
        """The rows of the table, whose times are added to the statistics."""
        for batch in dataset.unlabelled() if dataset.unlabelled is not None else ():
            if self._parts.times is not None:
                times.add(batch[self._parts.columns.time].to_numpy())
            yield batch

    def _check_unit(self, times: TimeStatistics) -> None:
        """Checks that requests and interactions can be compared by their times."""
        if not self.requests or self._parts.times is None:
            return
        units = (times.unit, self._parts.times.unit)
        if None not in units and units[0] != units[1]:
            raise DataError(
                f"Table `unlabelled`, column `{self._parts.columns.time}`: times must "
                f"be read in the unit of the interactions, {units[1]}. Received: "
                f"{units[0]}. Write them in the same form in both tables (dates and "
                "fractions of a second are read as microseconds)."
            )

    def _items_of(self, history: str, kind: pa.DataType) -> FeatureColumn:
        """The column of a history: lists of item ids."""
        if self._parts.times is None:
            raise DataError(
                f"Table `unlabelled` must not have the column `{history}` with "
                '`split.by` = "leave_random_out": without times it is not known '
                "whether a history has items of the validation or test part. Remove "
                "or rename the column."
            )
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise DataError(
                f"Table `unlabelled`, column `{history}`: it is named like the "
                "history, so its values must be lists of item ids, which Parquet and "
                f"JSON lines have. Received: {kind}. Write lists, or rename the "
                "column: then the histories are made of the interactions."
            )
        return FeatureColumn(history, CategoriesSpec(), "unlabelled", history)

    def lists(self, part: Partition) -> Iterator[tuple[Partition, np.ndarray]]:
        """The unlabelled lists of a partition that belong to the training part.

        Args:
            part: The partition.

        Yields:
            The partition with one more row for each of at most `PIECE` lists, after the
            others, in which `first_of_query` and `first_of_moment` say which rows are
            the list's history; and these rows.
        """
        heads = self._heads(part)
        if not len(heads):
            return
        query = self._numbers(heads["query"].combine_chunks(), part)
        time = np.asarray(heads["time"])
        start = np.searchsorted(part.query, query)
        known = np.searchsorted(part.query, query, side="right") > start
        place = _first_not_earlier(part, query, time)
        kept = self._in_training(part, time, np.where(known, start, -1))
        if not self._listwise and self._history is None:
            # A request that led to an interaction has a list of its own.
            at = np.minimum(place, len(part) - 1)
            kept &= (part.query[at] != query) | (part.time[at] != time)
        kept = self._latest_of(query, time, kept)
        start, place = np.where(known, start, 0), np.where(known, place, 0)
        done = 0
        for piece in self._pieces(part, heads):
            own = np.flatnonzero(kept[done : done + len(piece)])
            chosen = own + done
            done += len(piece)
            if len(own):
                rows = piece.take(pa.array(own))
                yield self._extended(
                    part, rows, query[chosen], start[chosen], place[chosen]
                )

    def _extended(
        self,
        part: Partition,
        rows: pa.Table,
        query: np.ndarray,
        start: np.ndarray,
        place: np.ndarray,
    ) -> tuple[Partition, np.ndarray]:
        """The partition with these requests, and their rows."""
        past = np.array([], "int32")
        if self._history is not None:
            past, offsets = self._items(rows[self._history].combine_chunks())
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

    def _heads(self, part: Partition) -> pa.Table:
        """Query and time of all requests; of listwise data one whole row of each."""
        columns = None if self._listwise else ["query", "row"]
        if columns is not None and self._parts.times is not None:
            columns.append("time")
        table = self._rows.of(part, columns)
        if table is None:
            return pa.table({})
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

    def _pieces(self, part: Partition, heads: pa.Table) -> Iterator[pa.Table]:
        """The rows of all requests, a few at a time."""
        if not self._listwise:
            yield from self._rows.pieces(part, PIECE)
            return
        for start in range(0, len(heads), PIECE):
            yield heads.slice(start, PIECE).combine_chunks()

    def _latest_of(
        self, query: np.ndarray, time: np.ndarray, kept: np.ndarray
    ) -> np.ndarray:
        """Which of the kept requests are the latest ones of their query."""
        if self._per_query is None or not kept.any():
            return kept
        rows = np.flatnonzero(kept)
        rows = rows[np.lexsort((time[rows], query[rows]))]
        last = np.append(np.flatnonzero(np.diff(query[rows])), len(rows) - 1)
        behind = np.repeat(last, np.diff(last, prepend=-1)) - np.arange(len(rows))
        found = np.zeros(len(kept), bool)
        found[rows[behind < self._per_query]] = True
        return found

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
    read = {"time", "list", *(n for n in rows.column_names if n.startswith("feature"))}
    columns = []
    for field in part.table.schema:
        if field.name in given:
            values = pa.array(given[field.name])
        elif field.name in rows.column_names and field.name in read:
            # Rows of a history have no values: only their items are read.
            nothing = pa.nulls(len(past), rows[field.name].type)
            values = pa.chunked_array([nothing, *rows[field.name].chunks])
        else:  # Known of interactions only. (Drawn times have been used already.)
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
