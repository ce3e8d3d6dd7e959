"""Files of a table: finding them, their formats, and opening them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from recdistill.data.dataset import nearest, require_columns
from recdistill.data.delimited_text import TextLayout, text_stream
from recdistill.data.json_lines import json_stream
from recdistill.data.table_streams import (
    TableStream,
    check_utf8,
    compression_of,
    parquet_stream,
)
from recdistill.errors import DataError
from recdistill.features.raw_text import is_list, text_of, texts_of, type_name

_KINDS = {
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".csv": "text",
    ".tsv": "text",
    ".psv": "text",
    ".dat": "text",
    ".txt": "text",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".json": "JSON lines",
}
_ONLY_NAMED = (".dat", ".txt")
"""Suffixes that are ignored in a folder of files, because such files may be notes."""
_UNPACK, _SAVE = "unpack it", "save it as CSV or Parquet"
_REMEDIES = {
    **dict.fromkeys((".zip", ".7z", ".rar", ".tar", ".tgz"), _UNPACK),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods"), _SAVE),
}
"""What to do with a file that may hold a table and cannot be read, by its suffix."""

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class TableFile:
    """One file of a table.

    Attributes:
        path: The file.
        partition: Columns and values in the names of its folders (`day=2024-05-01`);
            None for a missing value.
    """

    path: Path
    partition: dict[str, str | None] = field(default_factory=dict)

    @property
    def kind(self) -> str | None:
        """The kind of the file by its suffix, in any case; None if it is not a table.

        Example:
            >>> TableFile(Path("items.CSV")).kind, TableFile(Path("a.jsonl.gz")).kind
            ('text', 'JSON lines')
        """
        return _KINDS.get(self.suffix)

    @property
    def suffix(self) -> str:
        """The suffix in lower case, without the one of a compression."""
        packed = compression_of(self.path) is not None
        return Path(self.path.stem if packed else self.path.name).suffix.lower()

    def open(
        self,
        use: Collection[str] | None = None,
        delimiter: str | None = None,
        names: Sequence[str] | None = None,
        titles: bool = False,
    ) -> TableStream:
        """The rows as a stream, with the columns of the partition.

        Args:
            use: Columns to read, if the file has them; all by default.
            delimiter: Delimiter of text files; None to recognise it.
            names: Column names in order, if a text file has no header.
            titles: Whether titles of items are read too, unless they are nested.

        Raises:
            DataError: If the file cannot be read, is not a table, or has its own column
                names although `names` are given.
        """
        if names is not None and self.kind != "text":
            raise DataError(
                f"{self.path} must be a text file without a header, because the "
                "configuration gives its column names. Remove `columns` of this table."
            )
        if self.kind == "Parquet":
            stream = parquet_stream(self.path, use, titles)
        elif self.kind == "JSON lines":
            stream = json_stream(self.path, use, titles)
        elif self.kind == "text":
            if delimiter is None and self.suffix == ".tsv":
                delimiter = "\t"
            layout = TextLayout(delimiter, names=names)
            stream = text_stream(self.path, use, layout, titles)
        else:
            raise _not_a_table(self.path)
        added = {
            name: value
            for name, value in self.partition.items()
            if name not in stream.offered and (use is None or name in use)
        }
        return stream.mapped(partial(_with_constants, added)) if added else stream

    def check(self) -> None:
        """Checks that a text file is UTF-8.

        Raises:
            DataError: If the file cannot be read or is not UTF-8.
        """
        if self.kind != "Parquet":
            check_utf8(self.path)


def find_table(folder: Path, name: str, *, optional: bool = False) -> list[TableFile]:
    """Files of a table in a folder; empty if it is optional and does not exist.

    Raises:
        DataError: If a required table does not exist, or a table exists twice.
    """
    found = named_places(folder, name)
    if len(found) > 1:
        listed = ", ".join(place.name for place in found)
        raise DataError(f"{folder} has several tables {name!r}: {listed}. Keep one.")
    if not found and optional:
        return []
    if not found:
        raise _no_table(folder, name)
    return files_of(found[0])


def named_places(folder: Path, name: str) -> list[Path]:
    """The files and folders of a folder that `find_table` finds for a name."""
    return [
        place
        for place in sorted(folder.iterdir())
        if place.name == name or (place.is_file() and _is_named(place, name))
    ]


def table_name(place: Path) -> str:
    """Name of the table that a file or folder holds.

    It is the name of the folder, or that of the file without its suffix and the one of
    a compression.

    Example:
        >>> table_name(Path("items.csv.gz")), table_name(Path("items.2024.csv"))
        ('items', 'items.2024')
    """
    if place.is_dir():
        return place.name
    packed = compression_of(place) is not None
    return Path(place.stem).stem if packed else place.stem


def files_of(place: Path) -> list[TableFile]:
    """Files of a table: the file itself, or all files of a folder in order of path.

    Folders are read with their subfolders; names that begin with `_` or `.` and files
    of other kinds are ignored. Folders named `column=value` are Hive partitions.

    Raises:
        DataError: If there is no table, or the files are of several kinds.
    """
    if not place.is_dir():
        file = TableFile(place)
        if file.kind is None:
            raise _not_a_table(place)
        return [file]
    parts = [
        each
        for each in _inside(place, {})
        if each.kind is not None
        and each.suffix not in _ONLY_NAMED
        # Spark writes a file without a byte where a task had no rows.
        and each.path.stat().st_size > 0
    ]
    kinds = sorted({each.kind or "" for each in parts})
    if len(kinds) != 1:
        raise DataError(
            f"{place} must be a folder of Parquet, CSV or JSON lines files, all of "
            f"one kind. Received: {', '.join(kinds) or 'no such file'}"
        )
    return parts


def read_table(path: Path, columns: Iterable[str] | None = None) -> pa.Table:
    """A table in memory. Columns of text files are unchanged text.

    Args:
        path: A file, or a folder of files.
        columns: Columns to read, which must exist; all columns by default.

    Raises:
        DataError: If the table cannot be read, or a column does not exist.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist.")
    use = None if columns is None else list(columns)
    return whole_table([file.open(use) for file in files_of(path)], use or ())


