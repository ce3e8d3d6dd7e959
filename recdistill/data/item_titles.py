"""Titles of items: what people read instead of an id."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from recdistill.features.raw_text import is_list, is_text

TITLE_COLUMNS = (
    *("title", "name"),
    *("movie_title", "item_title", "product_title", "item_name", "product_name"),
)
"""Names, in small letters, of the columns with titles; the first that exists counts."""


def is_title(name: str) -> bool:
    """Whether a column of items has titles, by its name in any case.

    Such columns are read even if they are no features.
    """
    return name.lower() in TITLE_COLUMNS


def may_be_title(kind: pa.DataType) -> bool:
    """Whether titles may have a type: one value, or a list of words."""
    return not pa.types.is_nested(kind) or (is_list(kind) and is_text(kind.value_type))


def title_column(names: Iterable[str]) -> str | None:
    """The column of an item table that has the titles; None if there is none.

    Examples:
        >>> title_column(["item_id", "Name", "price"])
        'Name'
    """
    lowered = {name.lower(): name for name in reversed(list(names))}
    return next((lowered[each] for each in TITLE_COLUMNS if each in lowered), None)


def item_titles(items: pa.Table) -> pa.Array | None:
    """Titles of the items as text, "" for a missing one; None if there are none.

    A list of words, as RecBole's `token_seq` has them, is one title.

    Examples:
        >>> item_titles(pa.table({"title": ["Heat", None]})).to_pylist()
        ['Heat', '']
    """
    column = title_column(each.name for each in items.schema if may_be_title(each.type))
    if column is None:
        return None
    texts = items[column].combine_chunks()
    if is_list(texts.type):
        texts = pc.binary_join(texts, " ")
    texts = texts.cast(pa.string())
    return pc.fill_null(texts, "")
