"""Sample of a table: enough rows to see what its columns hold, in bounded time."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from recdistill.data.dataset import BATCH_ROWS
from recdistill.data.table_files import TableFile, files_of, same_types
from recdistill.data.table_streams import TableStream, compression_of, reading
from recdistill.errors import DataError

SAMPLE_BYTES = 16 << 20
"""Largest number of bytes, unpacked, that are read from a table of text files."""

SAMPLE_ROWS = 8 * BATCH_ROWS
"""Largest number of rows that are read from a Parquet table."""

_HEADER_BYTES = 1 << 16
_MOST_FILES = 8
_MOST_COUNTED = 1_000
"""Parquet files whose rows are counted; more are estimated."""

_BLOCKS = 4
"""Blocks of a large file that are read after its beginning, evenly spread."""

_VALUE = re.compile(
    r"^(?:[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"  # A number,
    r"|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[ T].*)?"  # a date,
    r"|https?://.*|[\[{].*)$"  # a link or a list.
)
_ID = re.compile(r"(?i:(?:[a-z_ -]*[_ -])?ids?)|[a-z]+I[dD]")
"""A column name that few values look like: `id`, `item_id`, `movieId`; not `david`."""


@dataclass(frozen=True)
class TableSample:
    """Some rows of a table, and how many it has.

    Attributes:
        place: The file, or the folder of files.
        rows: Rows of the sample, with the columns that can be read.
        count: Rows of the table.
        estimated: Whether `count` is an estimate, because not all rows were read.
        files: Number of files of the table.
        unreadable: Reason by column, for the columns that cannot be read.
        names: Column names that were given to a file without a header; None if it has
            one.
        index: Columns that pandas wrote as the index of a DataFrame.
    """

    place: Path
    rows: pa.Table
    count: int
    estimated: bool = False
    files: int = 1
    unreadable: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    index: frozenset[str] = frozenset()

    @property
    def complete(self) -> bool:
        """Whether the sample has all rows of the table."""
        return len(self.rows) == self.count and not self.estimated


def sample_table(
    place: Path, scratch: Path, without_header: bool = False
) -> TableSample:
    """Sample of a table.

    Small tables are read as a whole. Of a large text file the beginning and some blocks
    are read, of a large Parquet file the first rows, and of a folder of many files a
    few files from the first to the last.

    Args:
        place: A file, or a folder of files.
        scratch: Empty folder for temporary files.
        without_header: Whether the first line of a text file is known to hold values;
            by default that is seen from the line. The columns of such a file are
            called `column_1`, `column_2`, …

    Raises:
        DataError: If the table cannot be read.
    """
    files = files_of(place)
    last, most = len(files) - 1, min(len(files), _MOST_FILES)
    chosen = {round(last * number / max(most - 1, 1)) for number in range(most)}
    parts = [
        _Part.of(files[number], SAMPLE_BYTES // most, scratch / str(number))
        for number in sorted(chosen)
    ]
    with _original_names(parts):
        for part in parts:
            part.file.check()
        names: list[str] | None = None
        if files[0].kind == "text" and without_header:
            names = _numbered(parts[0].file.open().offered)
        elif files[0].kind == "text":
            names = _names_for_no_header(parts[0])
        streams, unreadable = _readable(parts, names)
        table, sizes = _rows(streams, SAMPLE_ROWS // len(parts), files[0])
    whole = len(parts) == len(files) and all(
        part.complete and ended for part, (_, ended) in zip(parts, sizes, strict=True)
    )
    count, estimated = len(table), False
    if not whole:
        count, estimated = _count(files, parts, [rows for rows, _ in sizes])
    return TableSample(
        place=place,
        rows=table,
        count=max(count, len(table)),
        estimated=estimated,
        files=len(files),
        unreadable=unreadable,
        names=None if names is None else tuple(names),
        index=_index_columns(parts[0].file),
    )


def _index_columns(file: TableFile) -> frozenset[str]:
    """Columns of a Parquet file that pandas describes as the index of a DataFrame."""
    if file.kind != "Parquet":
        return frozenset()
    with reading(file.path):
        metadata = parquet.read_schema(file.path).metadata or {}
    try:
        columns = json.loads(metadata.get(b"pandas", b"{}")).get("index_columns", [])
    except (ValueError, AttributeError):
        return frozenset()
    # A range of numbers is no column, and is described by an object.
    return frozenset(each for each in columns if isinstance(each, str))


def sample_file(path: Path, scratch: Path) -> tuple[Path, float]:
    """A file with the same name that has at most about `SAMPLE_BYTES`.

    Args:
        path: A text file.
        scratch: Folder for the smaller file, which is made if it is needed.

    Returns:
        The file, or `path` itself if it is small, and its share of the whole file.
    """
    part = _Part.of(TableFile(path), SAMPLE_BYTES, scratch)
    return part.file.path, part.share


def first_columns(file: TableFile) -> tuple[str, ...]:
    """Column names of a file, from its beginning.

    Raises:
        DataError: If the file cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="recdistill-") as scratch:
        part = _Part.of(file, _HEADER_BYTES, Path(scratch))
        with _original_names([part]):
            return part.file.open(()).offered


