"""Rows that are not interactions, on disk in the partitions of these."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdistill.pipeline.preparation.feature_columns import FeatureColumn
from recdistill.pipeline.preparation.interaction_sort import converted, owners
from recdistill.pipeline.preparation.partitions import Partition, Partitions

_OTHER_FILES = 256
"""Files and sockets that a process has open besides those of the partitions."""

_PENDING = 2**20
"""Number of ids, with repeats, that are held before repeats are removed."""


class PartitionedRows:
    """Rows that are not interactions, each in the partition of its query.

    Args:
        batches: The rows; they have the columns of the query, the time and the
            features.
        parts: The partitions of the interactions.
        features: The features of these rows.
        folder: Folder for the files, which is made.
        table: Name of the table of these rows, for errors.

    Attributes:
        count: Number of rows.
        other_queries: Ids of the queries without interactions, each once and in
            alphabetical order.
    """

    def __init__(
        self,
        batches: Iterator[pa.RecordBatch],
        parts: Partitions,
        features: Sequence[FeatureColumn],
        folder: Path,
        table: str = "interactions",
    ) -> None:
        self._folder = folder
        self.count = 0
        _allow_files(len(parts))
        folder.mkdir()
        existing = np.array(parts.numbers)
        queries, distinct = pa.array([], pa.string()), 0
        writers: dict[int, pq.ParquetWriter] = {}
        try:
            for batch in batches:
                rows = pa.table(
                    converted(batch, parts.columns, features, self.count, table)
                )
                self.count += rows.num_rows
                queries = pa.concat_arrays([queries, pc.unique(rows["query"])])
                if len(queries) > 2 * distinct + _PENDING:
                    queries = pc.unique(queries)
                    distinct = len(queries)
                owner = owners(rows["query"], len(parts)).astype("int64")
                # Queries without interactions may be in any partition.
                owner = np.where(np.isin(owner, existing), owner, existing[0])
                for number in np.unique(owner).tolist():
                    if number not in writers:
                        path = self._path(number)
                        writers[number] = pq.ParquetWriter(path, rows.schema)
                    part = rows.filter(pa.array(owner == number))
                    writers[number].write_table(part)
        finally:
            for writer in writers.values():
                writer.close()
        queries = pc.unique(queries)
        known = pc.is_in(queries, value_set=parts.query_ids)
        other = queries.filter(pc.invert(known))
        self.other_queries = other.take(pc.sort_indices(other))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.parquet"

    def of(
        self, part: Partition, columns: Sequence[str] | None = None
    ) -> pa.Table | None:
        """The rows of a partition, with all columns or some; None if it has none."""
        path = self._path(part.number)
        return pq.read_table(path, columns=columns) if path.exists() else None

    def pieces(self, part: Partition, size: int) -> Iterator[pa.Table]:
        """The rows of a partition, at most `size` at a time."""
        path = self._path(part.number)
        if path.exists():
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(size):
                    yield pa.Table.from_batches([batch])


def _allow_files(number: int) -> None:
    """Lets the process open this number of files, as far as the system allows it."""
    low, high = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + _OTHER_FILES
    if low != resource.RLIM_INFINITY and low < wanted:
        most = wanted if high == resource.RLIM_INFINITY else min(wanted, high)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, high))
