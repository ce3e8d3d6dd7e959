"""Titles of the items of a version, which commands show beside the ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdistill.data.item_titles import item_titles
from recdistill.export.layout import TITLES


def write_titles(version: Path, ids: Sequence[str], items: pa.Table) -> None:
    """Writes the titles into the folder of a version, if the items have any.

    Args:
        version: The SavedModel's folder.
        ids: Item id of each row.
        items: The table of items.
    """
    titles = item_titles(items)
    if titles is None:
        return
    table = pa.table({"item_id": pa.array(list(ids), pa.string()), "title": titles})
    table = table.filter(pc.not_equal(table["title"], ""))
    (version / TITLES).parent.mkdir(exist_ok=True)
    pq.write_table(table, version / TITLES)


def titles_of(version: Path, ids: Iterable[str]) -> dict[str, str]:
    """Titles of some items by id, without those that have none.

    Args:
        version: The SavedModel's folder.
        ids: Item ids.
    """
    path = version / TITLES
    if not path.is_file():
        return {}
    wanted = pa.array(sorted(set(ids)), pa.string())
    table = pq.read_table(path, filters=pc.field("item_id").isin(wanted))
    columns = (table[name].to_pylist() for name in ("item_id", "title"))
    return dict(zip(*columns, strict=True))
