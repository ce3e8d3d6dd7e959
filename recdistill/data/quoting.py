"""How a delimited text file uses quotes, decided from the whole file."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recdistill.data.table_streams import READ_BYTES, opened
from recdistill.errors import DataError

_QUOTE = b'"'
_ESCAPED_QUOTE = b'\\"'
_NEAR = 2**16
"""Bytes before a quote in which the beginning of its value is looked for."""


@dataclass(frozen=True)
class Quoting:
    r"""How a file uses quotes.

    Attributes:
        quoted: Whether values may stand in quotes; else a quote is text.
        escaped: Whether a quote inside a quoted value is written `\"`, as Spark and
            MySQL do, and not doubled.
    """

    quoted: bool = True
    escaped: bool = False


def quoting_of(path: Path, delimiter: str) -> Quoting:
    """How a file uses quotes.

    Values in quotes may have line breaks and delimiters. If the quotes do not match,
    and all lines have the same number of delimiters, quotes are text.

    Args:
        path: A text file, UTF-8.
        delimiter: The delimiter, of one byte.

    Raises:
        DataError: If a value begins with a quote that is not closed; names the line.
    """
    escaped, uneven = _scan(path, delimiter.encode())
    if not uneven:
        return Quoting(escaped=escaped)
    line = _wrong_line(path, delimiter, escaped)
    if line is None:
        return Quoting(escaped=escaped)
    if _is_regular(path, delimiter.encode()):
        return Quoting(quoted=False)
    raise DataError(
        f"{path}, line {line}: a value that begins with a quote must end with one, "
        "before a delimiter or the end of the line. Close the quote, or double the "
        "quotes that belong to the text."
    )


def _scan(path: Path, delimiter: bytes) -> tuple[bool, bool]:
    r"""Whether `\"` is a quote inside a value; whether a line has an odd quote."""
    ends = (b"", delimiter, b"\r", b"\n", _QUOTE)
    escaped, uneven, carried = False, False, 0
    before = b""
    with opened(path) as stream:
        while chunk := stream.read(READ_BYTES):
            text, place = before + chunk, -1
            while not escaped and (place := text.find(_ESCAPED_QUOTE, place + 1)) >= 0:
                after = text[place + 2 : place + 3]
                escaped = (
                    after not in ends
                    and text[place - 1 : place] != b"\\"
                    and _is_quoted(text[max(0, place - _NEAR) : place], delimiter)
                )
            before = text[-3:]
            if _QUOTE in chunk or carried:
                found, carried = _odd_lines(chunk, carried)
                uneven |= found
    return escaped, uneven or carried % 2 == 1


def _is_quoted(before: bytes, delimiter: bytes) -> bool:
    """Whether a value that begins with a quote is open at the end of some bytes."""
    begins = max(before.rfind(each + _QUOTE) for each in (delimiter, b"\n", b"\r"))
    ends = max(before.rfind(_QUOTE + each) for each in (delimiter, b"\n", b"\r"))
    return max(begins, -1 + before.startswith(_QUOTE)) > ends


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


def _wrong_line(path: Path, delimiter: str, escaped: bool) -> int | None:
    """The first line whose quotes do not match; None if there is none."""
    limit = csv.field_size_limit(sys.maxsize)
    line = 0
    try:
        with io.TextIOWrapper(opened(path), encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(
                stream,
                delimiter=delimiter,
                strict=True,
                escapechar="\\" if escaped else None,
            )
            for _ in rows:
                line = rows.line_num
    except csv.Error:
        return line + 1
    finally:
        csv.field_size_limit(limit)
    return None


def _is_regular(path: Path, delimiter: bytes) -> bool:
    """Whether all lines that are not empty have the same number of delimiters."""
    with io.BufferedReader(opened(path)) as lines:
        counts = {line.count(delimiter) for line in lines if line.strip()}
    return len(counts) == 1
