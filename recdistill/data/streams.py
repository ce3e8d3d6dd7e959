"""Files as streams of record batches, with the checks that all readers share."""

import codecs
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from recdistill.data import column_values
from recdistill.data.dataset import BATCH_ROWS, Columns, require_columns
from recdistill.errors import DataError

_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """One file that can be read again and again.

    Attributes:
        path: The file.
        schema: Its columns and their types as read.
        read: Starts a new pass over the raw record batches.
        untyped: Whether the file is text, so that ids and numbers come as written.
    """

    path: Path
    schema: pa.Schema
    read: Callable[[], Iterator[pa.RecordBatch]] = field(repr=False)
    untyped: bool = False

    def mapped(self, change: Callable[[pa.RecordBatch], pa.RecordBatch]) -> "Source":
        """The same file with each record batch changed, always in the same way."""
        schema = change(pa.RecordBatch.from_pylist([], self.schema)).schema
        return Source(self.path, schema, lambda: map(change, self.read()), self.untyped)


def file_digest(path: Path, *, text: bool = False) -> str:
    """SHA-256 (hex) of a file; with `text`, also checks that it is UTF-8.

    Raises:
        DataError: At the first byte that is not UTF-8, with its offset and line.
    """
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = lines = 0
    with reading(path), path.open("rb") as stream:
        ended = False
        while not ended:
            chunk = stream.read(_READ_BYTES)
            ended = not chunk
            digest.update(chunk)
            held = len(decoder.getstate()[0])
            try:
                if text:
                    decoder.decode(chunk, final=ended)
            except UnicodeDecodeError as error:
                offset = error.start - held
                line = 1 + lines + chunk.count(b"\n", 0, max(offset, 0))
                byte = error.object[error.start]
                raise DataError(
                    f"{path} must be UTF-8. Received: byte 0x{byte:02x} at offset "
                    f"{done + offset} (line {line}). Save the file as UTF-8."
                ) from None
            done += len(chunk)
            lines += chunk.count(b"\n")
    return digest.hexdigest()


def fingerprint(source: Mapping[str, str]) -> str:
    """SHA-256 (hex) over file names and their digests, whatever their order."""
    listed = "".join(f"{name}\0{digest}\n" for name, digest in sorted(source.items()))
    return hashlib.sha256(listed.encode()).hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what a reader may raise about the file `path` into a `DataError`."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{path} does not exist.") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read: {reason}") from error


def parquet_source(path: Path) -> Source:
    """A Parquet file, read row group by row group."""
    with reading(path), parquet.ParquetFile(path, pre_buffer=False) as file:
        return Source(path, file.schema_arrow, partial(_read_parquet, path))


def csv_source(
    path: Path,
    text_columns: Sequence[str] = (),
    *,
    types: Mapping[str, pa.DataType] | None = None,
    names: Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    delimiter: str = ",",
    quoted: bool = True,
    whole: bool = False,
) -> Source:
    """A delimited text file, read block by block.

    Args:
        path: The file, UTF-8.
        text_columns: Columns to keep as text, for the checks of this package to parse.
        types: Types of further columns; the rest are inferred from the first block.
        names: Column names where the file has no header.
        keep: The columns to read, in this order; all by default.
        delimiter: One character.
        quoted: Whether values may stand in double quotes, with line breaks inside.
        whole: Whether to take the file as one block, so that types are inferred from
            all of it.
    """
    size = max(path.stat().st_size, 1) if whole else _READ_BYTES

    def start(
        types: Mapping[str, pa.DataType] | pa.Schema,
    ) -> csv.CSVStreamingReader:
        return csv.open_csv(
            path,
            read_options=csv.ReadOptions(block_size=size, column_names=names),
            parse_options=csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
            ),
            convert_options=csv.ConvertOptions(
                column_types=types, include_columns=keep
            ),
        )

    def read() -> Iterator[pa.RecordBatch]:
        with reading(path), start(schema) as file:
            yield from file

    given = dict(types or {}) | dict.fromkeys(text_columns, pa.string())
    with reading(path), start(given) as file:
        schema = _without_nulls(file.schema)
    return Source(path, schema, read, untyped=True)


