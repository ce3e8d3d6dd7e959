"""Delimited text files (CSV, TSV and others) as streams of record batches."""

from __future__ import annotations

import csv as standard_csv
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from recdistill.data.item_titles import is_title
from recdistill.data.quoting import (
    Quoting,
    doubled_quotes,
    quoting_of,
    text_of_file,
)
from recdistill.data.rewritten_file import Rewrite, RewrittenFile
from recdistill.data.table_streams import READ_BYTES, TableStream, opened, reading
from recdistill.errors import DataError

DELIMITERS = (",", "\t", "::", "|", ";")
"""Delimiters that are recognised from the header, the preferred one first."""

_RARE_DELIMITERS = ("\x01", "^", "~", " ")
"""Delimiters that are recognised only if they find columns that are wanted."""

_ONE_BYTE = "\x1f"


@dataclass(frozen=True)
class TextLayout:
    """Layout of a delimited text file.

    Attributes:
        delimiter: One or more characters; None to recognise one of `DELIMITERS`.
        quoted: Whether values may be quoted, with line breaks inside the quotes. Files
            with a delimiter of several characters have no quotes.
        names: Column names, if the file has no header.
        types: Types of columns that are not text.
    """

    delimiter: str | None = None
    quoted: bool = True
    names: Sequence[str] | None = None
    types: Mapping[str, pa.DataType] | None = None


def text_stream(
    path: Path,
    use: Collection[str] | None = None,
    layout: TextLayout | None = None,
    titles: bool = False,
) -> TableStream:
    """A delimited text file, UTF-8, read block by block; gzip and zstd are unpacked.

    Every column is unchanged text, unless the layout has its type.

    Args:
        path: The file.
        use: Columns to read, if the file has them; all by default.
        layout: Layout of the file; by default it has a header.
        titles: Whether titles of items are read too.
    """
    layout = layout or TextLayout()
    with reading(path):
        delimiter = layout.delimiter or sniffed_delimiter(path, use or (), layout.names)
        line = _first_line(path)
        if layout.names and _split(line, delimiter) == [*layout.names]:
            raise DataError(
                f"{path} has a header, so its column names must not be given. Remove "
                "`columns` of this table from the configuration."
            )
        quoting = Quoting(quoted=False)
        if layout.quoted and len(delimiter.encode()) == 1:
            quoting = quoting_of(path, delimiter)
    start = partial(_open, path, layout, delimiter, quoting)
    checked = partial(_whole_rows, path, delimiter, quoting)
    with reading(path), checked(), start({}, None) as file:
        names = tuple(file.schema.names)
    kept = [
        name
        for name in names
        if use is None or name in use or (titles and is_title(name))
    ]
    types = layout.types or {}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in kept])

    def read() -> Iterator[pa.RecordBatch]:
        if not kept:
            raise DataError(f"{path} has none of the columns {sorted(use or ())}.")
        with (
            reading(path),
            checked(),
            start(dict(zip(kept, schema.types, strict=True)), kept) as f,
        ):
            yield from f

    return TableStream(str(path), schema, read, names)


def sniffed_delimiter(
    path: Path, wanted: Collection[str] = (), names: Sequence[str] | None = None
) -> str:
    """The delimiter of a file, recognised from its first line.

    The delimiter that finds the most `wanted` columns is chosen, then the one with the
    most columns, then the first of them. Without a header, the delimiter that
    gives as many values as there are `names` is chosen first.
    """
    line = _first_line(path)

    def fit(delimiter: str) -> tuple[int, int]:
        values = _split(line, delimiter)
        found = sum(value in wanted for value in values)
        if names is not None:
            found = int(len(values) == len(names))
        return found, len(values) if found or delimiter in DELIMITERS else 0

    return max(DELIMITERS + _RARE_DELIMITERS, key=fit)


def _first_line(path: Path) -> str:
    with opened(path) as stream:
        text = stream.read(READ_BYTES).decode("utf-8-sig", errors="replace")
    return next((each for each in text.splitlines() if each.strip()), "")


def _split(line: str, delimiter: str) -> list[str]:
    if len(delimiter) > 1:
        return line.split(delimiter)
    return next(standard_csv.reader([line], delimiter=delimiter), [])


def _open(
    path: Path,
    layout: TextLayout,
    delimiter: str,
    quoting: Quoting,
    types: Mapping[str, pa.DataType],
    columns: Sequence[str] | None,
) -> csv.CSVStreamingReader:
    single = len(delimiter.encode()) == 1
    source: Any = opened(path)
    if quoting.escaped:
        source = RewrittenFile(source, doubled_quotes)
    if not single:
        source = RewrittenFile(source, _with_one_byte(delimiter.encode()))
    if quoting.escaped or not single:
        source = pa.PythonFile(source, mode="r")
    return csv.open_csv(
        source,
        read_options=csv.ReadOptions(block_size=READ_BYTES, column_names=layout.names),
        parse_options=csv.ParseOptions(
            delimiter=delimiter if single else _ONE_BYTE,
            quote_char='"' if quoting.quoted else False,
            newlines_in_values=quoting.quoted,
        ),
        convert_options=csv.ConvertOptions(column_types=types, include_columns=columns),
    )


@contextmanager
def _whole_rows(path: Path, delimiter: str, quoting: Quoting) -> Iterator[None]:
    """Context manager that names the line of a row with too many or too few values."""
    try:
        yield
    except pa.ArrowInvalid as error:
        expected = re.search(r"Expected (\d+) columns, got (\d+)", str(error))
        if expected is None:
            raise
        line = _uneven_line(path, delimiter, quoting, int(expected[1]))
        raise DataError(
            f"{path}, line {line}: a row must have as many values as there are columns "
            f"({expected[1]}). Received: {expected[2]}. If a value contains the "
            f"delimiter {delimiter!r}, put the value in quotes."
        ) from None


def _uneven_line(path: Path, delimiter: str, quoting: Quoting, columns: int) -> int:
    """The first line, of those that are not empty, with another number of values."""
    limit = standard_csv.field_size_limit(sys.maxsize)
    with text_of_file(path, quoting.escaped) as stream:
        rows: Any = (line.rstrip("\r\n").split(delimiter) for line in stream)
        if len(delimiter) == 1:
            rows = standard_csv.reader(
                stream,
                delimiter=delimiter,
                quoting=standard_csv.QUOTE_MINIMAL
                if quoting.quoted
                else standard_csv.QUOTE_NONE,
            )
        line = 0
        for line, row in enumerate(rows, start=1):
            if row not in ([], [""]) and len(row) != columns:
                line = getattr(rows, "line_num", line)
                break
    standard_csv.field_size_limit(limit)
    return line


def _with_one_byte(delimiter: bytes) -> Rewrite:
    """Replaces a delimiter of several bytes by a single byte; see `RewrittenFile`."""

    def rewrite(text: bytes, last: bool) -> tuple[bytes, bytes]:
        *pieces, rest = text.split(delimiter)
        # The delimiter may begin at the end of these bytes.
        lengths = range(0 if last else len(delimiter) - 1, -1, -1)
        held = next(n for n in lengths if rest.endswith(delimiter[:n]))
        end = len(rest) - held
        return _ONE_BYTE.encode().join([*pieces, rest[:end]]), rest[end:]

    return rewrite
