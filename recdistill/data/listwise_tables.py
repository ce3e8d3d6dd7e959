"""Readers for listwise data and for tables of teacher scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data import column_values
from recdistill.data.checked_tables import InteractionStream, interaction_stream
from recdistill.data.dataset import MAP_NAMES, Columns, Dataset, require_columns
from recdistill.data.reading_options import ReadingOptions
from recdistill.data.table_files import files_of
from recdistill.data.table_streams import TableStream, fingerprint
from recdistill.data.tables import TableFolder, open_folder
from recdistill.errors import DataError


def read_listwise(
    path: str | Path,
    columns: Mapping[str, str] | Columns | None = None,
    *,
    lists: str = "lists",
    items: str | None = None,
    queries: str | None = None,
    options: ReadingOptions | None = None,
) -> Dataset:
    """Reader for a folder whose table `lists` has one row per (list, candidate).

    Rows with a relevance above 0 are the interactions; the other rows of a list are the
    candidates that were shown and not chosen. Rows of one list have the same query and
    time. From lists without a relevant row the student learns the teacher's scores
    only. The tables `items` and `queries` are as for `read_tables`; without a table of
    items, the catalogue is all candidates of all lists.

    Args:
        path: The folder; tables are as for `read_tables`.
        columns: Roles to column names. By default `list` is "list_id" and `relevance`
            is "relevance". `score`, if given, is the column of the teacher's scores;
            candidates may lack a score.
        lists: Name of the table, with or without its suffix.
        items: Name of the table of items; by default `items`, if it exists.
        queries: Name of the table of queries; by default `queries`, if it exists.
        options: How the files are read.

    Returns:
        A `Dataset` with the role `list`, and with `scores` if there is a score column.

    Raises:
        DataError: As `read_tables`.
    """
    roles = listwise_roles(columns)
    options = options or ReadingOptions()
    folder = open_folder(Path(path), roles, options, (lists, items, queries))
    return listwise_dataset(folder, roles, options)


def listwise_roles(columns: Mapping[str, str] | Columns | None) -> Columns:
    """Roles of a listwise table; list and relevance have default columns."""
    roles = Columns.of(columns)
    return replace(
        roles,
        list=roles.list or "list_id",
        relevance=roles.relevance or "relevance",
    )


def listwise_dataset(
    tables: TableFolder, roles: Columns, options: ReadingOptions
) -> Dataset:
    """Data set of a table with one row per (list, candidate).

    Raises:
        DataError: As `read_tables`.
    """
    rows = interaction_stream(tables.rows, roles, options, with_negatives=True)
    items = _all_candidates(rows, roles) if tables.items is None else tables.items
    return Dataset(
        name=tables.name,
        columns=roles,
        items=items,
        queries=tables.queries,
        fingerprint=fingerprint(tables.digests),
        source=tables.digests,
        stream=partial(_relevant, rows, roles),
        scores=partial(_scored, rows, roles) if roles.score else None,
        not_chosen=partial(_not_chosen, rows, roles),
        offered=tables.offered,
        notes=tables.notes,
        verify=tables.verify,
    )


def read_scores(
    path: str | Path, columns: Mapping[str, str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Reader for a table of teacher scores, with one row per (query, item).

    Args:
        path: A table, as for `read_tables`, or a folder of files.
        columns: Column names of the roles query, item and score; by default "user_id",
            "item_id" and "score".

    Yields:
        Batches with the columns `key`, `item` (text) and `score` (float32).

    Raises:
        DataError: If a column or an id is missing, or a score is not a finite number;
            names file, column and row.
    """
    place = Path(path)
    if not place.exists():
        raise DataError(f"`path` must be a table of scores. Received: {place}")
    names = {"query": "user_id", "item": "item_id", "score": "score", **(columns or {})}
    for file in files_of(place):
        stream = file.open(set(names.values()))
        require_columns(list(stream.offered), names.values(), stream.name, MAP_NAMES)
        row = 1
        for batch in stream.read():
            yield _score_batch(batch, stream, names, row)
            row += batch.num_rows


def _score_batch(
    batch: pa.RecordBatch, stream: TableStream, names: Mapping[str, str], row: int
) -> pa.RecordBatch:
    def place(role: str) -> column_values.Place:
        return column_values.Place(stream.name, names[role], row)

    return pa.RecordBatch.from_pydict(
        {
            "key": column_values.ids(batch[names["query"]], place("query")),
            "item": column_values.ids(batch[names["item"]], place("item")),
            "score": column_values.numbers(batch[names["score"]], place("score")),
        }
    )


def _all_candidates(rows: InteractionStream, roles: Columns) -> pa.Table:
    found: set[str] = set()
    for batch in rows():
        found.update(pc.unique(batch[roles.item]).to_pylist())
    return pa.table({roles.item: pa.array(sorted(found), pa.string())})


def _relevant(rows: InteractionStream, roles: Columns) -> Iterator[pa.RecordBatch]:
    for batch in rows():
        yield batch.filter(pc.greater(batch[roles.relevance], 0))


def _not_chosen(rows: InteractionStream, roles: Columns) -> Iterator[pa.RecordBatch]:
    for batch in rows():
        yield batch.filter(pc.equal(batch[roles.relevance], 0))


def _scored(rows: InteractionStream, roles: Columns) -> Iterator[pa.RecordBatch]:
    for batch in rows():
        scored = batch.filter(pc.is_valid(batch[roles.score]))
        chosen: Sequence[pa.Array] = [
            scored[name] for name in (roles.list, roles.item, roles.score)
        ]
        yield pa.RecordBatch.from_arrays(chosen, ["key", "item", "score"])
