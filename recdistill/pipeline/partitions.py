"""Partitions of the interactions by query, and the split by time.

A partition holds all interactions of its queries, sorted by query and time. It fits in
memory, whatever the size of the data set.
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

PARTITION_ROWS = 250_000
ROW = "_recdistill_row"
"""Column with the number of a row; no column in a user's data has this name."""
TIME_BINS = 65_536
TRAIN, VALID, TEST = 0, 1, 2
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Partition:
    """All interactions of some queries, sorted by query and time.

    Attributes:
        table: The rows, with the columns of the data set and `ROW`, their number in
            the source.
        first_of_query: `(rows,)`: the first row of the same query.
        first_of_moment: `(rows,)`: the first row of the same query and time; the rows
            before it happened strictly earlier.
        split: `(rows,)`: TRAIN, VALID or TEST; the same for all rows of a list.
        first_of_list: `(rows,)`: the first row of the same list.
    """

    table: pa.Table
    first_of_query: np.ndarray
    first_of_moment: np.ndarray
    split: np.ndarray
    first_of_list: np.ndarray


class Partitions:
    """The partitions of a data set on disk.

    Args:
        dataset: The data set.
        split: The `split` section.
        folder: An empty folder for the files.
        progress: Callback for progress.

    Raises:
        DataError: If there are no interactions, or if the data is invalid.
    """

    def __init__(
        self, dataset: Dataset, split: SplitConfig, folder: Path, progress: Progress
    ) -> None:
        self.columns: Columns = dataset.columns
        self.split = split
        self._times = _TimeRange()
        self.rows = 0
        for batch in dataset.interactions():
            self.rows += batch.num_rows
            self._times.widen(batch[self.columns.time].to_numpy())
            progress("Reading interactions", self.rows, None)
        if not self.rows:
            raise DataError(
                f"Data set `{dataset.name}` has no interactions: the table is "
                "empty, or no row has a relevance above 0. "
                "Set `dataset.path` to a folder with data."
            )
        number = math.ceil(self.rows / PARTITION_ROWS)
        self._paths = [folder / f"{k:05d}.parquet" for k in range(number)]
        self._distribute(dataset, progress)
        self._cuts = [
            self._times.quantile(1 - split.valid - split.test),
            self._times.quantile(1 - split.test),
        ]

    def __len__(self) -> int:
        """Number of partitions."""
        return len(self._paths)

    def __iter__(self) -> Iterator[Partition]:
        """The partitions, one at a time."""
        for path in self._paths:
            if path.exists():
                yield self._sorted(pq.read_table(path))

    def _distribute(self, dataset: Dataset, progress: Progress) -> None:
        writers: dict[int, pq.ParquetWriter] = {}
        done = 0
        try:
            for batch in dataset.interactions():
                row = pa.array(np.arange(done, done + batch.num_rows))
                table = pa.Table.from_batches([batch]).append_column(ROW, row)
                done += batch.num_rows
                self._times.count(batch[self.columns.time].to_numpy())
                query = table[self.columns.query].to_pandas().astype(object)
                owner = pd.util.hash_array(query.to_numpy()) % len(self._paths)
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

    def _sorted(self, table: pa.Table) -> Partition:
        columns = self.columns
        keys = [columns.query, columns.time, *([columns.list] if columns.list else [])]
        table = table.sort_by([(name, "ascending") for name in (*keys, ROW)])
        query = table[self.columns.query].combine_chunks().dictionary_encode()
        code = query.indices.to_numpy()
        time = table[self.columns.time].to_numpy()
        new_query = np.concatenate([[True], code[1:] != code[:-1]])
        new_moment = new_query | np.concatenate([[True], time[1:] != time[:-1]])
        position = np.arange(len(code))
        first = np.maximum.accumulate(np.where(new_query, position, 0))
        moment = np.maximum.accumulate(np.where(new_moment, position, 0))
        if self.split.by == "global_time":
            part = np.searchsorted(self._cuts, time, side="right")
        else:
            part = self._by_query(new_query)
        first_of_list = self._first_of_list(table, new_moment)
        # A list with a row in a later part belongs to that part as a whole.
        latest = np.zeros(len(part), "int8")
        np.maximum.at(latest, first_of_list, part.astype("int8"))
        return Partition(table, first, moment, latest[first_of_list], first_of_list)

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
            raise DataError(
                "All rows of a list must have the same query and time. Received: list "
                f"{twice!r} with several"
            )
        return np.maximum.accumulate(np.where(new, position, 0))

    def _by_query(self, new_query: np.ndarray) -> np.ndarray:
        """The last share of each query's rows, at least one row if it has three."""
        start = np.flatnonzero(new_query)
        size = np.diff(np.append(start, len(new_query)))

        def share(part: float) -> np.ndarray:
            # Without the 1e-7, floor(0.29 * 100) would be 28.
            wanted = np.floor(size * part + 1e-7).astype(int)
            return np.where(size < 3, 0, np.maximum(wanted, 1))

        test, valid = share(self.split.test), share(self.split.valid)
        from_end = np.repeat(start + size, size) - np.arange(len(new_query))
        test, both = np.repeat(test, size), np.repeat(test + valid, size)
        return np.where(
            from_end <= test, TEST, np.where(from_end <= both, VALID, TRAIN)
        )


class _TimeRange:
    """Approximate quantiles of times, from a histogram filled in two passes."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self.counts = np.zeros(TIME_BINS, "int64")

    def widen(self, times: np.ndarray) -> None:
        """First pass: extends the range."""
        if len(times):
            self.low = min(self.low, times.min())
            self.high = max(self.high, times.max())

    def _width(self) -> float:
        return max((self.high - self.low) / TIME_BINS, 1e-9)

    def count(self, times: np.ndarray) -> None:
        """Second pass: counts the rows in each bin."""
        bins = ((times - self.low) / self._width()).astype("int64")
        np.add.at(self.counts, np.minimum(bins, TIME_BINS - 1), 1)

    def quantile(self, share: float) -> float:
        """A time with about this share of the rows before it."""
        below = np.cumsum(self.counts)
        # Without the 1e-7, (1 - 0.2 - 0.1) * 10 would be more than 7.
        number = int(np.searchsorted(below, share * below[-1] - 1e-7))
        return float(self.low + (number + 1) * self._width())
