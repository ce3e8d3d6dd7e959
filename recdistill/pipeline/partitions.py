"""Partitions of the interactions by query, with the part of each row.

A partition holds all interactions of its queries, sorted by query and time. It fits in
memory for a data set of any size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data import Columns, Dataset
from recdistill.data.dataset import Progress
from recdistill.errors import DataError
from recdistill.pipeline.config import SplitConfig
from recdistill.pipeline.row_parts import copies, kept_together, last_of_each_query
from recdistill.pipeline.time_statistics import TimeStatistics

PARTITION_ROWS = 250_000
ROW = "_recdistill_row"
"""Column with the number of a row; no column in a user's data has this name."""
DRAWN_TIME = "_recdistill_time"
"""Column with drawn times, for data without times or a split that ignores them."""


@dataclass(frozen=True)
class Partition:
    """All interactions of some queries, sorted by query and time.

    Attributes:
        table: The rows, with the columns of the data set and `ROW`, their number in
            the source.
        first_of_query: `(rows,)`: the first row of the same query.
        first_of_moment: `(rows,)`: the first row of the same query and time; the rows
            before it happened strictly earlier.
        split: `(rows,)`: TRAIN, VALID or TEST; the same for all rows of a list, and for
            all rows of one query, item and time.
        first_of_list: `(rows,)`: the first row of the same list.
        time: `(rows,)` int64: the time of each row.
        item: `(rows,)`: a number for each item of the partition.
        first_copy: `(rows,)`: the first row with the same query, item and time.
        number: Number of the partition.
    """

    table: pa.Table
    first_of_query: np.ndarray
    first_of_moment: np.ndarray
    split: np.ndarray
    first_of_list: np.ndarray
    time: np.ndarray
    item: np.ndarray
    first_copy: np.ndarray
    number: int = 0

    @property
    def pair(self) -> np.ndarray:
        """`(rows,)` int64: a number for each pair of a query and an item."""
        items = int(self.item.max(initial=0)) + 1
        return np.asarray(self.first_of_query.astype("int64") * items + self.item)


