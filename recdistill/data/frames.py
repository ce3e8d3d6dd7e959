"""Reader for tables in memory: pandas DataFrames and Arrow tables."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from recdistill.data.checked_tables import (
    feature_table,
    interaction_stream,
    unlabelled_stream,
)
from recdistill.data.dataset import BATCH_ROWS, Columns, Dataset, nearest
from recdistill.data.item_titles import is_title, may_be_title
from recdistill.data.listwise_tables import listwise_dataset, listwise_roles
from recdistill.data.reading_options import ReadingOptions
from recdistill.data.table_streams import TableStream, fingerprint
from recdistill.data.tables import OPTIONAL_TABLES, TableFolder
from recdistill.errors import DataError
from recdistill.features.raw_text import is_text

if TYPE_CHECKING:
    import pandas as pd

_TABLES = ("interactions", "lists", *OPTIONAL_TABLES)


def read_frames(
    tables: Mapping[str, pd.DataFrame | pa.Table],
    columns: Mapping[str, str] | Columns | None = None,
    *,
    options: ReadingOptions | None = None,
) -> Dataset:
    """Reader for pandas DataFrames or Arrow tables, instead of files.

    The checks, conversions and errors are those of `read_tables` and `read_listwise`.
    The fingerprint is a hash of the content, so equal tables give equal artefacts. The
    index of a DataFrame is ignored. Do not change the tables while the data set is in
    use.

    Args:
        tables: Table `interactions` or table `lists` (one row per candidate of a list),
            and optionally `items` and `queries`; with `interactions` also `unlabelled`
            (see `read_tables`).
        columns: Roles to column names, such as `{"query": "userId"}`; other roles keep
            the names of `Columns`.
        options: Which columns are read.

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
    if {"lists", "unlabelled"} <= set(tables):
        raise DataError(
            "`tables` must not have the key unlabelled beside lists, because in "
            "listwise data lists without a relevant row are unlabelled."
        )
    for each in OPTIONAL_TABLES:
        if each not in tables and options is not None and options.table(each).types:
            raise DataError(
                f"`tables` has no key {each}, although `dataset.{each}` says how it is "
                "read. Add the table, or remove the key from the configuration."
            )
    listwise = "lists" in tables
    roles = listwise_roles(columns) if listwise else Columns.of(columns)
    options = options or ReadingOptions()
    folder = _opened(tables, roles, options)
    if listwise:
        return listwise_dataset(folder, roles, options)
    return Dataset(
        name=folder.name,
        columns=roles,
        items=folder.items,
        queries=folder.queries,
        fingerprint=fingerprint(folder.digests),
        source=folder.digests,
        stream=interaction_stream(folder.rows, roles, options),
        unlabelled=folder.unlabelled,
        offered=folder.offered,
    )


def _opened(
    tables: Mapping[str, pd.DataFrame | pa.Table],
    roles: Columns,
    options: ReadingOptions,
) -> TableFolder:
    offered = {each: _column_names(each, table) for each, table in tables.items()}
    in_queries = offered.get("queries", ())
    use = options.interaction_columns(roles, in_queries)
    uses = {
        "interactions": use,
        "lists": use,
        "items": options.item_columns(roles),
        "queries": options.query_columns(roles),
        "unlabelled": options.unlabelled_columns(roles, in_queries),
    }
    arrow = {
        each: _arrow_table(each, table, uses[each], titles=each == "items")
        for each, table in tables.items()
    }
    streams = {
        each: _stream(each, table, offered[each]) for each, table in arrow.items()
    }
    rows = next(each for each in ("interactions", "lists") if each in tables)
    items, queries = (
        feature_table([streams[each]], id_column, options.table(each))
        if each in streams
        else None
        for each, id_column in (("items", roles.item), ("queries", roles.query))
    )
    return TableFolder(
        name="tables",
        rows=[streams[rows]],
        items=items,
        queries=queries,
        unlabelled=(
            unlabelled_stream([streams["unlabelled"]], roles, options)
            if "unlabelled" in streams
            else None
        ),
        digests={each: _digest(table) for each, table in arrow.items()},
        offered=offered,
    )


def _column_names(name: str, table: pd.DataFrame | pa.Table) -> tuple[str, ...]:
    if isinstance(table, pa.Table):
        return tuple(table.column_names)
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise DataError(
            f"`tables[{name!r}]` must be a pandas DataFrame or a pyarrow Table. "
            f"Received: {type(table).__name__}"
        )
    return tuple(str(column) for column in table.columns)


def _arrow_table(
    name: str,
    table: pd.DataFrame | pa.Table,
    use: Collection[str] | None,
    titles: bool,
) -> pa.Table:
    """Arrow table of the used columns and the titles, without metadata."""
    arrays, kept = [], []
    for k, column in enumerate(_column_names(name, table)):
        used = use is None or column in use
        if not (used or (titles and is_title(column))):
            continue
        try:
            values = _column(name, table, k)
        except DataError:
            if used:
                raise
            continue
        if used or may_be_title(values.type):
            arrays.append(values)
            kept.append(column)
    return pa.Table.from_arrays(arrays, kept)


def _column(name: str, table: pd.DataFrame | pa.Table, number: int) -> pa.ChunkedArray:
    if isinstance(table, pa.Table):
        values = table.column(number)
    else:
        column = str(table.columns[number])
        values = _from_pandas(name, column, table.iloc[:, number])
    return values.cast(pa.string()) if is_text(values.type) else values


def _from_pandas(name: str, column: str, values: pd.Series[Any]) -> pa.Array:
    try:
        return pa.Array.from_pandas(values)
    except (
        pa.ArrowInvalid,
        pa.ArrowTypeError,
        pa.ArrowNotImplementedError,
        OverflowError,
    ) as error:
        raise DataError(
            f"Table `{name}`, column `{column}`: values must have one type that Arrow "
            f"has; whole numbers have up to 64 bits, longer ids are text. Received: "
            f"{error}"
        ) from error


def _stream(name: str, table: pa.Table, offered: tuple[str, ...]) -> TableStream:
    return TableStream(
        f"Table `{name}`",
        table.schema,
        lambda: iter(table.to_batches(max_chunksize=BATCH_ROWS)),
        offered,
    )


def _digest(table: pa.Table) -> str:
    """SHA-256 (hex) of the columns and rows, independent of the table's chunks."""
    sink = _HashingFile()
    with (
        pa.PythonFile(sink, mode="w") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        for batch in table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
            # Taking rows clears the values under nulls, which may differ.
            writer.write_batch(batch.take(pa.array(np.arange(batch.num_rows))))
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
