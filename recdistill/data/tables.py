"""Reader for a folder of Parquet or CSV tables: interactions, items and queries."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from recdistill.data.checked_tables import feature_table, interaction_stream
from recdistill.data.dataset import Columns, Dataset, nearest
from recdistill.data.table_streams import (
    TableStream,
    csv_stream,
    file_digest,
    fingerprint,
    parquet_stream,
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
    """Reader for a folder of tables.

    A table is `<name>.parquet`, `<name>.csv` (UTF-8, with a header), or a folder
    `<name>/` of such files, which are read in alphabetical order. Ids become strings:
    integers by their digits, `1.0` as `1`. Times stay integers; dates become
    microseconds since 1970. In items and queries, lists of ids become lists of strings.

    For tables in memory, see `read_frames`.

    Args:
        path: The folder.
        columns: Roles to column names, such as `{"query": "userId"}`; other roles keep
            the names of `Columns`.
        interactions: Name of the table, with or without its suffix.
        items: Name of the table of items; by default `items`, if it exists.
        queries: Name of the table of queries; by default `queries`, if it exists.

    Returns:
        A `Dataset` whose interactions are read again, block by block, in each pass.

    Raises:
        DataError: If a file or column is missing, a text file is not UTF-8, ids are
            missing or repeated, or (also while iterating) a time, relevance or weight
            is bad. The message names file, column and row; rows count from 1, without
            the header.
    """
    folder = Path(path)
    roles = Columns.of(columns)
    if not folder.is_dir():
        raise DataError(f"`path` must be a folder of tables. Received: {folder}")
    parts = table_files(folder, interactions)
    item_parts = table_files(folder, items or "items", optional=items is None)
    query_parts = table_files(folder, queries or "queries", optional=queries is None)
    digests = digests_of(folder, [*parts, *item_parts, *query_parts])
    return Dataset(
        name=folder.resolve().name,
        columns=roles,
        items=feature_file(item_parts, roles.item),
        queries=feature_file(query_parts, roles.query),
        fingerprint=fingerprint(digests),
        source=digests,
        stream=interaction_stream(table_streams(parts, roles.names()), roles),
    )


def table_files(folder: Path, name: str, *, optional: bool = False) -> list[Path]:
    """Files of a table in a folder; empty if it is optional and does not exist.

    Raises:
        DataError: If a required table does not exist, or a table exists twice.
    """
    places = [folder / name, *(folder / f"{name}{suffix}" for suffix in _SUFFIXES)]
    found = [place for place in places if place.exists()]
    if len(found) > 1:
        listed = ", ".join(place.name for place in found)
        raise DataError(f"{folder} has several tables {name!r}: {listed}. Keep one.")
    if not found and optional:
        return []
    if not found:
        present = sorted(each.name for each in folder.iterdir())
        stems = {Path(each).stem for each in present}
        raise DataError(
            f"{folder} has no table {name!r} (looked for {name}.parquet, {name}.csv "
            f"and a folder {name}/).{nearest(name, stems)} The folder contains: "
            f"{', '.join(present) or 'nothing'}."
        )
    return files_of(found[0])


def files_of(place: Path) -> list[Path]:
    """Files of a table: the file itself, or the files of a folder in order of name.

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


def digests_of(folder: Path, files: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of each file by its path inside the folder."""
    return {
        file.relative_to(folder).as_posix(): file_digest(file, text=_is_csv(file))
        for file in files
    }


def table_streams(
    parts: Sequence[Path], text_columns: Sequence[str]
) -> list[TableStream]:
    """Streams of the files of one table; all CSV files have the types of the first."""
    if not _is_csv(parts[0]):
        return [parquet_stream(part) for part in parts]
    types: dict[str, pa.DataType] = {}
    streams = []
    for part in parts:
        stream = csv_stream(part, text_columns, types=types)
        types = types or dict(
            zip(stream.schema.names, stream.schema.types, strict=True)
        )
        streams.append(stream)
    return streams


def feature_file(parts: Sequence[Path], id_column: str) -> pa.Table | None:
    """Items or queries, checked; None if there is no file.

    Raises:
        DataError: If there are several files, or an id is missing or repeated.
    """
    if not parts:
        return None
    if len(parts) > 1:
        listed = ", ".join(part.name for part in parts)
        raise DataError(f"Items and queries must be one file each. Received: {listed}")
    if _is_csv(parts[0]):
        stream = csv_stream(parts[0], [id_column], one_block=True)
        return feature_table(stream, id_column)
    return feature_table(parquet_stream(parts[0]), id_column)


def _is_csv(path: Path) -> bool:
    return path.suffix == ".csv"
