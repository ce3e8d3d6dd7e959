"""Tables as streams of record batches: Parquet and delimited text files."""

import codecs
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from recdistill.data.dataset import BATCH_ROWS
from recdistill.errors import DataError

_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class TableStream:
    """A table, or one file of it, that can be read again and again.

    Attributes:
        name: Path of the file, or name of the table; errors begin with it.
        schema: Columns and their types as read.
        read: Function that starts a new pass over the record batches.
        untyped: Whether the file is text, so that ids and numbers are not typed.
    """

    name: str
    schema: pa.Schema
    read: Callable[[], Iterator[pa.RecordBatch]] = field(repr=False)
    untyped: bool = False

    def mapped(
        self, change: Callable[[pa.RecordBatch], pa.RecordBatch]
    ) -> "TableStream":
        """The same table with each record batch changed by a function."""
        schema = change(pa.RecordBatch.from_pylist([], self.schema)).schema
        read, untyped = self.read, self.untyped
        return TableStream(self.name, schema, lambda: map(change, read()), untyped)


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
            pending = len(decoder.getstate()[0])
            try:
                if text:
                    decoder.decode(chunk, final=ended)
            except UnicodeDecodeError as error:
                offset = error.start - pending
                line = 1 + lines + chunk.count(b"\n", 0, max(offset, 0))
                byte = error.object[error.start]
                raise DataError(
                    f"{path} must be UTF-8. Received: byte 0x{byte:02x} at offset "
                    f"{done + offset} (line {line}). Save the file as UTF-8."
                ) from None
            done += len(chunk)
            lines += chunk.count(b"\n")
    return digest.hexdigest()


def fingerprint(digests: Mapping[str, str]) -> str:
    """SHA-256 (hex) of names and their digests, in any order."""
    listed = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(listed.encode()).hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Context manager that turns errors while reading `path` into a `DataError`."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{path} does not exist.") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read: {reason}") from error


def parquet_stream(path: Path) -> TableStream:
    """A Parquet file, read row group by row group."""
    with reading(path), parquet.ParquetFile(path, pre_buffer=False) as file:
        return TableStream(str(path), file.schema_arrow, partial(_read_parquet, path))


def csv_stream(
    path: Path,
    text_columns: Sequence[str] = (),
    *,
    types: Mapping[str, pa.DataType] | None = None,
    names: Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    delimiter: str = ",",
    quoted: bool = True,
    one_block: bool = False,
) -> TableStream:
    """A delimited text file, read block by block.

    Args:
        path: The file, UTF-8.
        text_columns: Columns to read as text.
        types: Types of further columns; the rest are inferred from the first block.
        names: Column names, if the file has no header.
        keep: Columns to read, in this order; all by default.
        delimiter: One character.
        quoted: Whether values may be quoted, with line breaks inside the quotes.
        one_block: Whether to read the file as one block, so that types are inferred
            from all rows.
    """
    size = max(path.stat().st_size, 1) if one_block else _READ_BYTES

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
    return TableStream(str(path), schema, read, untyped=True)


def _read_parquet(path: Path) -> Iterator[pa.RecordBatch]:
    """Without `pre_buffer`, which would keep everything that was read in memory."""
    with reading(path), parquet.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS)


def _without_nulls(schema: pa.Schema) -> pa.Schema:
    """Schema in which columns without a value in the first block are text."""
    kinds = [pa.string() if pa.types.is_null(kind) else kind for kind in schema.types]
    return pa.schema(list(zip(schema.names, kinds, strict=True)))
