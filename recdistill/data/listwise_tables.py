"""Data that comes in lists, and scores that somebody gave to candidates."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data import column_values
from recdistill.data.dataset import Columns, Dataset, require_columns
from recdistill.data.streams import (
    Source,
    file_digest,
    fingerprint,
    interaction_stream,
)
from recdistill.data.tables import (
    files_of,
    is_csv,
    one_feature_table,
    table_files,
    table_sources,
)
from recdistill.errors import DataError

Stream = Callable[[], Iterator[pa.RecordBatch]]


def read_listwise(
    path: str | Path, columns: Mapping[str, str] | Columns | None = None
) -> Dataset:
    """Reads a folder whose table `lists` has one row a (list, candidate).

    Rows with a relevance above 0 are the interactions; the other candidates of a list
    are what it was judged against. Rows of one list have one query and one time. Of a
    list without any relevant row nothing can be learnt, and it is left out. The tables
    `items` and `queries` are read as `read_tables` does; without an item table the
    catalogue is all candidates that there are.

    Args:
        path: The folder; tables are as for `read_tables`.
        columns: Roles to column names. By default `list` is "list_id" and `relevance`
            is "relevance"; `score`, where given, is what a teacher thinks of the row's
            candidate, and may be missing for some.

    Returns:
        A `Dataset` with the role `list`, and with `scores` where there is a score.

    Raises:
        DataError: As `read_tables`.
    """
    folder, roles = Path(path), _roles(columns)
    if not folder.is_dir():
        raise DataError(f"`path` must be a folder of tables. Received: {folder}")
    parts = table_files(folder, "lists")
    item_parts = table_files(folder, "items", optional=True)
    query_parts = table_files(folder, "queries", optional=True)
    digests = {
        part.relative_to(folder).as_posix(): file_digest(part, text=is_csv(part))
        for part in (*parts, *item_parts, *query_parts)
    }
    rows = interaction_stream(table_sources(parts, roles.names()), roles)
    return Dataset(
        name=folder.resolve().name,
        columns=roles,
        items=one_feature_table(item_parts, roles.item) or _all_items(rows, roles),
        queries=one_feature_table(query_parts, roles.query),
        fingerprint=fingerprint(digests),
        source=digests,
        stream=partial(_relevant, rows, roles),
        scores=partial(_scored, rows, roles) if roles.score else None,
    )


def read_scores(
    path: str | Path, columns: Mapping[str, str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Reads a table of scores, one row a (query, item).

    Args:
        path: A Parquet or CSV file, or a folder of such.
        columns: Names of the columns for the roles query, item and score; "user_id",
            "item_id" and "score" if left out.

    Yields:
        Batches with the columns `key`, `item` (text) and `score` (float32).

    Raises:
        DataError: If a column is missing, an id is missing, or a score is no finite
            number; with file, column and row.
    """
    place = Path(path)
    if not place.exists():
        raise DataError(f"`path` must be a table of scores. Received: {place}")
    names = {"query": "user_id", "item": "item_id", "score": "score", **(columns or {})}
    for source in table_sources(files_of(place), list(names.values())):
        require_columns(source.schema.names, names.values(), str(source.path))
        row = 1
        for batch in source.read():
            yield _with_scores(batch, source, names, row)
            row += batch.num_rows


def _with_scores(
    batch: pa.RecordBatch, source: Source, names: Mapping[str, str], row: int
) -> pa.RecordBatch:
    def place(role: str) -> column_values.Place:
        return column_values.Place(str(source.path), names[role], row, source.untyped)

    return pa.RecordBatch.from_pydict(
        {
            "key": column_values.ids(batch[names["query"]], place("query")),
            "item": column_values.ids(batch[names["item"]], place("item")),
            "score": column_values.numbers(batch[names["score"]], place("score")),
        }
    )


def _roles(columns: Mapping[str, str] | Columns | None) -> Columns:
    roles = Columns.of(columns)
    return replace(
        roles,
        list=roles.list or "list_id",
        relevance=roles.relevance or "relevance",
    )


def _all_items(rows: Stream, roles: Columns) -> pa.Table:
    found: set[str] = set()
    for batch in rows():
        found.update(pc.unique(batch[roles.item]).to_pylist())
    return pa.table({roles.item: pa.array(sorted(found), pa.string())})


def _relevant(rows: Stream, roles: Columns) -> Iterator[pa.RecordBatch]:
    for batch in rows():
        yield batch.filter(pc.greater(batch[roles.relevance], 0))


def _scored(rows: Stream, roles: Columns) -> Iterator[pa.RecordBatch]:
    for batch in rows():
        scored = batch.filter(pc.is_valid(batch[roles.score]))
        chosen: Sequence[pa.Array] = [
            scored[name] for name in (roles.list, roles.item, roles.score)
        ]
        yield pa.RecordBatch.from_arrays(chosen, ["key", "item", "score"])
