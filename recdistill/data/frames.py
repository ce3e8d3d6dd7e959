"""Reader for tables in memory: pandas DataFrames and Arrow tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from recdistill.data.checked_tables import feature_table, interaction_stream
from recdistill.data.dataset import BATCH_ROWS, Columns, Dataset, nearest
from recdistill.data.listwise_tables import listwise_dataset, listwise_roles
from recdistill.data.table_streams import TableStream, fingerprint
from recdistill.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_TABLES = ("interactions", "lists", "items", "queries")


def read_frames(
    tables: Mapping[str, pd.DataFrame | pa.Table],
    columns: Mapping[str, str] | Columns | None = None,
    *,
    name: str = "tables",
) -> Dataset:
    """Reader for pandas DataFrames or Arrow tables, instead of files.

    The checks, conversions and errors are those of `read_tables` and `read_listwise`.
    The fingerprint is a hash of the content, so equal tables give equal artefacts. The
    index of a DataFrame is ignored. Do not change the tables while the data set is in
    use.

    Args:
        tables: Table `interactions` or table `lists` (one row a candidate of a list),
            and optionally `items` and `queries`.
        columns: Roles to column names, such as `{"query": "userId"}`; other roles keep
            the names of `Columns`.
        name: Name of the data set in reports.

    Returns:
        A `Dataset`.

    Raises:
        DataError: As `read_tables`; names table, column and row. Also if a table has an
            unknown name, or a column has values of several types.

    Examples:
        >>> import pandas as pd
        >>> log = pd.DataFrame(
        ...     {"user_id": [7, 7], "item_id": ["a", "b"], "timestamp": [1, 2]}
        ... )
        >>> data = read_frames({"interactions": log})
        >>> next(data.interactions())["user_id"].to_pylist()
        ['7', '7']
    """
    for each in tables:
        if each not in _TABLES:
            raise DataError(
                f"`tables` may have the keys {', '.join(_TABLES)}. Received: {each!r}."
                f"{nearest(each, _TABLES)}"
            )
    if ("interactions" in tables) == ("lists" in tables):
        raise DataError(
            "`tables` must have the key interactions or the key lists. "
            f"Received: {', '.join(tables) or 'no table'}"
        )
    arrow = {each: _arrow_table(each, table) for each, table in tables.items()}
    streams = {each: _stream(each, table) for each, table in arrow.items()}
    digests = {each: _digest(table) for each, table in arrow.items()}
    listwise = "lists" in streams
    roles = listwise_roles(columns) if listwise else Columns.of(columns)
    items, queries = (
        feature_table(streams[each], id_column) if each in streams else None
        for each, id_column in (("items", roles.item), ("queries", roles.query))
    )
    if listwise:
        return listwise_dataset(
            name,
            roles,
            [streams["lists"]],
            items=items,
            queries=queries,
            digests=digests,
        )
    return Dataset(
        name=name,
        columns=roles,
        items=items,
        queries=queries,
        fingerprint=fingerprint(digests),
        source=digests,
        stream=interaction_stream([streams["interactions"]], roles),
    )


def _arrow_table(name: str, table: pd.DataFrame | pa.Table) -> pa.Table:
    """Arrow table without metadata, in which all text has the same type."""
    if not isinstance(table, pa.Table):
        table = _from_pandas(name, table)
    kinds = [
        pa.string() if pa.types.is_large_string(kind) else kind
        for kind in table.schema.types
    ]
    schema = pa.schema(list(zip(table.column_names, kinds, strict=True)))
    return table.replace_schema_metadata(None).cast(schema)


def _from_pandas(name: str, table: pd.DataFrame) -> pa.Table:
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise DataError(
            f"`tables[{name!r}]` must be a pandas DataFrame or a pyarrow Table. "
            f"Received: {type(table).__name__}"
        )
    arrays = []
    for position, column in enumerate(table.columns):
        try:
            arrays.append(pa.Array.from_pandas(table.iloc[:, position]))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"Table `{name}`, column `{column}`: values must have one type. "
                f"Received: {error}"
            ) from error
    return pa.Table.from_arrays(arrays, [str(column) for column in table.columns])


def _stream(name: str, table: pa.Table) -> TableStream:
    return TableStream(
        f"Table `{name}`",
        table.schema,
        lambda: iter(table.to_batches(max_chunksize=BATCH_ROWS)),
    )


def _digest(table: pa.Table) -> str:
    """SHA-256 (hex) of the columns and rows, whatever the chunks of the table."""
    sink = _HashingFile()
    with (
        pa.PythonFile(sink, mode="w") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        for batch in table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
            writer.write_batch(batch)
    return sink.digest.hexdigest()


class _HashingFile:
    """File that hashes what is written to it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.closed = False

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        self.closed = True
