"""Delimited text files (CSV, TSV and others) as streams of record batches."""

from __future__ import annotations

import csv as standard_csv
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
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
from recdistill.data.text_header import FirstLines, split_line
from recdistill.errors import DataError

_ONE_BYTE = "\x1f"


@dataclass(frozen=True)
class TextLayout:
    """Layout of a delimited text file.

    Attributes:
        delimiter: One or more characters; None to take it from a first line `sep=X`,
            or to recognise one of `DELIMITERS` of `text_header`.
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
        first = FirstLines.of(path)
        delimiter = layout.delimiter or first.delimiter(use or (), layout.names)
        if layout.names and split_line(first.header, delimiter) == [*layout.names]:
            raise DataError(
                f"{path} has a header, so its column names must not be given. Remove "
                "`columns` of this table from the configuration."
            )
        quoting = Quoting(quoted=False)
        if layout.quoted and len(delimiter.encode()) == 1:
            quoting = quoting_of(path, delimiter)
    form = _Form(path, delimiter, quoting, first, layout.names)
    start, checked = partial(_open, form), partial(_whole_rows, form)
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


@dataclass(frozen=True)
class _Form:
    """What is known of a file before its rows are read.

    Attributes:
        path: The file.
        delimiter: Its delimiter.
        quoting: How it uses quotes.
        first: Its first lines.
        names: Column names, if it has no header.
    """

    path: Path
    delimiter: str
    quoting: Quoting
    first: FirstLines
    names: Sequence[str] | None


def _open(
    form: _Form, types: Mapping[str, pa.DataType], columns: Sequence[str] | None
) -> csv.CSVStreamingReader:
    delimiter, quoting = form.delimiter, form.quoting
    single = len(delimiter.encode()) == 1
    source: Any = opened(form.path)
    if quoting.escaped:
        source = RewrittenFile(source, doubled_quotes)
    if not single:
        source = RewrittenFile(source, _with_one_byte(delimiter.encode()))
    if quoting.escaped or not single:
        source = pa.PythonFile(source, mode="r")
    return csv.open_csv(
        source,
        read_options=csv.ReadOptions(
            block_size=READ_BYTES,
            column_names=form.names,
            skip_rows=form.first.skipped,
        ),
        parse_options=csv.ParseOptions(
            delimiter=delimiter if single else _ONE_BYTE,
            quote_char='"' if quoting.quoted else False,
            newlines_in_values=quoting.quoted,
        ),
        convert_options=csv.ConvertOptions(column_types=types, include_columns=columns),
    )


@contextmanager
def _whole_rows(form: _Form) -> Iterator[None]:
    """Context manager that names the line of a row with too many or too few values."""
    try:
        yield
    except pa.ArrowInvalid as error:
        expected = re.search(r"Expected (\d+) columns, got (\d+)", str(error))
        if expected is None:
            raise
        raise _uneven_row(form, *map(int, expected.groups())) from None


def _uneven_row(form: _Form, columns: int, values: int) -> DataError:
    """Error about the first row with another number of values than the header."""
    line, first = _uneven_line(form, columns), form.first
    in_quotes = f"contains the delimiter {form.delimiter!r}, put the value in quotes."
    if form.names is None and first.is_no_header(columns, line, values):
        number = first.lines[0][0]
        return DataError(
            f"{form.path}: line {number} does not look like a header, because it has "
            f"{columns} value{'s' * (columns > 1)}, and line {line} has {values}. "
            "Remove the lines above the column names. If it is the header, and a value "
            f"of line {line} {in_quotes}"
        )
    return DataError(
        f"{form.path}, line {line}: a row must have as many values as there are "
        f"columns ({columns}). Received: {values}. If a value {in_quotes}"
    )


def _uneven_line(form: _Form, columns: int) -> int:
    """The first line, of those that are not empty, with another number of values."""
    delimiter, quoting = form.delimiter, form.quoting
    limit = standard_csv.field_size_limit(sys.maxsize)
    with text_of_file(form.path, quoting.escaped) as stream:
        rows: Any = (line.rstrip("\r\n").split(delimiter) for line in stream)
        if len(delimiter) == 1:
            rows = standard_csv.reader(
                stream,
                delimiter=delimiter,
                quoting=standard_csv.QUOTE_MINIMAL
                if quoting.quoted
                else standard_csv.QUOTE_NONE,
            )
        line = skipped = form.first.skipped
        for line, row in enumerate(islice(rows, skipped, None), start=skipped + 1):
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
