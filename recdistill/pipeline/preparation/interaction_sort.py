"""Interactions sorted by partition, query and time, out of core.

The interactions are read once. DuckDB gives each query and each item a number, and
sorts the rows by these numbers and the time; what exceeds its memory is on disk. Only
the converted values of `recdistill.features.specs.raw_column` are given to it, so the
rule of raw values does not depend on the engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data import Columns, Dataset
from recdistill.data.dataset import Progress
from recdistill.errors import DataError
from recdistill.features.specs import raw_column
from recdistill.pipeline.preparation.columnar_engine import columnar_engine
from recdistill.pipeline.preparation.feature_columns import (
    FeatureColumn,
    no_interactions,
)
from recdistill.pipeline.preparation.time_statistics import TimeStatistics

PARTITION_ROWS = 250_000
_GROUP_ROWS = 2**19
_SORTED_ROWS = 2**17


def converted(
    batch: pa.RecordBatch,
    columns: Columns,
    features: Sequence[FeatureColumn],
    first_row: int,
    table: str = "interactions",
) -> dict[str, pa.Array]:
    """The columns of a batch under the names of their roles, features as raw values.

    The features are named `feature0`, `feature1` and so on.

    Args:
        batch: Rows of the interactions, or of a table with some of their columns.
        columns: The roles of the columns.
        features: The features that the interactions have.
        first_row: Number of the first row, from 0.
        table: Name of the table, for errors.

    Raises:
        DataError: If a value of a feature is bad.
    """
    found = {
        role: batch[name]
        for role, name in vars(columns).items()
        if name in batch.schema.names and role != "score"
    }
    rows = np.arange(first_row, first_row + batch.num_rows)
    for number, feature in enumerate(features):
        try:
            found[f"feature{number}"] = raw_column(
                batch[feature.column],
                feature.spec,
                table=table,
                name=feature.column,
                rows=rows + 1,
            )
        except DataError as error:
            if table != "interactions":
                raise
            raise DataError(
                f"{error} Rows are counted in all files together, without those that "
                "are not used, for example because of `dataset.keep`."
            ) from error
    return found | {"row": pa.array(rows)}


class SortedInteractions:
    """The interactions of a data set on disk, one file for each partition.

    Args:
        dataset: The data set.
        features: The features that the interactions have.
        folder: An empty folder for the files.
        progress: Callback for progress.
        times: Statistics that get all times; None to draw the times.
        seed: Seed of the drawn times.

    Attributes:
        rows: Number of interactions.
        paths: Files of the partitions.
        query_ids: Id of each query, by its number.
        item_ids: Id of each item, by its number; in alphabetical order.

    Raises:
        DataError: If there are no interactions, or if the data is invalid.
    """

    def __init__(
        self,
        dataset: Dataset,
        features: Sequence[FeatureColumn],
        folder: Path,
        progress: Progress,
        times: TimeStatistics | None,
        seed: int,
    ) -> None:
        self._columns, self._features = dataset.columns, features
        self._times, self._seed = times, seed
        self._folder, self._progress = folder, progress
        self.rows = 0
        with columnar_engine(folder) as engine:
            self._schema = self._read(dataset)
            number = math.ceil(self.rows / PARTITION_ROWS)
            self.paths = [folder / f"{k:05d}.arrow" for k in range(number)]
            self._number(engine)
            self._sort(engine)

    @property
    def _source(self) -> Path:
        return self._folder / "rows.parquet"

    def _read(self, dataset: Dataset) -> pa.Schema:
        """Writes all interactions to one file, in the order of the source."""
        schema: pa.Schema | None = None
        with ExitStack() as stack:
            writer: pq.ParquetWriter
            held: list[pa.RecordBatch] = []
            for batch in dataset.interactions():
                table = converted(batch, self._columns, self._features, self.rows)
                if self._times is None:
                    role = "list" if self._columns.list else "item"
                    times = drawn_times(table["query"], table[role], self._seed)
                    table["time"] = pa.array(times)
                else:
                    self._times.add(table["time"].to_numpy())
                self.rows += batch.num_rows
                held.append(pa.RecordBatch.from_pydict(table))
                if schema is None:
                    schema = held[0].schema
                    writer = stack.enter_context(
                        pq.ParquetWriter(
                            self._source,
                            schema,
                            compression="lz4",
                            use_dictionary=False,
                        )
                    )
                if sum(each.num_rows for each in held) >= _GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(held))
                    held = []
                self._progress("Reading interactions", self.rows, None)
            if held:
                writer.write_table(pa.Table.from_batches(held))
        if schema is None or not self.rows:
            raise no_interactions(dataset)
        return schema

    def _number(self, engine: duckdb.DuckDBPyConnection) -> None:
        """Numbers the queries, by partition and id, and the items, by id.

        The partition follows from a hash that does not depend on the engine's version.
        """
        engine.execute(f"CREATE VIEW source AS FROM {_file(self._source)}")
        path = self._folder / "queries.parquet"
        schema = pa.schema([("query", pa.string()), ("partition", pa.int32())])
        queries = engine.sql("SELECT DISTINCT query FROM source")
        with pq.ParquetWriter(path, schema) as writer:
            for batch in queries.to_arrow_reader(_SORTED_ROWS):
                owner = owners(batch["query"], len(self.paths)).astype("int32")
                columns = [batch["query"], pa.array(owner)]
                writer.write_batch(pa.record_batch(columns, schema=schema))
        self.query_ids = _numbered(
            engine, "query", f"FROM {_file(path)}", "partition, query"
        )
        path.unlink()
        self.item_ids = _numbered(
            engine, "item", "SELECT DISTINCT item FROM source", "item"
        )

    def _sort(self, engine: duckdb.DuckDBPyConnection) -> None:
        """Writes the sorted rows, each partition to its file."""
        roles = [each for each in ("relevance", "weight", "list") if self._has(each)]
        features = [f"feature{number}" for number in range(len(self._features))]
        numbers = [(name, pa.int32()) for name in ("partition", "query", "item")]
        kept = [self._schema.field(name) for name in ("time", "row", *roles, *features)]
        schema = pa.schema([*numbers, *kept])
        keys = ", ".join(["q.number", "time", *roles[-1:] * self._has("list"), "row"])
        batches = engine.sql(
            "SELECT partition, q.number AS query, i.number AS item, "
            f"{', '.join(each.name for each in kept)} "
            "FROM source JOIN query_numbers AS q ON source.query = q.query "
            f"JOIN item_numbers AS i ON source.item = i.item ORDER BY {keys}"
        ).to_arrow_reader(_SORTED_ROWS)
        done, current = 0, -1
        with ExitStack() as stack:
            writer: pa.ipc.RecordBatchFileWriter
            for batch in in_order(batches):
                owner = batch["partition"].to_numpy()
                starts = np.flatnonzero(np.diff(owner, prepend=-1))
                ends = [*starts[1:].tolist(), len(owner)]
                # A Parquet file has no lists of a fixed size.
                batch = batch.cast(schema)
                for start, end in zip(starts.tolist(), ends, strict=True):
                    if owner[start] != current:
                        stack.close()
                        current = int(owner[start])
                        file = stack.enter_context(
                            pa.OSFile(str(self.paths[current]), "wb")
                        )
                        writer = stack.enter_context(pa.ipc.new_file(file, schema))
                    writer.write_batch(batch.slice(start, end - start))
                done += batch.num_rows
                self._progress("Partitioning interactions", done, self.rows)
        self._source.unlink()

    def _has(self, role: str) -> bool:
        return getattr(self._columns, role) is not None


def drawn_times(query: pa.Array, choice: pa.Array, seed: int) -> np.ndarray:
    """A random time for each query and item (or list), the same in every pass.

    Args:
        query: `(rows,)` text.
        choice: `(rows,)` text, the item or the list.
        seed: Seed of the times.
    """
    mixed = pd.util.hash_array(np.array([seed], "uint64"))
    for column in (query, choice):
        texts = np.asarray(column.to_pylist(), object)
        # Hashed between the columns, so that each time differs from the others.
        mixed = pd.util.hash_array(mixed ^ pd.util.hash_array(texts))
    return np.asarray(mixed >> 1, "int64")


def in_order(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, checked: a partition whose rows came apart would be overwritten.

    Args:
        batches: Rows with the number of their query.

    Raises:
        RuntimeError: If the numbers decrease.
    """
    last = -1
    for batch in batches:
        query = batch["query"].to_numpy()
        if np.any(np.diff(query, prepend=last) < 0):
            raise RuntimeError("DuckDB must return the interactions in sorted order.")
        last = int(query[-1]) if len(query) else last
        yield batch


def owners(query: pa.Array | pa.ChunkedArray, partitions: int) -> np.ndarray:
    """`(rows,)`: the partition of each query, by the hash of its id."""
    texts = np.asarray(query.to_pylist(), object)
    return np.asarray(pd.util.hash_array(texts) % partitions)


def _file(path: Path) -> str:
    """A Parquet file as a table of a query.

    By default DuckDB replaces columns by values in the path, such as `query=shoes`.
    """
    quoted = str(path).replace("'", "''")
    return f"read_parquet('{quoted}', hive_partitioning = false)"


def _numbered(
    engine: duckdb.DuckDBPyConnection, role: str, rows: str, order: str
) -> pa.Array:
    """Creates a table of ids with their numbers in this order; returns the ids."""
    engine.execute(
        f"CREATE TABLE {role}_numbers AS SELECT *, "
        f"(row_number() OVER (ORDER BY {order}) - 1)::INTEGER AS number FROM ({rows})"
    )
    ids = engine.sql(f"SELECT {role} FROM {role}_numbers ORDER BY number")
    return ids.to_arrow_table()[role].combine_chunks().cast(pa.string())