def interaction_stream(
    sources: Sequence[Source], columns: Columns
) -> Callable[[], Iterator[pa.RecordBatch]]:
    """The stream of a `Dataset`, after a look at its first batch.

    Raises:
        DataError: If a column is missing, the files differ in their columns, there is
            no interaction at all, or the first batch has a bad value.
    """
    first = sources[0]
    for source in sources:
        require_columns(source.schema.names, columns.names(), str(source.path))
        if not source.schema.equals(first.schema):
            raise DataError(
                f"{source.path} must have the same columns and types as {first.path}. "
                f"Received: {_difference(source.schema, first.schema)}"
            )
    stream = partial(_checked, sources, columns)
    if next(stream(), None) is None:
        raise DataError(f"{first.path} has no interactions; it needs at least one row.")
    return stream


def feature_table(source: Source, id_column: str) -> pa.Table:
    """A whole table of items or queries, read and checked; see `checked_table`."""
    require_columns(source.schema.names, [id_column], str(source.path))
    table = pa.Table.from_batches(source.read(), source.schema)
    return checked_table(table, id_column, source.path, untyped=source.untyped)


def checked_table(
    table: pa.Table, id_column: str, path: Path, *, untyped: bool = False
) -> pa.Table:
    """Items or queries with their ids as unique strings and their features as read.

    Raises:
        DataError: If an id is missing or repeated.
    """
    arrays = {}
    for name in table.column_names:
        array = table.column(name).combine_chunks()
        if name == id_column:
            place = column_values.Place(str(path), name, untyped=untyped)
            array = column_values.ids(array, place)
            column_values.reject_duplicates(array, place)
        arrays[name] = column_values.feature(array)
    return pa.table(arrays)


def _checked(sources: Sequence[Source], columns: Columns) -> Iterator[pa.RecordBatch]:
    times = column_values.Times()
    for source in sources:
        row = 1
        for batch in source.read():
            for start in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                yield _converted(part, source, columns, times, row + start)
            row += batch.num_rows


def _converted(
    batch: pa.RecordBatch,
    source: Source,
    columns: Columns,
    times: column_values.Times,
    row: int,
) -> pa.RecordBatch:
    Converter = Callable[[pa.Array, column_values.Place], pa.Array]
    converters: dict[str | None, Converter] = {
        columns.query: column_values.ids,
        columns.item: column_values.ids,
        columns.time: times,
        columns.relevance: column_values.numbers,
        columns.weight: column_values.weights,
        columns.list: column_values.ids,
        columns.score: column_values.scores,
    }
    arrays = {}
    for name in batch.schema.names:
        array = batch.column(name)
        if name in converters:
            place = column_values.Place(str(source.path), name, row, source.untyped)
            array = converters[name](array, place)
        arrays[name] = array
    return pa.RecordBatch.from_pydict(arrays)


def _read_parquet(path: Path) -> Iterator[pa.RecordBatch]:
    """Without `pre_buffer`, which would hold all that was read until the end."""
    with reading(path), parquet.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS)


def _without_nulls(schema: pa.Schema) -> pa.Schema:
    """A column that is empty in the first block is taken for text."""
    kinds = [pa.string() if pa.types.is_null(kind) else kind for kind in schema.types]
    return pa.schema(list(zip(schema.names, kinds, strict=True)))


def _difference(schema: pa.Schema, other: pa.Schema) -> str:
    columns = dict(zip(schema.names, map(str, schema.types), strict=True))
    others = dict(zip(other.names, map(str, other.types), strict=True))
    for name in sorted(columns.keys() | others.keys()):
        if columns.get(name) != others.get(name):
            there, here = columns.get(name, "missing"), others.get(name, "missing")
            return f"column {name!r} is {there} instead of {here}"
    return "another order of columns"
