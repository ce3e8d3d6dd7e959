"""Reader for a folder of tables: interactions, items, queries and requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from recdistill.data.checked_tables import (
    InteractionStream,
    feature_table,
    interaction_stream,
    unlabelled_stream,
)
from recdistill.data.dataset import Columns, Dataset
from recdistill.data.reading_options import ReadingOptions, TableOptions
from recdistill.data.source_files import SourceFiles
from recdistill.data.table_files import TableFile, find_table, named_places, type_notes
from recdistill.data.table_streams import TableStream, fingerprint
from recdistill.errors import DataError


def read_tables(
    path: str | Path,
    columns: Mapping[str, str] | Columns | None = None,
    *,
    interactions: str = "interactions",
    items: str | None = None,
    queries: str | None = None,
    unlabelled: str | None = None,
    options: ReadingOptions | None = None,
) -> Dataset:
    """Reader for a folder of tables.

    A table is a file such as `<name>.parquet`, `<name>.csv`, `<name>.tsv` or
    `<name>.jsonl`, or a folder `<name>/` of such files, with Hive partitions if its
    subfolders are named `column=value`. Text files are UTF-8 and may be compressed
    (`.gz`, `.zst`). They have a header, unless `options` give the names of the columns;
    their delimiter is recognised from the first line.

    Ids become text (`recdistill.features.raw_text`). Columns of text files are
    unchanged text. Times stay integers; dates become microseconds since 1970. In items
    and queries, lists of ids become lists of strings.

    For tables in memory, see `read_frames`.

    Args:
        path: The folder.
        columns: Roles to column names, such as `{"query": "userId"}`; other roles keep
            the names of `Columns`.
        interactions: Name of the table, with or without its suffix.
        items: Name of the table of items; by default `items`, if it exists.
        queries: Name of the table of queries; by default `queries`, if it exists.
        unlabelled: Name of the table of requests without an observed choice, which only
            the student learns from; by default `unlabelled`, if it exists. It has the
            columns of the query and the time, and those of the query features that the
            interactions have.
        options: How the files are read.

    Returns:
        A `Dataset` whose interactions are read again, block by block, in each pass.

    Raises:
        DataError: If a file or column is missing, a text file is not UTF-8, ids are
            missing or repeated, or (also while iterating) a time, relevance or weight
            is bad. The message names file, column and row; rows count from 1, without
            the header.
    """
    roles = Columns.of(columns)
    options = options or ReadingOptions()
    names = (interactions, items, queries, unlabelled)
    folder = open_folder(Path(path), roles, options, names)
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
        notes=folder.notes,
        verify=folder.verify,
    )


OPTIONAL_TABLES = ("items", "queries", "unlabelled")
"""Names of the tables that a data set may lack."""


@dataclass(frozen=True)
class TableFolder:
    """The tables of a folder.

    Attributes:
        name: Name of the folder.
        rows: Files of the interactions, or of the lists.
        items: The items, checked; None if there is no such table.
        queries: The queries, checked; None if there is no such table.
        unlabelled: As of `Dataset`.
        digests: SHA-256 of each file by its path inside the folder.
        offered: Names of all columns by table.
        notes: As of `Dataset`.
        verify: As of `Dataset`.
    """

    name: str
    rows: list[TableStream]
    items: pa.Table | None
    queries: pa.Table | None
    unlabelled: InteractionStream | None
    digests: dict[str, str]
    offered: dict[str, tuple[str, ...]]
    notes: Sequence[str] = ()
    verify: Callable[[], None] = lambda: None


def open_folder(
    folder: Path,
    roles: Columns,
    options: ReadingOptions,
    names: Sequence[str | None],
) -> TableFolder:
    """Opens the tables of a folder.

    Args:
        folder: The folder.
        roles: Roles of the columns.
        options: How the files are read.
        names: Names of the table of rows, of items, of queries and, unless the data is
            listwise, of unlabelled requests; None for a table "items", "queries" or
            "unlabelled" that may be missing.

    Raises:
        DataError: As `read_tables`.
    """
    _require_folder(folder)
    row_files = find_table(folder, names[0] or "interactions")
    optional: dict[str, list[TableFile]] = {name: [] for name in OPTIONAL_TABLES}
    for table, name in zip(OPTIONAL_TABLES, names[1:], strict=False):
        optional[table] = find_table(folder, name or table, optional=name is None)
    for name, found in optional.items():
        if not found and options.table(name) != TableOptions():
            raise DataError(
                f"{folder} has no table {name!r}, although `dataset.{name}` says how "
                "it is read. Add the table, or remove the key."
            )
    files = [*row_files, *(file for each in optional.values() for file in each)]
    for file in files:
        file.check()
    names_of = {file.path.relative_to(folder).as_posix(): file.path for file in files}
    source = SourceFiles.of(names_of)

    def streams(
        table: str, files: Sequence[TableFile], use: set[str] | None
    ) -> list[TableStream]:
        columns, titles = options.table(table).columns, table == "items"
        return [file.open(use, options.delimiter, columns, titles) for file in files]

    items = streams("items", optional["items"], options.item_columns(roles))
    queries = streams("queries", optional["queries"], options.query_columns(roles))
    in_queries = {name for stream in queries for name in stream.offered}
    use = options.interaction_columns(roles, in_queries)
    rows = streams("lists" if roles.list else "interactions", row_files, use)
    use = options.unlabelled_columns(roles, in_queries)
    requests = streams("unlabelled", optional["unlabelled"], use)
    tables = {
        "queries": queries,
        "interactions": rows,
        "items": items,
        "unlabelled": requests,
    }
    return TableFolder(
        name=folder.resolve().name,
        rows=rows,
        items=feature_table(items, roles.item, options.table("items"))
        if items
        else None,
        queries=(
            feature_table(queries, roles.query, options.table("queries"))
            if queries
            else None
        ),
        unlabelled=unlabelled_stream(requests, roles, options) if requests else None,
        digests=source.digests,
        verify=source.verify,
        offered={name: each[0].offered for name, each in tables.items() if each},
        notes=[
            *(note for each in tables.values() for note in type_notes(each)),
            *(
                f"{place.name} is not used: in listwise data, lists without a chosen "
                "item are unlabelled."
                for place in (named_places(folder, "unlabelled") if roles.list else ())
            ),
        ],
    )


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        why = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(
            "`path` (`dataset.path` in a configuration) must be a folder of tables. "
            f"Received: {folder}, which {why}"
        )