@dataclass(frozen=True)
class _Part:
    """The part of one file that is read.

    Attributes:
        original: The file of the user.
        file: The file to read: a smaller copy of a large text file.
        share: Its share of the bytes of the file.
    """

    original: TableFile
    file: TableFile
    share: float = 1.0

    @property
    def complete(self) -> bool:
        return self.share == 1

    @classmethod
    def of(cls, file: TableFile, budget: int, scratch: Path) -> _Part:
        if file.kind == "Parquet":
            return cls(file, file)
        path = file.path
        with reading(path), pa.OSFile(str(path)) as raw:
            packed = compression_of(path)
            size = raw.size()
            stream = pa.CompressedInputStream(raw, packed) if packed else raw
            head = stream.read(budget + 1)
            if len(head) <= budget:
                return cls(file, file)
            budget //= 2
            blocks = [_lines(head[:budget])]
            used = (
                raw.tell() * len(blocks[0]) // len(head) if packed else len(blocks[0])
            )
            quoted = b'"' in head.partition(b"\n")[2]
            if not packed and (file.kind == "JSON lines" or not quoted):
                # Without quotes a line break cannot be inside a value.
                for number in range(1, _BLOCKS + 1):
                    end = size * number // _BLOCKS
                    start = max(budget, end - budget // _BLOCKS)
                    if end <= start:
                        continue  # Inside the beginning, which has been read.
                    raw.seek(start)
                    block = raw.read(end - start)
                    block = _lines(block[block.find(b"\n") + 1 :])
                    used += len(block)
                    blocks.append(block)
        scratch.mkdir(parents=True, exist_ok=True)
        name = path.stem if packed else path.name
        copy = scratch / name
        copy.write_bytes(b"".join(blocks))
        share = min(used / size, 1 - 1e-9)
        return cls(file, replace(file, path=copy), share)


def _lines(block: bytes) -> bytes:
    """The block without its last line, which may be cut."""
    return block[: block.rfind(b"\n") + 1]


@contextlib.contextmanager
def _original_names(parts: Sequence[_Part]) -> Iterator[None]:
    """Errors name the file of the user instead of the smaller copy."""
    try:
        yield
    except DataError as error:
        raise DataError(_with_original_names(str(error), parts)) from None


def _with_original_names(message: str, parts: Sequence[_Part]) -> str:
    for part in parts:
        message = message.replace(str(part.file.path), str(part.original.path))
    return message


def _names_for_no_header(part: _Part) -> list[str] | None:
    """Names for the columns of a text file whose first line holds values."""
    stream = part.file.open()
    header = stream.offered
    if [*header] == [str(number) for number in range(len(header))]:
        return None  # pandas names columns without names 0, 1, 2, …
    words = [name for name in header if not _VALUE.match(name.strip())]
    values = False
    if len(words) < len(header):
        # Columns may be called 0, 1, 2 or 2024, beside one with the name of an id.
        values = not any(_ID.fullmatch(name.strip()) for name in words)
    elif len(set(header)) == len(header):
        first = next(iter(stream.read()), None)
        values = first is not None and any(
            pc.any(pc.equal(first[name], name)).as_py() for name in header if name
        )
    return _numbered(header) if values else None


def _numbered(header: Sequence[str]) -> list[str]:
    return [f"column_{k + 1}" for k in range(len(header))]


def _readable(
    parts: Sequence[_Part], names: Sequence[str] | None
) -> tuple[list[TableStream], dict[str, str]]:
    """Streams of the columns that can be read; reasons for the other columns.

    Raises:
        DataError: If no column can be read.
    """

    def streams(use: Collection[str] | None) -> list[TableStream]:
        return same_types([part.file.open(use, None, names) for part in parts])

    try:
        return streams(None), {}
    except DataError as error:
        # The columns that are used must be readable, and the same in all files.
        offered = [part.file.open((), None, names).offered for part in parts]
        unreadable: dict[str, str] = {}
        every = dict.fromkeys(name for each in offered for name in each)
        for name in every:
            try:
                for stream in streams([name]):
                    for _ in stream.read():
                        pass
            except DataError as reason:
                unreadable[name] = _with_original_names(str(reason), parts)
        good = [name for name in every if name not in unreadable]
        if not good:
            raise error from None
        return streams(good), unreadable


def _rows(
    streams: Sequence[TableStream], most: int, file: TableFile
) -> tuple[pa.Table, list[tuple[int, bool]]]:
    """The rows of each stream; their number, and whether they are all.

    Text files are small copies; of Parquet files, the first rows are read.
    """
    batches, sizes = [], []
    for stream in streams:
        rows, ended = 0, True
        for batch in stream.read():
            if rows >= most and file.kind == "Parquet":
                ended = False
                break
            batches.append(batch)
            rows += batch.num_rows
        sizes.append((rows, ended))
    return pa.Table.from_batches(batches, streams[0].schema), sizes


def _count(
    files: Sequence[TableFile], parts: Sequence[_Part], rows: Sequence[int]
) -> tuple[int, bool]:
    """Number of rows of all files, and whether it is an estimate."""
    if files[0].kind == "Parquet" and len(files) <= _MOST_COUNTED:
        return sum(_parquet_rows(file.path) for file in files), False
    sizes = [part.original.path.stat().st_size for part in parts]
    if files[0].kind == "Parquet":
        counted = float(sum(_parquet_rows(part.original.path) for part in parts))
        read = float(sum(sizes))
    else:
        counted = float(sum(rows))
        read = sum(size * part.share for size, part in zip(sizes, parts, strict=True))
    total = sum(file.path.stat().st_size for file in files)
    return round(counted * total / max(read, 1)), True


def _parquet_rows(path: Path) -> int:
    with reading(path):
        return int(parquet.read_metadata(path).num_rows)