class Partitions:
    """The partitions of a data set on disk.

    Args:
        dataset: The data set.
        split: The `split` section.
        folder: An empty folder for the files.
        progress: Callback for progress.
        seed: Seed of the drawn times of the split `leave_random_out`.

    Attributes:
        rows: Number of interactions.
        times: Statistics of the times; None if the times are drawn.

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
    ) -> None:
        self.columns: Columns = dataset.columns
        self.split = split
        drawn = split.by == "leave_random_out"
        self._seed = seed
        self._time = DRAWN_TIME if drawn else _time_column(dataset)
        self.times = None if drawn else TimeStatistics()
        self.rows = 0
        for batch in dataset.interactions():
            self.rows += batch.num_rows
            if self.times is not None:
                self.times.add(batch[self._time].to_numpy())
            progress("Reading interactions", self.rows, None)
        if not self.rows:
            raise DataError(
                f"Data set `{dataset.name}` has no interactions: the table is empty, "
                "or no row has a relevance above 0 and fulfils `dataset.keep`. Set "
                "`dataset.path` to a folder with data, or change the condition."
            )
        number = math.ceil(self.rows / PARTITION_ROWS)
        self._paths = [folder / f"{k:05d}.parquet" for k in range(number)]
        self._distribute(dataset, progress)
        if split.by == "global_time" and self.times is not None:
            shares = (1 - split.valid - split.test, 1 - split.test)
            self._cuts = self.times.cuts(shares)

    def __len__(self) -> int:
        """Number of partitions."""
        return len(self._paths)

    def __iter__(self) -> Iterator[Partition]:
        """The partitions, one at a time."""
        for number, path in enumerate(self._paths):
            if path.exists():
                yield self._sorted(pq.read_table(path), number)

    def _distribute(self, dataset: Dataset, progress: Progress) -> None:
        writers: dict[int, pq.ParquetWriter] = {}
        done = 0
        try:
            for batch in dataset.interactions():
                row = pa.array(np.arange(done, done + batch.num_rows))
                table = pa.Table.from_batches([batch]).append_column(ROW, row)
                done += batch.num_rows
                if self.times is None:
                    drawn = pa.array(self._drawn_times(table))
                    table = table.append_column(DRAWN_TIME, drawn)
                owner = owners(table[self.columns.query], len(self._paths))
                for number in np.unique(owner):
                    part = table.filter(pa.array(owner == number))
                    if number not in writers:
                        path = self._paths[number]
                        writers[number] = pq.ParquetWriter(path, part.schema)
                    writers[number].write_table(part)
                progress("Partitioning interactions", done, self.rows)
        finally:
            for writer in writers.values():
                writer.close()

    def _drawn_times(self, table: pa.Table) -> np.ndarray:
        """A time for each query and item (or list), the same in every pass."""
        columns = self.columns
        seed = pd.util.hash_array(np.array([self._seed], "uint64"))
        for name in (columns.query, columns.list or columns.item):
            texts = table[name].to_pandas().astype(object).to_numpy()
            # Hashed between the columns, so that each time differs from the others.
            seed = pd.util.hash_array(seed ^ pd.util.hash_array(texts))
        return np.asarray(seed >> 1, "int64")

    def _sorted(self, table: pa.Table, number: int) -> Partition:
        columns = self.columns
        keys = [columns.query, self._time, *([columns.list] if columns.list else [])]
        table = table.sort_by([(name, "ascending") for name in (*keys, ROW)])
        code = _numbered(table[columns.query])
        item = _numbered(table[columns.item])
        time = table[self._time].to_numpy()
        new_query = np.concatenate([[True], code[1:] != code[:-1]])
        new_moment = new_query | np.concatenate([[True], time[1:] != time[:-1]])
        position = np.arange(len(code))
        first = np.maximum.accumulate(np.where(new_query, position, 0))
        moment = np.maximum.accumulate(np.where(new_moment, position, 0))
        first_of_list = self._first_of_list(table, new_moment)
        first_copy = copies(moment, item)
        part = self._parts(time, first, first_of_list, first_copy)
        return Partition(
            table, first, moment, part, first_of_list, time, item, first_copy, number
        )

    def _parts(
        self,
        time: np.ndarray,
        first_of_query: np.ndarray,
        first_of_list: np.ndarray,
        first_copy: np.ndarray,
    ) -> np.ndarray:
        if self.split.by == "global_time":
            return np.searchsorted(self._cuts, time, side="left").astype("int8")
        by_list = self.columns.list is not None and self.split.by != "query_time"
        unit = first_of_list if by_list else first_copy
        part = last_of_each_query(self.split, first_of_query, unit)
        return kept_together(part, [first_of_list, first_copy])

    def _first_of_list(self, table: pa.Table, new_moment: np.ndarray) -> np.ndarray:
        position = np.arange(len(table))
        if self.columns.list is None:
            return position
        name = table[self.columns.list].combine_chunks().dictionary_encode()
        code = name.indices.to_numpy()
        new = new_moment | np.concatenate([[True], code[1:] != code[:-1]])
        first, times = np.unique(code[new], return_counts=True)
        if (times > 1).any():
            twice = name.dictionary[int(first[times.argmax()])].as_py()
            raise mixed_list(twice, "with several")
        return np.maximum.accumulate(np.where(new, position, 0))


def owners(query: pa.ChunkedArray, partitions: int) -> np.ndarray:
    """`(rows,)`: the partition of each query, by the hash of its id."""
    texts = query.to_pandas().astype(object).to_numpy()
    return np.asarray(pd.util.hash_array(texts) % partitions)


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


def _time_column(dataset: Dataset) -> str:
    if dataset.columns.time is None:
        raise DataError(
            f"Data set `{dataset.name}` has no column of times, which this split needs."
            ' Set `split.by` = "leave_random_out".'
        )
    return dataset.columns.time


def _numbered(column: pa.ChunkedArray) -> np.ndarray:
    """`(rows,)` int64: a number for each different text, from 0."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(), "int64")
