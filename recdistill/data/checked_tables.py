"""Checks and conversions that all readers share: interactions, items and queries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data import column_values
from recdistill.data.dataset import BATCH_ROWS, MAP_NAMES, Columns, require_columns
from recdistill.data.reading_options import ReadingOptions, TableOptions
from recdistill.data.table_files import same_types, whole_table
from recdistill.data.table_streams import TableStream
from recdistill.data.times import Times
from recdistill.errors import DataError

InteractionStream = Callable[[], Iterator[pa.RecordBatch]]

_Converter = Callable[[pa.Array, column_values.Place], pa.Array]

_NO_HEADER = (
    "If the file has no header, give the names in order with `columns` of this table, "
    "such as `dataset.interactions.columns`."
)
_NO_TYPE = "Correct the name in `types` of this table."
_NO_TIMES = ' If the data has no times, set `split.by` = "leave_random_out".'


def interaction_stream(
    streams: Sequence[TableStream],
    columns: Columns,
    options: ReadingOptions | None = None,
    *,
    with_negatives: bool = False,
) -> InteractionStream:
    """The stream of a `Dataset`, after a check of its first batch.

    Args:
        streams: Files of the table.
        columns: Roles of the columns.
        options: How the table is read.
        with_negatives: Whether the stream has rows with relevance 0, which were shown
            and not chosen.

    Raises:
        DataError: If a column is missing, the files differ in their columns, there are
            no interactions, or the first batch has a bad value.
    """
    options = options or ReadingOptions()
    kept = options.keep.columns if options.keep else ()
    types = options.table("lists" if columns.list else "interactions").types
    for stream in streams:
        required = dict.fromkeys([*columns.names(), *kept])
        missing = set(required).difference(stream.offered)
        hint = MAP_NAMES + _NO_TIMES * (missing == {columns.time})
        if missing == {*required}:
            hint = f"{MAP_NAMES} {_NO_HEADER}"
        require_columns(list(stream.offered), required, stream.name, hint)
        require_columns(list(stream.offered), types, stream.name, _NO_TYPE)
    streams = same_types(streams, columns.names())
    start = partial(_checked, streams, columns, options, with_negatives)
    if next(start(), None) is None:
        name = streams[0].name
        raise DataError(f"{name} must have at least one row. Received: none")
    return start


def unlabelled_stream(
    streams: Sequence[TableStream], columns: Columns, options: ReadingOptions
) -> InteractionStream:
    """The stream of `Dataset.unlabelled` of a table with one row for each request.

    Args:
        streams: Files of the table.
        columns: Roles of the columns; the table has those of the query and the time.
        options: How the table is read.

    Raises:
        DataError: If a column is missing, or the first batch has a bad value.
    """
    types = options.table("unlabelled").types
    required = [columns.query, *([columns.time] if columns.time else [])]
    for stream in streams:
        require_columns(list(stream.offered), required, stream.name, MAP_NAMES)
        require_columns(list(stream.offered), types, stream.name, _NO_TYPE)
    streams = same_types(streams, required)
    times = Times(options.time_format)
    converters: dict[str | None, _Converter] = {
        columns.query: column_values.ids,
        columns.time: times,
    }

    def start() -> Iterator[pa.RecordBatch]:
        for part, rows, stream in _typed_parts(streams, types):
            yield _converted(part, stream, converters, rows)

    next(start(), None)
    return start


def feature_table(
    streams: Sequence[TableStream], id_column: str, options: TableOptions | None = None
) -> pa.Table:
    """Items or queries in memory, with the checks of `checked_table`."""
    options = options or TableOptions()
    for stream in streams:
        require_columns(list(stream.offered), options.types, stream.name, _NO_TYPE)
    table = whole_table(streams, [id_column])
    return checked_table(table, id_column, streams[0].name, options.types)


def checked_table(
    table: pa.Table,
    id_column: str,
    name: str,
    types: Mapping[str, column_values.ColumnType] | None = None,
) -> pa.Table:
    """Items or queries with unique ids as strings and features as read.

    Args:
        table: The table.
        id_column: Column of the ids.
        name: Name of the table, for errors.
        types: Types of the columns that are converted.

    Raises:
        DataError: If an id is missing or repeated, or a value does not have the type of
            its column.
    """
    arrays = {}
    for column in table.column_names:
        array = table.column(column).combine_chunks()
        place = column_values.Place(name, column)
        if types is not None and column in types:
            array = column_values.typed(array, types[column], place)
        if column == id_column:
            array = column_values.ids(array, place)
            column_values.reject_duplicates(array, place)
        arrays[column] = column_values.feature(array)
    return pa.table(arrays)


def _checked(
    streams: Sequence[TableStream],
    columns: Columns,
    options: ReadingOptions,
    with_negatives: bool,
) -> Iterator[pa.RecordBatch]:
    times = Times(options.time_format)
    types = options.table("lists" if columns.list else "interactions").types
    converters: dict[str | None, _Converter] = {
        columns.query: column_values.ids,
        columns.item: column_values.ids,
        columns.time: times,
        columns.relevance: column_values.relevances,
        columns.weight: column_values.weights,
        columns.list: column_values.ids,
        columns.score: column_values.scores,
    }
    for part, rows, stream in _typed_parts(streams, types):
        if options.keep is not None:
            held = options.keep.holds(part, stream.name, int(rows[0]))
            part, rows = part.filter(held), rows[np.asarray(held)]
        done = _converted(part, stream, converters, rows)
        if columns.relevance is not None and not with_negatives:
            done = done.filter(pc.greater(done[columns.relevance], 0))
        yield done


def _typed_parts(
    streams: Sequence[TableStream], types: Mapping[str, column_values.ColumnType]
) -> Iterator[tuple[pa.RecordBatch, np.ndarray, TableStream]]:
    """Parts of at most `BATCH_ROWS` rows, with their row numbers and their file."""
    for stream in streams:
        row = 1
        for batch in stream.read():
            for start in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                rows = np.arange(row + start, row + start + part.num_rows)
                yield _typed(part, types, stream.name, row + start), rows, stream
            row += batch.num_rows


def _typed(
    batch: pa.RecordBatch,
    types: Mapping[str, column_values.ColumnType],
    name: str,
    first_row: int,
) -> pa.RecordBatch:
    if not types:
        return batch
    arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
    for column in set(types) & set(arrays):
        place = column_values.Place(name, column, first_row)
        arrays[column] = column_values.typed(arrays[column], types[column], place)
    return pa.RecordBatch.from_pydict(arrays)


def _converted(
    batch: pa.RecordBatch,
    stream: TableStream,
    converters: Mapping[str | None, _Converter],
    rows: np.ndarray,
) -> pa.RecordBatch:
    arrays = {}
    for name in batch.schema.names:
        array = batch.column(name)
        if name in converters:
            place = column_values.Place(stream.name, name, rows=rows)
            array = converters[name](array, place)
        arrays[name] = array
    return pa.RecordBatch.from_pydict(arrays)
