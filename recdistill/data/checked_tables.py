"""Checks and conversions that all readers share: interactions, items and queries."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data import column_values
from recdistill.data.dataset import BATCH_ROWS, MAP_NAMES, Columns, require_columns
from recdistill.data.reading_options import ReadingOptions
from recdistill.data.table_files import same_types, whole_table
from recdistill.data.table_streams import TableStream
from recdistill.data.times import Times
from recdistill.errors import DataError

InteractionStream = Callable[[], Iterator[pa.RecordBatch]]

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
    for stream in streams:
        required = dict.fromkeys([*columns.names(), *kept])
        no_time = columns.time is not None and columns.time not in stream.offered
        hint = MAP_NAMES + _NO_TIMES * no_time
        require_columns(list(stream.offered), required, stream.name, hint)
    streams = same_types(streams, columns.names())
    start = partial(_checked, streams, columns, options, with_negatives)
    if next(start(), None) is None:
        name = streams[0].name
        raise DataError(f"{name} must have at least one row. Received: none")
    return start


def feature_table(streams: Sequence[TableStream], id_column: str) -> pa.Table:
    """Items or queries in memory, with the checks of `checked_table`."""
    table = whole_table(streams, [id_column])
    return checked_table(table, id_column, streams[0].name)


def checked_table(table: pa.Table, id_column: str, name: str) -> pa.Table:
    """Items or queries with unique ids as strings and features as read.

    Raises:
        DataError: If an id is missing or repeated.
    """
    arrays = {}
    for column in table.column_names:
        array = table.column(column).combine_chunks()
        if column == id_column:
            place = column_values.Place(name, column)
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
    for stream in streams:
        row = 1
        for batch in stream.read():
            for start in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                rows = np.arange(row + start, row + start + part.num_rows)
                if options.keep is not None:
                    held = options.keep.holds(part, stream.name, row + start)
                    part, rows = part.filter(held), rows[np.asarray(held)]
                done = _converted(part, stream, columns, times, rows)
                if columns.relevance is not None and not with_negatives:
                    done = done.filter(pc.greater(done[columns.relevance], 0))
                yield done
            row += batch.num_rows


def _converted(
    batch: pa.RecordBatch,
    stream: TableStream,
    columns: Columns,
    times: Times,
    rows: np.ndarray,
) -> pa.RecordBatch:
    Converter = Callable[[pa.Array, column_values.Place], pa.Array]
    converters: dict[str | None, Converter] = {
        columns.query: column_values.ids,
        columns.item: column_values.ids,
        columns.time: times,
        columns.relevance: column_values.relevances,
        columns.weight: column_values.weights,
        columns.list: column_values.ids,
        columns.score: column_values.scores,
    }
    arrays = {}
    for name in batch.schema.names:
        array = batch.column(name)
        if name in converters:
            place = column_values.Place(stream.name, name, rows=rows)
            array = converters[name](array, place)
        arrays[name] = array
    return pa.RecordBatch.from_pydict(arrays)
