"""Partitions of the interactions by query, with the part of each row.

A partition holds all interactions of its queries, sorted by query and time. It fits in
memory for a data set of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data import Columns, Dataset
from recdistill.data.dataset import Progress
from recdistill.errors import DataError
from recdistill.pipeline.config import SplitConfig
from recdistill.pipeline.preparation.feature_columns import FeatureColumn
from recdistill.pipeline.preparation.interaction_sort import SortedInteractions
from recdistill.pipeline.preparation.row_parts import (
    Pairs,
    first_of_runs,
    kept_together,
    last_of_each_query,
)
from recdistill.pipeline.preparation.time_statistics import TimeStatistics


@dataclass(frozen=True)
class Partition:
    """All interactions of some queries, sorted by query and time.

    Attributes:
        table: The rows: `query` and `item`, the numbers of the ids; `time`; `row`, the
            number in the source; `relevance`, `weight` and `list`, if the data has
            them; and the features of the interactions, `feature0` and so on, as raw
            values.
        split: `(rows,)`: TRAIN, VALID or TEST; the same for all rows of a list, and for
            all rows of one query, item and time.
        first_of_query: `(rows,)`: the first row of the same query.
        first_of_moment: `(rows,)`: the first row of the same query and time; the rows
            before it happened strictly earlier.
        first_of_list: `(rows,)`: the first row of the same list. If the data has no
            ids of lists, rows of the same query, time and features are one list: the
            items that one request led to.
        first_of_pair: `(rows,)`: the first row with the same query and item.
        first_copy: `(rows,)`: the first row with the same query, item and time.
        number: Number of the partition.
    """

    table: pa.Table
    split: np.ndarray
    first_of_query: np.ndarray
    first_of_moment: np.ndarray
    first_of_list: np.ndarray
    first_of_pair: np.ndarray
    first_copy: np.ndarray
    number: int = 0

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.split)

    @cached_property
    def query(self) -> np.ndarray:
        """`(rows,)`: the number of the query."""
        return np.asarray(self.table["query"])

    @cached_property
    def item(self) -> np.ndarray:
        """`(rows,)`: the number of the item."""
        return np.asarray(self.table["item"])

    @cached_property
    def time(self) -> np.ndarray:
        """`(rows,)` int64: the time."""
        return np.asarray(self.table["time"])

    @property
    def repeated(self) -> np.ndarray:
        """`(rows,)` bool: whether the query interacted with the row's item earlier.

        Rows of the same time do not count as earlier.
        """
        return np.asarray(self.first_of_pair < self.first_of_moment)


class Partitions:
    """The partitions of a data set on disk.

    Args:
        dataset: The data set.
        split: The `split` section.
        folder: An empty folder for the files.
        progress: Callback for progress.
        seed: Seed of the drawn times of the split `leave_random_out`.
        features: The features that the interactions have.

    Attributes:
        rows: Number of interactions.
        query_ids: Id of each query, by its number.
        item_ids: Id of each item, by its number; in alphabetical order.
        times: Statistics of the times; None if the times are drawn.
        cuts: The last times of the training and of the validation part, if these end
            for all queries at one moment; else None.
        split: As given.
        seed: As given.
        features: As given.

    Raises:
        DataError: If there are no interactions, or if the data is invalid.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: SplitConfig,
        folder: Path,
        progress: Progress,
        seed: int = 0,
        features: Sequence[FeatureColumn] = (),
    ) -> None:
        self.columns: Columns = dataset.columns
        self.split, self.features = split, features
        drawn = split.by == "leave_random_out"
        if not drawn and dataset.columns.time is None:
            raise DataError(
                f"Data set `{dataset.name}` has no column of times, which this split "
                'needs. Set `split.by` = "leave_random_out".'
            )
        self.times = None if drawn else TimeStatistics()
        self.seed = seed
        found = SortedInteractions(
            dataset, features, folder, progress, self.times, seed
        )
        self.rows, self._paths = found.rows, found.paths
        self.query_ids, self.item_ids = found.query_ids, found.item_ids
        self.cuts: np.ndarray | None = None
        if split.by == "global_time" and self.times is not None:
            shares = (1 - split.valid - split.test, 1 - split.test)
            self.cuts = self.times.cuts(shares)

    def __len__(self) -> int:
        """Number of partitions."""
        return len(self._paths)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the partitions that have interactions."""
        return [number for number, path in enumerate(self._paths) if path.exists()]

    def __iter__(self) -> Iterator[Partition]:
        """The partitions, one at a time."""
        for number, path in enumerate(self._paths):
            if path.exists():
                with pa.OSFile(str(path), "rb") as file:
                    table = pa.ipc.open_file(file).read_all().combine_chunks()
                yield self._partition(self._grouped(table), number)

    def _grouped(self, table: pa.Table) -> pa.Table:
        """The rows, those of one moment with equal features next to each other."""
        if not self.features or self.columns.list is not None:
            return table
        query, time = np.asarray(table["query"]), np.asarray(table["time"])
        same = (query[1:] == query[:-1]) & (time[1:] == time[:-1])
        # With two rows of a moment, those of one request are neighbours.
        several = np.flatnonzero(same[1:] & same[:-1])
        if not len(several):
            return table
        moment = np.cumsum(np.concatenate([[0], ~same]))
        rows = np.flatnonzero(np.isin(moment, moment[several]))
        group = moment[rows]
        for number in range(len(self.features)):
            code = codes_of(table[f"feature{number}"].take(rows))
            _, group = np.unique(group * (1 + code.max()) + code, return_inverse=True)
        _, first = np.unique(group, return_index=True)
        place = np.arange(len(table))
        place[rows] = rows[first[group]]
        if np.all(place[1:] >= place[:-1]):
            return table
        return table.take(np.argsort(place, kind="stable")).combine_chunks()

    def _partition(self, table: pa.Table, number: int) -> Partition:
        query, time = np.asarray(table["query"]), np.asarray(table["time"])
        new_query = np.concatenate([[True], query[1:] != query[:-1]])
        new_moment = new_query | np.concatenate([[True], time[1:] != time[:-1]])
        first = first_of_runs(new_query)
        moment = first_of_runs(new_moment)
        first_of_list = (
            first_of_runs(new_moment | _changed(table, len(self.features)))
            if self.columns.list is None
            else _first_of_list(table["list"], new_moment)
        )
        pairs = Pairs.find(first, np.asarray(table["item"]), moment)
        part = self._parts(time, first, first_of_list, pairs.first_copy)
        return Partition(
            table,
            part,
            first,
            moment,
            first_of_list,
            pairs.first_of_pair,
            pairs.first_copy,
            number,
        )

    def _parts(
        self,
        time: np.ndarray,
        first_of_query: np.ndarray,
        first_of_list: np.ndarray,
        first_copy: np.ndarray,
    ) -> np.ndarray:
        if self.cuts is not None:
            return np.searchsorted(self.cuts, time, side="left").astype("int8")
        part = last_of_each_query(self.split, first_of_query, first_of_list)
        return kept_together(part, [first_of_list, first_copy])


def _changed(table: pa.Table, features: int) -> np.ndarray:
    """`(rows,)` bool: whether a feature differs from that of the row before."""
    changed = np.zeros(len(table), bool)
    for number in range(features):
        code = codes_of(table[f"feature{number}"])
        changed[1:] |= code[1:] != code[:-1]
    return changed


def codes_of(column: pa.ChunkedArray) -> np.ndarray:
    """`(rows,)`: a number for each different value; missing values are equal."""
    values = column.combine_chunks()
    if pa.types.is_nested(values.type):
        return np.asarray(pd.factorize(pd.Series(map(str, values.to_pylist())))[0])
    return np.asarray(values.dictionary_encode(null_encoding="encode").indices)


def _first_of_list(lists: pa.ChunkedArray, new_moment: np.ndarray) -> np.ndarray:
    name = pc.dictionary_encode(lists.combine_chunks())
    code = name.indices.to_numpy()
    new = new_moment | np.concatenate([[True], code[1:] != code[:-1]])
    first, times = np.unique(code[new], return_counts=True)
    if (times > 1).any():
        twice = name.dictionary[int(first[times.argmax()])].as_py()
        raise mixed_list(twice, "with several")
    return first_of_runs(new)


def mixed_list(name: str, found: str) -> DataError:
    """Error about a list with several queries or times.

    Args:
        name: Id of the list.
        found: The end of the sentence "list … with …".
    """
    return DataError(
        "All rows of a list must have the same query and time. Received: list "
        f"{name!r} {found}. If the ids of lists are unique within a query only, make "
        "them unique, for example by putting the id of the query before them."
    )
