"""How a delimited text file uses quotes, decided from the whole file."""

from __future__ import annotations

import csv
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recdistill.data.rewritten_file import RewrittenFile
from recdistill.data.table_streams import READ_BYTES, opened
from recdistill.data.text_header import declared_delimiter
from recdistill.errors import DataError

_QUOTE = b'"'
_ESCAPED_QUOTE = b'\\"'
_BEFORE_QUOTE = re.compile(rb'(\\+)"')
_IN_PROSE, _LEAST_CONTINUED = (",", ";", " "), 3
"""Delimiters that are common in texts, and the number of continued lines from which
equal counts of such delimiters are no coincidence."""

_NEAR, _MOST_LOOKED_AT = 2**12, 5_000
"""Bytes before an escaped quote in which the beginning of its value is looked for, and
quotes for which this is done."""


@dataclass(frozen=True)
class Quoting:
    r"""How a file uses quotes.

    Attributes:
        quoted: Whether values may stand in quotes; else a quote is text.
        escaped: Whether a quote inside a quoted value is written `\"`, as Spark does,
            and not doubled.
    """

    quoted: bool = True
    escaped: bool = False


def quoting_of(path: Path, delimiter: str) -> Quoting:
    """How a file uses quotes.

    Values in quotes may have line breaks and delimiters. If the quotes do not match, or
    match only across lines, and all lines have the same number of delimiters, quotes
    are text: a line break inside a value would make the lines uneven.

    Args:
        path: A text file, UTF-8.
        delimiter: The delimiter, of one byte.

    Raises:
        DataError: If a value begins with a quote that is not closed; names the line.
    """
    escaped, uneven = _scan(path, delimiter.encode())
    if not uneven:
        return Quoting(escaped=escaped)
    line, continued = _wrong_line(path, delimiter, escaped)
    if line is None:
        least = _LEAST_CONTINUED if delimiter in _IN_PROSE else 1
        if continued >= least and _delimiters_of_lines(path, delimiter.encode()):
            return Quoting(quoted=False)
        return Quoting(escaped=escaped)
    if _delimiters_of_lines(path, delimiter.encode()) is not None:
        return Quoting(quoted=False)
    raise DataError(
        f"{path}, line {line}: a value that begins with a quote must end with one, "
        "before a delimiter or the end of the line. Close the quote, or double the "
        "quotes that belong to the text."
    )


def _scan(path: Path, delimiter: bytes) -> tuple[bool, bool]:
    r"""Whether `\"` is a quote inside a value; whether a line has an odd quote."""
    ends = (b"", delimiter, b"\r", b"\n", _QUOTE)
    escaped, uneven, carried, left = False, False, 0, _MOST_LOOKED_AT
    # The file begins like a line.
    before, in_quotes = b"\n", _InQuotes(delimiter)
    with opened(path) as stream:
        while chunk := stream.read(READ_BYTES):
            text = before + chunk
            # The last bytes of the text before were not followed by all others.
            place = max(0, len(before) - 3) - 1
            while (
                not escaped
                and left
                and ((place := text.find(_ESCAPED_QUOTE, place + 1)) >= 0)
            ):
                after = text[place + 2 : place + 3]
                if after not in ends and text[place - 1 : place] != b"\\":
                    escaped = in_quotes(text[max(0, place - _NEAR) : place])
                    left -= 1
            before = text[-_NEAR:]
            if _QUOTE in chunk or carried:
                found, carried = _odd_lines(chunk, carried)
                uneven |= found
    return escaped, uneven or carried % 2 == 1


class _InQuotes:
    """Tells whether a value that begins with a quote is open at a place of a file."""

    def __init__(self, delimiter: bytes) -> None:
        end = b"[\n\r]|" + re.escape(delimiter)
        self._begin = re.compile(b"(?:" + end + b')"')
        # An escaped quote does not end a value.
        self._end = re.compile(rb'(?<!\\)"(?=' + end + b")")

    def __call__(self, before: bytes) -> bool:
        """Whether one is open at the end of some bytes before the place."""
        begins = [found.start() for found in self._begin.finditer(before)]
        ends = [found.start() for found in self._end.finditer(before)]
        return max(begins, default=-1) > max(ends, default=-1)


def _odd_lines(chunk: bytes, carried: int) -> tuple[bool, int]:
    """Whether a line that ends in the chunk has an odd number of quotes.

    Args:
        chunk: Bytes of a file.
        carried: Number of quotes in the line that the chunk begins in.

    Returns:
        The answer, and the number of quotes in the line that the chunk ends in.
    """
    data = np.frombuffer(chunk, "uint8")
    quotes = np.flatnonzero(data == _QUOTE[0])
    before = np.searchsorted(quotes, np.flatnonzero(data == ord("\n")))
    if not len(before):
        return False, carried + len(quotes)
    counts = np.diff(before, prepend=-carried)
    return bool((counts % 2).any()), len(quotes) - int(before[-1])


def _wrong_line(path: Path, delimiter: str, escaped: bool) -> tuple[int | None, int]:
    """The first line whose quotes do not match, and how many lines continue a value.

    The line is None if all quotes match. Empty lines are not counted.
    """
    limit = csv.field_size_limit(sys.maxsize)
    line = continued = 0
    try:
        with text_of_file(path, escaped) as stream:
            rows = csv.reader(stream, delimiter=delimiter, strict=True)
            for row in rows:
                if rows.line_num > line + 1:
                    lines = "".join(row).split("\n")
                    continued += sum(bool(each.strip()) for each in lines[1:])
                line = rows.line_num
    except csv.Error:
        return line + 1, continued
    finally:
        csv.field_size_limit(limit)
    return None, continued


def _delimiters_of_lines(path: Path, delimiter: bytes) -> int | None:
    """Number of delimiters in each line that is not empty; None if the lines differ."""
    found: int | None = None
    with io.BufferedReader(opened(path)) as lines:
        for number, line in enumerate(lines):
            if not number and _declares(line):
                continue
            if line.strip():
                count = line.count(delimiter)
                if found not in (None, count):
                    return None
                found = count
    return found


def _declares(line: bytes) -> bool:
    """Whether a first line names the delimiter, and has no values."""
    text = line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    return declared_delimiter(text) is not None


def text_of_file(path: Path, escaped: bool) -> io.TextIOWrapper:
    """A text file for the module `csv`, with doubled quotes instead of escaped ones."""
    source: Any = opened(path)
    if escaped:
        source = pa.PythonFile(RewrittenFile(source, doubled_quotes), mode="r")
    return io.TextIOWrapper(source, encoding="utf-8-sig", newline="")


def doubled_quotes(text: bytes, last: bool) -> tuple[bytes, bytes]:
    r"""Writes `\"` as two quotes, and `\\` before a quote as `\`; see `RewrittenFile`.

    Arrow's own escape character would remove all other backslashes as well.
    """
    # What follows the backslashes at the end comes later.
    end = len(text) if last else len(text.rstrip(b"\\"))
    return _BEFORE_QUOTE.sub(_unescaped, text[:end]), text[end:]


def _unescaped(found: re.Match[bytes]) -> bytes:
    half, odd = divmod(len(found[1]), 2)
    return b"\\" * half + b'"' * (1 + odd)
