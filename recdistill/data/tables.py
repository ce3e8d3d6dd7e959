"""A folder of Parquet or CSV tables: interactions, items, queries."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from recdistill.data.dataset import Columns, Dataset, nearest
from recdistill.data.streams import (
    Source,
    csv_source,
    feature_table,
    file_digest,
    fingerprint,
    interaction_stream,
    parquet_source,
)
from recdistill.errors import DataError

_SUFFIXES = (".parquet", ".csv")


def read_tables(
    path: str | Path,
    columns: Mapping[str, str] | Columns | None = None,
    *,
    interactions: str = "interactions",
    items: str | None = None,
    queries: str | None = None,
) -> Dataset:
    """Reads a folder of tables.

    A table is `<name>.parquet`, `<name>.csv` (UTF-8, with a header), or a folder
    `<name>/` of such files, read in the order of their names. Ids become strings:
    integers by their digits, `1.0` as `1`. Times stay integers; dates become
    microseconds since 1970. In items and queries, lists of ids become lists of strings.

    Args:
        path: The folder.
        columns: Roles to column names, such as `{"query": "userId"}`; the roles left
            out keep the names of `Columns`.
        interactions: Name of the table, with or without its suffix.
        items: The same. By default `items`, where there is one.
        queries: The same. By default `queries`, where there is one.

    Returns:
        A `Dataset` whose interactions are read anew, block by block, in each pass.

    Raises:
        DataError: If a file or column is missing, a text file is not UTF-8, ids are
            missing or repeated, or (also while iterating) a time, relevance or weight
            is bad. The message gives file, column and row; rows count from 1, without
            the header.
    """
    folder = Path(path)
    roles = Columns.of(columns)
    if not folder.is_dir():
        raise DataError(f"`path` must be a folder of tables. Received: {folder}")
    parts = table_files(folder, interactions)
    item_parts = table_files(folder, items or "items", optional=items is None)
    query_parts = table_files(folder, queries or "queries", optional=queries is None)
    digests = {
        part.relative_to(folder).as_posix(): file_digest(part, text=is_csv(part))
        for part in (*parts, *item_parts, *query_parts)
    }
    return Dataset(
        name=folder.resolve().name,
        columns=roles,
        items=one_feature_table(item_parts, roles.item),
        queries=one_feature_table(query_parts, roles.query),
        fingerprint=fingerprint(digests),
        source=digests,
        stream=interaction_stream(table_sources(parts, roles.names()), roles),
    )


def table_files(folder: Path, name: str, *, optional: bool = False) -> list[Path]:
    """The files of a table of a folder; empty where it is optional and not there.

    Raises:
        DataError: If it is not there, or there twice.
    """
    places = [folder / name, *(folder / f"{name}{suffix}" for suffix in _SUFFIXES)]
    found = [place for place in places if place.exists()]
    if len(found) > 1:
        listed = ", ".join(place.name for place in found)
        raise DataError(f"{folder} has several tables {name!r}: {listed}. Keep one.")
    if not found and optional:
        return []
    if not found:
        there = sorted(each.name for each in folder.iterdir())
        stems = {Path(each).stem for each in there}
        raise DataError(
            f"{folder} has no table {name!r} (looked for {name}.parquet, {name}.csv "
            f"and a folder {name}/).{nearest(name, stems)} The folder holds: "
            f"{', '.join(there) or 'nothing'}."
        )
    return files_of(found[0])


def files_of(place: Path) -> list[Path]:
    """The files of a table: itself, or those of a folder in the order of their names.

    Raises:
        DataError: If it is neither Parquet nor CSV.
    """
    parts = [place]
    if place.is_dir():
        parts = sorted(part for part in place.iterdir() if part.suffix in _SUFFIXES)
    kinds = {part.suffix for part in parts}
    if len(kinds) != 1 or not kinds <= set(_SUFFIXES):
        raise DataError(
            f"{place} must be a Parquet or CSV file, or a folder of files of one of "
            f"the two kinds. Received: {', '.join(sorted(kinds)) or 'no such file'}"
        )
    return parts


def is_csv(path: Path) -> bool:
    """Whether the file is text."""
    return path.suffix == ".csv"


def table_sources(parts: Sequence[Path], text_columns: Sequence[str]) -> list[Source]:
    """The files of one table; what the first CSV file infers holds for all of them."""
    if not is_csv(parts[0]):
        return [parquet_source(part) for part in parts]
    types: dict[str, pa.DataType] = {}
    sources = []
    for part in parts:
        source = csv_source(part, text_columns, types=types)
        types = types or dict(
            zip(source.schema.names, source.schema.types, strict=True)
        )
        sources.append(source)
    return sources


def one_feature_table(parts: Sequence[Path], id_column: str) -> pa.Table | None:
    """Items or queries, checked; None where there is no file.

    Raises:
        DataError: If there are several files, or an id is missing or repeated.
    """
    if not parts:
        return None
    if len(parts) > 1:
        listed = ", ".join(part.name for part in parts)
        raise DataError(f"Items and queries must be one file each. Received: {listed}")
    if is_csv(parts[0]):
        return feature_table(csv_source(parts[0], [id_column], whole=True), id_column)
    return feature_table(parquet_source(parts[0]), id_column)
