"""Kind of feature for a column, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recdistill.data.column_profile import ColumnProfile
from recdistill.data.item_titles import is_title
from recdistill.pipeline.proposal import column_names as names

_FEW_DATES = 50
_FEW_NUMBERS = 20
_FEW_WORDS = 16
_MANY_WORDS = 64
_LONG = 1e9
"""Integers from which different values in all rows identify the rows."""

_TEXT_WORDS = 1.5
"""Mean number of words from which a text is free text."""


@dataclass(frozen=True)
class Kind:
    """A proposed feature, or the reason why a column is left out.

    Attributes:
        keys: Keys of the feature; None if the column is left out.
        reason: Why.
    """

    keys: dict[str, Any] | None
    reason: str

    @classmethod
    def left_out(cls, reason: str) -> Kind:
        """A column that is no feature."""
        return cls(None, reason)


def propose_kind(profile: ColumnProfile, lacking: bool = False) -> Kind:
    """Kind of feature for a column.

    Args:
        profile: Profile of the column.
        lacking: Whether an id may have no row in the table of the column.
    """
    kind = _kind(profile)
    if kind.keys is None:
        return kind
    reason = kind.reason
    if profile.missing:
        share = profile.missing / profile.rows
        reason += f"; {share:.1%} missing"
    if (lacking or profile.missing) and kind.keys["kind"] != "categories":
        return Kind({**kind.keys, "optional": True}, reason)
    return Kind(kind.keys, reason)


def _kind(profile: ColumnProfile) -> Kind:
    if profile.content == "unreadable":
        return Kind.left_out(f"cannot be read: {profile.reason}")
    if profile.content == "empty" or profile.distinct == 0:
        return Kind.left_out("has no values")
    if profile.distinct == 1 and not profile.missing:
        return Kind.left_out(f"has one value: {shortened(profile.examples(1)[0])}")
    if _is_index(profile):
        return Kind.left_out("the index of a DataFrame, which numbers its rows")
    if profile.numbers_the_rows and not names.is_quantity(profile.name, counts=False):
        return Kind.left_out("numbers the rows: consecutive, each value once")
    return _KINDS[profile.content](profile)


def _is_index(profile: ColumnProfile) -> bool:
    """Whether a column is the index of a DataFrame.

    That of a filtered DataFrame has gaps, and that of an exploded one has repeats. An
    index with a name may be data, such as a date, unless it numbers the rows.
    """
    if names.is_index(profile.name):
        return profile.content == "integer"
    numbers = profile.content == "integer" and profile.all_distinct
    return profile.index and numbers and not names.is_quantity(profile.name, False)


def _of_list(profile: ColumnProfile) -> Kind:
    if profile.vocabulary == 1:
        return Kind.left_out(f"has one value: {shortened(str(profile.parts[0]))}")
    if profile.vocabulary * 1.5 > len(profile.parts):
        return Kind.left_out(
            f"nearly every value is in one row only ({profile.vocabulary:,} values)"
        )
    if profile.vocabulary > profile.rows:
        return Kind.left_out(
            f"has more different values ({profile.vocabulary:,}) than rows "
            f"({profile.rows:,}), as the words of a text do"
        )
    keys: dict[str, Any] = {"kind": "categories"}
    how = "lists"
    if profile.separator is not None:
        keys["separator"] = profile.separator
        how = f"values separated by {profile.separator!r}"
        if profile.examples(1)[0].lstrip().startswith("["):
            how = "the text of lists"
    return Kind(keys, f"{how}; {profile.vocabulary:,} different values")


def _of_vector(profile: ColumnProfile) -> Kind:
    size = profile.size or 0
    return Kind({"kind": "vector", "size": size}, f"always {size} numbers")


def _of_boolean(profile: ColumnProfile) -> Kind:
    return Kind({"kind": "category"}, "true or false")


def _of_date(profile: ColumnProfile) -> Kind:
    present = profile.rows - profile.missing
    if profile.distinct <= _FEW_DATES and profile.distinct * 3 <= present:
        return Kind({"kind": "category"}, f"{profile.distinct} different dates")
    return Kind.left_out("dates: no kind of feature reads them; add a number of days")


def _of_number(profile: ColumnProfile) -> Kind:
    low, high = profile.range
    return Kind(
        {"kind": "number"}, f"numbers from {shown_number(low)} to {shown_number(high)}"
    )


def _of_integer(profile: ColumnProfile) -> Kind:
    long = profile.all_distinct and profile.range[1] >= _LONG
    if names.is_code(profile.name) or profile.distinct == 1 or long:
        return _of_codes(profile)
    present = profile.rows - profile.missing
    few = profile.distinct <= _FEW_NUMBERS and profile.distinct * 3 <= present
    group = names.is_group(profile.name) and profile.distinct * 2 <= present
    if group or (few and not names.is_quantity(profile.name)):
        return Kind({"kind": "category"}, f"{profile.distinct:,} different codes")
    return _of_number(profile)


def _of_codes(profile: ColumnProfile) -> Kind:
    present = profile.rows - profile.missing
    if profile.all_distinct and present > 1:
        return Kind.left_out("identifies the row: every value is different")
    if profile.distinct * 2 > present:
        return Kind.left_out(
            f"nearly every row has its own value ({profile.distinct:,} in "
            f"{present:,} rows)"
        )
    if profile.distinct == 1:
        return Kind({"kind": "category"}, "one value or none")
    zeros = ", with leading zeros" if profile.zeros else ""
    return Kind({"kind": "category"}, f"{profile.distinct:,} different values{zeros}")


def _of_text(profile: ColumnProfile) -> Kind:
    present = profile.rows - profile.missing
    few = profile.distinct <= _FEW_DATES and profile.distinct * 3 <= present
    if not is_title(profile.name) and (few or profile.words < _TEXT_WORDS):
        return _of_codes(profile)
    keys: dict[str, Any] = {"kind": "text"}
    if profile.words > _FEW_WORDS:
        keys["length"] = _MANY_WORDS
    return Kind(keys, f"free text, {shown_mean(profile.words)} words on average")


_KINDS = {
    "text": _of_text,
    "integer": _of_integer,
    "number": _of_number,
    "boolean": _of_boolean,
    "date": _of_date,
    "list": _of_list,
    "vector": _of_vector,
}


def shown_number(number: float) -> str:
    """A number without an exponent: 1990, 0.25 and 1,250,000."""
    return f"{number:,.0f}" if 1e6 <= abs(number) < 1e15 else f"{number:g}"


def shown_mean(number: float) -> str:
    """A mean with three digits, or as a whole number: 2.88 and 10,000."""
    return f"{number:,.0f}" if number >= 1_000 else f"{number:.3g}"


def shortened(text: str, most: int = 24) -> str:
    """The text with at most this number of characters, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
