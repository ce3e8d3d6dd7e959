"""Reader for RecBole's atomic files: tab-separated tables with types in the header."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.checked_tables import feature_table, interaction_stream
from recdistill.data.dataset import Columns, Dataset
from recdistill.data.delimited_text import TextLayout, text_stream
from recdistill.data.reading_options import ReadingOptions
from recdistill.data.source_files import SourceFiles
from recdistill.data.table_streams import (
    TableStream,
    check_utf8,
    fingerprint,
    reading,
)
from recdistill.errors import DataError

_TYPES = {
    "token": pa.string(),
    "token_seq": pa.list_(pa.string()),
    "float": pa.float64(),
    "float_seq": pa.list_(pa.float64()),
}


class _Field(NamedTuple):
    header: str
    kind: pa.DataType


def read_recbole(
    path: str | Path,
    columns: Mapping[str, str] | Columns | None = None,
    *,
    options: ReadingOptions | None = None,
) -> Dataset:
    """Reader for a folder with `<name>.inter` and, if they exist, `.item` and `.user`.

    The header of each file gives a name and a type for every column. A `token` becomes
    a string, a `token_seq` (separated by spaces) a list of strings, a `float` float64,
    a `float_seq` a list of float64. The type is removed from the column name.

    Args:
        path: The folder. If it has several data sets, the one with the name of the
            folder is read.
        columns: Roles to column names without types, such as `{"relevance": "rating"}`.
        options: How the interactions are read: `keep` and `time_format`.

    Returns:
        A `Dataset`; its times are the integers that `timestamp:float` holds.

    Raises:
        DataError: If there is no `.inter` file, or a header or a value is malformed.

    Reference: Zhao et al. (2021), RecBole.
    """
    folder = Path(path)
    roles = Columns.of(columns)
    paths = atomic_files(folder)
    inter = paths[".inter"]
    for each in paths.values():
        check_utf8(each)
    source = SourceFiles.of({each.name: each for each in paths.values()})
    tables = {
        kind: feature_table([atomic_stream(paths[kind])], id_column)
        for kind, id_column in ((".item", roles.item), (".user", roles.query))
        if kind in paths
    }
    return Dataset(
        name=inter.stem,
        columns=roles,
        items=tables.get(".item"),
        queries=tables.get(".user"),
        fingerprint=fingerprint(source.digests),
        source=source.digests,
        verify=source.verify,
        stream=interaction_stream([atomic_stream(inter, roles)], roles, options),
    )


def atomic_files(folder: Path) -> dict[str, Path]:
    """Atomic files of a folder by suffix: `.inter`, and `.item` and `.user` if present.

    Raises:
        DataError: If there is no `.inter` file, or no rule to choose one of several.
    """
    inter = _inter_file(folder)
    paths = {kind: inter.with_suffix(kind) for kind in (".inter", ".item", ".user")}
    return {kind: path for kind, path in paths.items() if path.is_file()}


def _inter_file(folder: Path) -> Path:
    found = sorted(folder.glob("*.inter"))
    named = [each for each in found if each.stem == folder.resolve().name]
    if len(found) == 1 or named:
        return (named or found)[0]
    listed = ", ".join(each.name for each in found) or "none"
    raise DataError(
        f"`path` must be a folder with one .inter file, or with one that has the name "
        f"of the folder. Received: {folder}, .inter files: {listed}"
    )


def atomic_stream(path: Path, roles: Columns | None = None) -> TableStream:
    """One atomic file; columns with a role stay text, for exact error messages."""
    kinds = _header(path)
    for name in roles.names() if roles else []:
        if name in kinds:
            kinds[name] = kinds[name]._replace(kind=pa.string())
    types = {
        field.header: pa.string() if pa.types.is_list(field.kind) else field.kind
        for field in kinds.values()
    }

    def change(batch: pa.RecordBatch) -> pa.RecordBatch:
        with reading(path):
            return pa.RecordBatch.from_pydict(
                {
                    name: _split(batch.column(index), field.kind)
                    for index, (name, field) in enumerate(kinds.items())
                }
            )

    layout = TextLayout("\t", quoted=False, types=types)
    return replace(text_stream(path, layout=layout).mapped(change), offered=(*kinds,))


def _header(path: Path) -> dict[str, _Field]:
    """Header and type of each column, by name.

    Raises:
        DataError: If a column has no name, no type or an unknown type.
    """
    with reading(path), path.open(encoding="utf-8-sig") as stream:
        headers = stream.readline().rstrip("\r\n").split("\t")
    fields: dict[str, _Field] = {}
    for header in headers:
        name, _, label = header.rpartition(":")
        if not name or label not in _TYPES or name in fields:
            raise DataError(
                f"{path}, header: each column must be written `name:type` once, "
                f"separated by tabs, with one of the types {', '.join(_TYPES)}. "
                f"Received: {header!r}"
            )
        fields[name] = _Field(header, _TYPES[label])
    return fields


def _split(text: pa.Array, kind: pa.DataType) -> pa.Array:
    """Words separated by spaces, if `kind` is a list; empty text is an empty list."""
    if not pa.types.is_list(kind):
        return text
    text = pc.utf8_trim_whitespace(text)
    words = pc.split_pattern_regex(text, pattern=" +")
    none = pa.scalar([], words.type)
    return pc.if_else(pc.equal(text, ""), none, words).cast(kind)
