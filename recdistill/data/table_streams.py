"""Tables as streams of record batches, Parquet files, and digests of files."""

import codecs
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from recdistill.atomic import refuse_pipes
from recdistill.data.dataset import BATCH_ROWS
from recdistill.data.item_titles import is_title, may_be_title
from recdistill.errors import DataError

READ_BYTES = 1 << 20
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2"}


@dataclass(frozen=True)
class TableStream:
    """A table, or one file of it, that can be read again and again.

    Attributes:
        name: Path of the file, or name of the table; errors begin with it.
        schema: Columns and their types as read.
        read: Function that starts a new pass over the record batches.
        offered: Names of all columns of the file, including those that are not read.
        may_lack_columns: Whether a column that the file lacks has only missing values,
            as in JSON lines, where each row has its own columns.
    """

    name: str
    schema: pa.Schema
    read: Callable[[], Iterator[pa.RecordBatch]] = field(repr=False)
    offered: tuple[str, ...] = ()
    may_lack_columns: bool = False

    def mapped(
        self, change: Callable[[pa.RecordBatch], pa.RecordBatch]
    ) -> "TableStream":
        """The same table with each record batch changed by a function."""
        schema = change(pa.RecordBatch.from_pylist([], self.schema)).schema
        read, added = self.read, [n for n in schema.names if n not in self.schema.names]
        offered = (*self.offered, *added)
        return replace(
            self, schema=schema, read=lambda: map(change, read()), offered=offered
        )


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with reading(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_utf8(path: Path) -> None:
    """Checks that a text file is UTF-8, after unpacking.

    Raises:
        DataError: At the first byte that is not UTF-8, with its offset and line.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = lines = 0
    with reading(path), opened(path) as stream:
        ended = False
        while not ended:
            chunk = stream.read(READ_BYTES)
            ended = not chunk
            pending = len(decoder.getstate()[0])
            try:
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


def fingerprint(digests: Mapping[str, str]) -> str:
    """SHA-256 (hex) of names and their digests, in any order."""
    listed = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(listed.encode()).hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Context manager that turns errors while reading `path` into a `DataError`."""
    try:
        refuse_pipes(path)
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{path} does not exist.") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read: {reason}") from error


def opened(path: Path) -> Any:
    """The file as a binary stream; gzip, zstd and others unpacked by the suffix."""
    return pa.input_stream(str(path), compression=compression_of(path))


def compression_of(path: Path) -> str | None:
    """Compression of a file by its suffix; None if it is not compressed."""
    return _COMPRESSIONS.get(path.suffix.lower())


def parquet_stream(
    path: Path, use: Collection[str] | None = None, titles: bool = False
) -> TableStream:
    """A Parquet file, read row group by row group.

    Args:
        path: The file.
        use: Columns to read, if the file has them; all by default.
        titles: Whether titles of items are read too. A column of titles with other
            values than text, numbers and lists of text is not read.
    """
    with reading(path), parquet.ParquetFile(path, pre_buffer=False) as file:
        schema = file.schema_arrow
    kept = [
        column.name
        for column in schema
        if use is None
        or column.name in use
        or (titles and is_title(column.name) and may_be_title(column.type))
    ]
    if len(set(kept)) == len(kept):
        read_schema = pa.schema([schema.field(name) for name in kept])
    else:
        # The reader of the table reports a repeated column as an error.
        read_schema = schema
    return TableStream(
        str(path), read_schema, partial(_read_parquet, path, kept), tuple(schema.names)
    )


def _read_parquet(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Reads without `pre_buffer`, which would keep all data in memory."""
    with reading(path), parquet.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            # A name also selects nested columns, whose names continue after a dot.
            yield batch if batch.schema.names == columns else batch.select(columns)
