"""The tables of a folder, sampled, with the reader that fits them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa

from recdistill.data import read_movielens
from recdistill.data.column_profile import (
    ColumnProfile,
    has_decimal_commas,
    profile_column,
)
from recdistill.data.column_values import Place, typed
from recdistill.data.movielens import movielens_files
from recdistill.data.recbole import atomic_files, atomic_stream
from recdistill.data.table_files import TableFile, files_of, table_name, unreadable
from recdistill.data.table_sample import (
    SAMPLE_ROWS,
    TableSample,
    first_columns,
    sample_file,
    sample_table,
)
from recdistill.errors import ConfigError, DataError
from recdistill.pipeline.proposal import column_names as names

Reader = Literal["tables", "listwise", "movielens", "recbole"]

_NOTES = (".txt", ".dat")
"""Suffixes of files that are tables only if the folder has no other tables."""

_COUNTED = re.compile(
    r"^part-.*$|^(?:train|training|valid|validation|val|dev|test|eval)$|[\d\-_.T:]+"
)
"""What differs in the names of files that belong to one table."""


@dataclass(frozen=True)
class SourceTable:
    """A table and the profiles of its columns.

    Attributes:
        name: Name of the file or folder inside the data folder.
        sample: Some of its rows.
        decimal_commas: Columns with decimal commas; the sample has their numbers.
    """

    name: str
    sample: TableSample
    decimal_commas: frozenset[str] = frozenset()

    @classmethod
    def of(cls, name: str, sample: TableSample) -> SourceTable:
        """A table whose sample may have numbers with decimal commas."""
        rows, found = sample.rows, set()
        for index, column in enumerate(rows.column_names):
            quantity = names.is_quantity(column) or names.are_judgements(column)
            if has_decimal_commas(rows[column], quantity):
                texts = rows[column].combine_chunks()
                with suppress(DataError):
                    values = typed(texts, "decimal_comma", Place(name, column))
                    rows = rows.set_column(index, column, values)
                    found.add(column)
        return cls(name, replace(sample, rows=rows), frozenset(found))

    @property
    def stem(self) -> str:
        """Name of the table for the reader, without the suffix of a file."""
        return table_name(self.sample.place.parent / self.name)

    @cached_property
    def columns(self) -> dict[str, ColumnProfile]:
        """The profile of each column that can be read."""
        rows = self.sample.rows
        found = {name: profile_column(name, rows[name]) for name in rows.column_names}
        for name in self.sample.index & found.keys():
            found[name] = replace(found[name], index=True)
        return found

    @property
    def unreadable(self) -> dict[str, str]:
        """Reason by column, for columns such as those with objects."""
        rows, found = self.sample.rows, dict(self.sample.unreadable)
        for name, profile in self.columns.items():
            kind = rows.schema.field(name).type
            if profile.content == "unreadable" and pa.types.is_nested(kind):
                found[name] = f"{self.name}: {name!r} has the type {kind}"
        return found

    def renamed(self, names: Mapping[str, str]) -> SourceTable:
        """The table with other names for columns of a file without a header."""
        rows = self.sample.rows
        every = tuple(names.get(name, name) for name in rows.column_names)
        sample = replace(self.sample, rows=rows.rename_columns(every), names=every)
        commas = frozenset(names.get(name, name) for name in self.decimal_commas)
        return replace(self, sample=sample, decimal_commas=commas)


@dataclass(frozen=True)
class Source:
    """The tables of a folder.

    Attributes:
        reader: The reader; "listwise" is decided later, from the columns.
        path: Value of `dataset.path`.
        name: Name of the data.
        tables: The tables. For the readers with a layout of their own they are called
            `interactions`, `items` and `queries`.
        problems: Reason by file or folder, for those that cannot be read as a table.
    """

    reader: Reader
    path: Path
    name: str
    tables: tuple[SourceTable, ...]
    problems: dict[str, str]


def open_source(place: Path, without_header: Collection[str] = ()) -> Source:
    """Samples the tables of a folder, or of a single file.

    Args:
        place: The folder or the file.
        without_header: Names of the text files that are known to have no header.

    Raises:
        ConfigError: If one of these names is not that of a table.
        DataError: If there is no table.
    """
    place = _inner(place)
    if not place.exists():
        raise DataError(
            f"FOLDER must be a folder or a file with data. {place}: not found."
        )
    with tempfile.TemporaryDirectory(prefix="recdistill-init-") as scratch:
        if place.is_dir():
            if any(place.glob("*.inter")):
                return _recbole(place, Path(scratch))
            if _is_movielens(place):
                return _movielens(place, Path(scratch))
        source = _tables(place, Path(scratch), without_header)
    listed = [table.name for table in source.tables]
    for name in without_header:
        if name not in (*listed, *source.problems):
            raise ConfigError(
                f"`--header {name}=…` must name a table of {source.path}. Its tables "
                f"are: {', '.join(listed)}."
            )
    return source


def _inner(place: Path) -> Path:
    """The only folder inside a folder, if that has several tables."""
    while place.is_dir():
        inside = [e for e in place.iterdir() if not e.name.startswith(("_", "."))]
        folders = [each for each in inside if each.is_dir()]
        files = [each for each in inside if TableFile(each).kind not in (None, "text")]
        files += [each for each in inside if TableFile(each).suffix in (".csv", ".tsv")]
        if len(folders) != 1 or files or "=" in folders[0].name:
            break
        places = _places(folders[0])
        if len(places) < 2 or _is_one_table(folders[0], places):
            break
        place = folders[0]
    return place


def _tables(place: Path, scratch: Path, without_header: Collection[str]) -> Source:
    places = _places(place) if place.is_dir() else []
    # The reader finds requests by this name; they say nothing about choices.
    places = [each for each in places if table_name(each) != "unlabelled"] or places
    path, name = place, place.resolve().name
    if not place.is_dir() or _is_one_table(place, places):
        whole = place if place.name not in ("", "..") else place.resolve()
        path = whole.parent
        places = [whole]
        # The reader opens tables with these names in any case.
        beside = [p for p in _places(path) if table_name(p) in ("items", "queries")]
        places += [each for each in beside if each.resolve() != whole.resolve()]
        name = _stem(whole)
    tables, problems = [], {}
    for number, each in enumerate(places):
        try:
            known = each.name in without_header
            sample = sample_table(each, scratch / str(number), known)
            if not len(sample.rows):
                raise DataError(f"{each} must have at least one row. Received: none")
            tables.append(SourceTable.of(each.name, sample))
        except DataError as error:
            problems[each.name] = str(error)
    if place.is_dir():
        problems |= _unreadable_files(place, places)
    if not tables:
        raise DataError(next(iter(problems.values()), None) or _nothing(place))
    return Source("tables", path, name, tuple(tables), problems)


def _nothing(place: Path) -> str:
    return (
        f"{place} has no table. Required: CSV, TSV, Parquet or JSON lines files (also "
        ".gz or .zst), folders of such files, a MovieLens folder or RecBole's atomic "
        "files. The folder contains: "
        f"{', '.join(sorted(each.name for each in place.iterdir())) or 'nothing'}."
    )


def _places(folder: Path) -> list[Path]:
    """Files and folders of a folder that may be tables."""
    found, notes = [], []
    for each in sorted(folder.iterdir()):
        if each.name.startswith(("_", ".")):
            continue
        if each.is_dir():
            if _has_files(each):
                found.append(each)
        elif TableFile(each).suffix in _NOTES:
            notes.append(each)
        elif TableFile(each).kind is not None:
            found.append(each)
    return found or notes


def _unreadable_files(folder: Path, places: list[Path]) -> dict[str, str]:
    """What to do with archives and spreadsheets whose content is not there as well."""
    known = {name for place in places for name in (place.name, table_name(place))}
    files = [
        each
        for each in sorted(folder.iterdir())
        if each.name[0] not in "._~" and each.name.partition(".")[0] not in known
    ]
    found = {each.name: unreadable(each) for each in files if each.is_file()}
    return {name: problem for name, problem in found.items() if problem}


def _has_files(folder: Path) -> bool:
    try:
        return bool(files_of(folder))
    except DataError:
        return False


def _is_one_table(folder: Path, places: list[Path]) -> bool:
    """Whether the files of a folder are the files of one table."""
    if any("=" in each.name for each in places):
        return True
    if len(places) < 2 or any(each.is_dir() for each in places):
        return False
    if len({_COUNTED.sub("", _stem(each)).lower() for each in places}) > 1:
        return False
    try:
        files = files_of(folder)
        headers = [set(first_columns(files[k])) for k in (0, len(files) // 2, -1)]
    except DataError:
        return False
    return all(header == headers[0] for header in headers)


def _is_movielens(folder: Path) -> bool:
    files = movielens_files(folder)
    if files is None or not files[0].endswith(".csv"):
        return files is not None
    header = first_columns(TableFile(folder / files[0]))
    return {"userId", "movieId", "rating", "timestamp"} <= {*header}


def _stem(place: Path) -> str:
    return place.name.partition(".")[0]


def _copied(place: Path, names: list[str], scratch: Path) -> tuple[Path, float]:
    """A folder of the same name with smaller files; the share of the first file."""
    folder = scratch / (place.resolve().name or "data")
    folder.mkdir()
    shares = []
    for name in names:
        path, share = sample_file(place / name, folder)
        if path != folder / name:
            (folder / name).symlink_to(path.resolve())
        shares.append(share)
    return folder, shares[0]


def _movielens(place: Path, scratch: Path) -> Source:
    folder, share = _copied(place, list(movielens_files(place) or ()), scratch)
    dataset = read_movielens(folder)
    tables = [_sampled(place, "interactions", dataset.interactions(), share)]
    for name, table in (("items", dataset.items), ("queries", dataset.queries)):
        if table is not None:
            tables.append(SourceTable(name, TableSample(place, table, len(table))))
    return Source("movielens", place, place.resolve().name, tuple(tables), {})


def _recbole(place: Path, scratch: Path) -> Source:
    paths = atomic_files(place)
    folder, share = _copied(place, [path.name for path in paths.values()], scratch)
    names = {".inter": "interactions", ".item": "items", ".user": "queries"}
    tables = []
    for kind, path in paths.items():
        batches = atomic_stream(folder / path.name).read()
        part = share if kind == ".inter" else 1.0
        tables.append(_sampled(place, names[kind], batches, part))
    return Source("recbole", place, paths[".inter"].stem, tuple(tables), {})


def _sampled(
    place: Path, name: str, batches: Iterator[pa.RecordBatch], share: float
) -> SourceTable:
    kept, count = [], 0
    for batch in batches:
        if count < SAMPLE_ROWS:
            kept.append(batch)
        count += batch.num_rows
    rows = pa.Table.from_batches(kept)
    sample = TableSample(place, rows, round(count / share), estimated=share < 1)
    return SourceTable(name, sample)


def shown_path(path: Path) -> str:
    """The path as it is written to the configuration."""
    return os.fspath(path).replace(os.sep, "/")
