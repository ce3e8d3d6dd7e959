"""The first lines of a delimited text file: its delimiter and its header."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from recdistill.data.table_streams import READ_BYTES, opened

DELIMITERS = (",", "\t", "::", "|", ";")
"""Delimiters that are recognised from the header, the preferred one first."""

_RARE_DELIMITERS = ("\x01", "^", "~", " ")
"""Delimiters that are recognised only if they find columns that are wanted."""

_MOST_LINES = 20
"""Lines that are kept, because the streams of many files may be open."""

_LINE_END = re.compile(r"\r\n|\n|\r")
_DECLARED = re.compile(r'"?sep=(.)"?', re.IGNORECASE)


@dataclass(frozen=True)
class FirstLines:
    """The first lines of a delimited text file.

    Attributes:
        lines: Number and text of the lines that are not empty, without a line `sep=X`.
        declared: Delimiter X of a first line `sep=X`, which Excel reads; None without.
    """

    lines: tuple[tuple[int, str], ...]
    declared: str | None = None

    @classmethod
    def of(cls, path: Path) -> FirstLines:
        """The lines at the beginning of a file, UTF-8; gzip and zstd are unpacked."""
        with opened(path) as stream:
            text = stream.read(READ_BYTES).decode("utf-8-sig", errors="replace")
        lines = [*enumerate(_LINE_END.split(text), start=1)]
        declared = declared_delimiter(lines[0][1])
        kept = lines if declared is None else lines[1:]
        filled = (each for each in kept if each[1].strip())
        return cls(tuple(islice(filled, _MOST_LINES)), declared)

    @property
    def skipped(self) -> int:
        """Number of lines at the beginning that are not part of the table."""
        return 0 if self.declared is None else 1

    @property
    def header(self) -> str:
        """The line with the column names; "" without one."""
        return self.lines[0][1] if self.lines else ""

    def delimiter(
        self, wanted: Collection[str] = (), names: Sequence[str] | None = None
    ) -> str:
        """The delimiter, as declared or recognised from the header.

        The delimiter that finds the most `wanted` columns is chosen, then the one with
        the most columns, then the first of them. Without a header, the delimiter that
        gives as many values as there are `names` is chosen first.
        """
        if self.declared is not None:
            return self.declared

        def fit(delimiter: str) -> tuple[int, int]:
            values = split_line(self.header, delimiter)
            found = sum(value in wanted for value in values)
            if names is not None:
                found = int(len(values) == len(names))
            return found, len(values) if found or delimiter in DELIMITERS else 0

        return max(DELIMITERS + _RARE_DELIMITERS, key=fit)

    def is_no_header(self, columns: int, line: int, values: int) -> bool:
        """Whether the first line is probably not the one with the column names.

        Args:
            columns: Number of values in it.
            line: First line with another number of values.
            values: Number of values in that line.
        """
        before = [text for number, text in self.lines if number < line]
        comments = all(text.startswith("#") for text in before)
        return columns == 1 or comments or (len(before) == 1 and values > columns)


def declared_delimiter(line: str) -> str | None:
    """The delimiter X of a line `sep=X`, which Excel reads; None for other lines.

    Example:
        >>> declared_delimiter("sep=;"), declared_delimiter("user_id;item_id")
        (';', None)
    """
    found = _DECLARED.fullmatch(line)
    return found[1] if found else None


def split_line(line: str, delimiter: str) -> list[str]:
    """The values of a line."""
    if len(delimiter) > 1:
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter), [])