def whole_table(streams: Sequence[TableStream], required: Iterable[str]) -> pa.Table:
    """The rows of all streams in memory, in their order.

    Raises:
        DataError: If a required column is missing, or the streams differ in columns.
    """
    wanted = list(required)
    for stream in streams:
        require_columns(list(stream.offered), wanted, stream.name)
    return pa.concat_tables(
        pa.Table.from_batches(stream.read(), stream.schema)
        for stream in same_types(streams)
    )


def same_types(
    streams: Sequence[TableStream], apart_from: Collection[str] = ()
) -> list[TableStream]:
    """The streams with one type for each column; text where their types differ.

    Args:
        streams: Files of one table.
        apart_from: Columns that may differ.

    Raises:
        DataError: If a column exists in some streams only, or if it is a list in some.
    """
    streams = _same_columns(streams)
    first, types = streams[0], dict[str, pa.DataType]()
    for stream in streams:
        for name, kind in zip(stream.schema.names, stream.schema.types, strict=True):
            common = _common(types.get(name, kind), kind)
            if common is None and name not in apart_from:
                raise DataError(
                    f"{stream.name} must have the same types as {first.name}. "
                    f"Received: column {name!r} with {kind} instead of {types[name]}"
                )
            types[name] = common or kind
    for name in apart_from:
        types.pop(name, None)
    return [
        stream
        if all(
            types.get(field.name, field.type) == field.type for field in stream.schema
        )
        else stream.mapped(partial(_as_types, types))
        for stream in streams
    ]


def type_notes(streams: Sequence[TableStream]) -> list[str]:
    """One sentence for each column whose type differs between the files of a table."""
    first: dict[str, tuple[str, str]] = {}
    notes: dict[str, str] = {}
    for stream in streams:
        for column in stream.schema:
            kind = type_name(column.type)
            known, name = first.setdefault(column.name, (kind, stream.name))
            if pa.types.is_null(column.type) or known == kind:
                continue
            if known == "null":
                first[column.name] = kind, stream.name
                continue
            notes.setdefault(
                column.name,
                f"The column `{column.name}` is {known} in {name} and {kind} in "
                f"{stream.name}, so equal values may have different text. `types` of "
                "the table, such as `dataset.interactions.types`, sets one type.",
            )
    return [*notes.values()]


