"""How the ids of two tables match, and why they do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.column_profile import ColumnProfile
from recdistill.data.column_values import Place, first_repeated, typed
from recdistill.errors import DataError
from recdistill.pipeline.proposal.source_tables import SourceTable


def overlap(column: ColumnProfile, ids: ColumnProfile) -> float:
    """Share of the ids that a column has."""
    different = pc.unique(pc.drop_null(ids.values))
    if not len(different):
        return 0.0
    found = pc.is_in(different, pc.drop_null(column.values))
    return float(pc.mean(found.cast(pa.float64())).as_py())


def has_ids(table: SourceTable, ids: ColumnProfile) -> bool:
    """Whether a table has one row for each of the ids, in a column of this name."""
    column = table.columns.get(ids.name)
    if column is None or column.missing or not column.all_distinct:
        return False
    if overlap(column, ids) > 0:
        return True
    return not table.sample.complete and not has_integer_ids(table, ids)


def has_integer_ids(table: SourceTable, ids: ColumnProfile) -> bool:
    """Whether a table has one row for each of the ids, written as other numbers."""
    column = table.columns.get(ids.name)
    if column is None or column.missing:
        return False
    try:
        of_table, of_rows = as_integers(column), as_integers(ids)
    except DataError:
        return False
    return of_table.all_distinct and overlap(of_table, of_rows) > 0


def as_integers(ids: ColumnProfile) -> ColumnProfile:
    """The ids as they are read with `types`, as whole numbers.

    Raises:
        DataError: If one of them is no whole number.
    """
    texts = ids.values.cast(pa.string())
    integers = typed(texts, "integer", Place("", ids.name))
    return replace(ids, values=integers.cast(pa.string()))


def remedy(column: ColumnProfile, ids: ColumnProfile, least: float) -> str:
    """Under which condition more ids would match; "" if under none.

    Args:
        column: Column of a table.
        ids: The ids.
        least: Share of the ids that would have to match.
    """
    share = overlap(column, ids)
    for change, condition in (
        (pc.utf8_lower, "if upper and lower case were the same"),
        (_one_form, "without spaces at their ends and in one Unicode form"),
    ):
        changed = (replace(e, values=change(_texts(e))) for e in (column, ids))
        if share < (found := overlap(*changed)) and found >= least:
            return condition
    return ""


def similar_ids(ids: ColumnProfile, column: ColumnProfile | None) -> str | None:
    """Says how many ids differ only by spaces or by their Unicode form.

    Args:
        ids: The ids of the interactions.
        column: Those of a table of items or queries.
    """
    arrays = [_texts(each) for each in (ids, column) if each is not None]
    values = pc.unique(pc.drop_null(pa.concat_arrays(arrays)))
    codes = np.asarray(_one_form(values).dictionary_encode().indices)
    counts = np.bincount(codes)
    many = len(codes) - len(counts)
    if not many:
        return None
    first = codes == np.argmax(counts > 1)
    one, other = sorted(values.filter(pa.array(first)).to_pylist(), key=len)[:2]
    # Two forms of Unicode look the same.
    shown = repr if one.strip() == other.strip() else ascii
    return (
        f"{many:,} of {len(codes):,} ids of `{ids.name}` differ{'s' * (many == 1)} "
        "from another one only by spaces at the ends or by the Unicode form, such as "
        f"{shown(one)} and {shown(other)}. They are different ids until they are "
        "written in the same way."
    )


def misfit(
    table: SourceTable, ids: ColumnProfile, rows: str, expected: bool
) -> str | None:
    """Says why a table is not one of items or queries; None if it is just another one.

    Args:
        table: The table.
        ids: The ids.
        rows: Name of the table of interactions.
        expected: Whether the table has the name of such a table.
    """
    column = table.columns.get(ids.name)
    if column is not None:
        if not column.all_distinct:
            return _repeated_id(table, column)
        if column.missing and (expected or overlap(column, ids) > 0):
            return _rows_without_id(table, column)
    found = _other_name(table, ids, rows)
    if found is None and expected:
        found = f"has no column `{ids.name}` with ids of {rows}"
        condition = remedy(column, ids, 0) if column is not None else ""
        found += f"; some would match {condition}" if condition else ""
    return found


def _rows_without_id(table: SourceTable, column: ColumnProfile) -> str:
    many = column.missing
    text = f"has {many:,} row{'s' * (many > 1)} without an id in `{column.name}`"
    if table.sample.complete:
        row = pc.index(pc.is_null(column.values), True).as_py() + 1
        text += f", {'the first of them ' * (many > 1)}row {row:,}"
    return f"{text}; remove {'them' if many > 1 else 'it'} or add the id"


def _repeated_id(table: SourceTable, column: ColumnProfile) -> str:
    text = f"has several rows for the same `{column.name}`"
    example = first_repeated(column.values) if table.sample.complete else None
    return f"{text}: {example}; keep one row for each id" if example else text


def _other_name(table: SourceTable, ids: ColumnProfile, rows: str) -> str | None:
    """Says that the ids are in a column of another name."""
    for name in table.columns:
        if name != ids.name and name.strip() == ids.name.strip():
            return (
                f"has no column `{ids.name}` with ids of {rows}: its column `{name}` "
                "has another name, because of spaces at the ends of the names; remove "
                "the spaces around the names and the values"
            )
    for other in table.columns.values():
        same = other.all_distinct and not other.missing and len(other.values) > 1
        if same and overlap(other, ids) > 0.5:
            return (
                f"calls its ids `{other.name}`, which must have the name `{ids.name}` "
                f"as in {rows}; rename the column to use its features"
            )
    return None


def _texts(ids: ColumnProfile) -> pa.Array:
    return ids.values.cast(pa.string())


def _one_form(texts: pa.Array) -> pa.Array:
    """The texts in Unicode's composed form, without spaces at their ends."""
    return pc.utf8_trim_whitespace(pc.utf8_normalize(texts, form="NFC"))