def _same_columns(streams: Sequence[TableStream]) -> list[TableStream]:
    """The streams with the same columns in the same order."""
    every = list(dict.fromkeys(n for stream in streams for n in stream.schema.names))
    found = []
    for stream in streams:
        names = stream.schema.names
        for name in every:
            if names.count(name) > 1:
                raise DataError(
                    f"{stream.name} has several columns named {name!r}. Rename one."
                )
            if name not in names and not stream.may_lack_columns:
                other = next(each for each in streams if name in each.schema.names)
                raise DataError(
                    f"{stream.name} must have the same columns as {other.name}. "
                    f"Received: column {name!r} in only one of them. Add the column to "
                    "every file of the table."
                )
        change = partial(_with_columns, every)
        found.append(stream if names == every else stream.mapped(change))
    return found


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type for a column that has two types in different files; None if none."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    lists = [is_list(kind) for kind in (one, other)]
    if all(lists):
        inner = [kind.value_type for kind in (one, other)]
        if all(pa.types.is_floating(k) or pa.types.is_integer(k) for k in inner):
            return pa.list_(pa.float64())
        return pa.list_(pa.string())
    if any(lists):
        return None
    # Numbers can be read from text, and the text of an integer keeps all its digits.
    return pa.string()


def _as_types(
    types: Mapping[str, pa.DataType], batch: pa.RecordBatch
) -> pa.RecordBatch:
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = types.get(name, column.type)
        if kind != column.type and not pa.types.is_null(column.type):
            if pa.types.is_string(kind):
                column = text_of(column)
            elif kind == pa.list_(pa.string()):
                column = texts_of(column)
        columns[name] = column.cast(kind)
    return pa.RecordBatch.from_pydict(columns)


def _with_columns(names: Sequence[str], batch: pa.RecordBatch) -> pa.RecordBatch:
    """The columns in this order, null where the batch lacks one."""
    found = dict(zip(batch.schema.names, batch.columns, strict=True))
    return pa.RecordBatch.from_pydict(
        {name: found.get(name, pa.nulls(batch.num_rows)) for name in names}
    )


def _with_constants(
    values: Mapping[str, str | None], batch: pa.RecordBatch
) -> pa.RecordBatch:
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name, value in values.items():
        columns[name] = pa.repeat(pa.scalar(value, pa.string()), batch.num_rows)
    return pa.RecordBatch.from_pydict(columns)


def _inside(folder: Path, partition: dict[str, str | None]) -> Iterator[TableFile]:
    for place in sorted(folder.iterdir()):
        if place.name.startswith(("_", ".")):
            continue
        if not place.is_dir():
            yield TableFile(place, partition)
            continue
        name, equals, value = place.name.partition("=")
        here = {unquote(name): None if value == _NO_VALUE else unquote(value)}
        yield from _inside(place, partition | (here if equals else {}))


def _is_named(place: Path, name: str) -> bool:
    return table_name(place) == name and TableFile(place).kind is not None


def unreadable(place: Path) -> str | None:
    """Says what to do with an archive or a spreadsheet; None for other files.

    Example:
        >>> unreadable(Path("items.csv.zip"))
        'items.csv.zip is a .zip file, which cannot be read; unpack it.'
    """
    suffix = TableFile(place).suffix
    if suffix not in _REMEDIES:
        return None
    return f"{place} is a {suffix} file, which cannot be read; {_REMEDIES[suffix]}."


def _no_table(folder: Path, name: str) -> DataError:
    places = sorted(folder.iterdir())
    tables = [p for p in places if p.is_dir() or TableFile(p).kind is not None]
    stems = {table_name(place) for place in tables}
    looked_for = f"{name}.parquet, {name}.csv, {name}.jsonl and others"
    if TableFile(folder / name).kind is not None:
        stems, looked_for = {place.name for place in tables}, "a file with this name"
    named = [place for place in places if place.name.startswith(f"{name}.")]
    hints = [f" {hint}" for place in named if (hint := unreadable(place))]
    return DataError(
        f"{folder} has no table {name!r} (looked for {looked_for}, and a folder "
        f"{name}/).{''.join(hints) or nearest(name, stems)} The folder contains: "
        f"{', '.join(place.name for place in places) or 'nothing'}."
    )


def _not_a_table(place: Path) -> DataError:
    known = ", ".join(_KINDS)
    hint = unreadable(place)
    return DataError(
        f"{place} must be a table: a file with one of the suffixes {known} (and .gz or "
        f".zst), or a folder of such files.{f' {hint}' if hint else ''}"
    )
