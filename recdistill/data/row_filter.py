"""Filter of interactions by their columns, such as `rating >= 4`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.column_values import Place, doubles
from recdistill.errors import DataError
from recdistill.features.raw_text import (
    BadValueError,
    is_text,
    plain,
    text_of,
    value_at,
)

_OPERATORS: dict[str, Callable[[pa.Array, pa.Scalar], pa.Array]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<=": pc.less_equal,
    ">=": pc.greater_equal,
    "<": pc.less,
    ">": pc.greater,
}
_WHOLE = pa.decimal128(20, 0)
"""Holds all integers of 64 bits, with and without a sign."""

_MOST_DIGITS, _DIGITS = 19, "^[-+]?[0-9]{1,19}$"

_CONDITION = re.compile(
    r"\s*(?:`(?P<quoted>[^`]+)`|(?P<name>[^\W\d][\w.\-]*))"
    r"\s*(?P<operator>==|!=|<=|>=|<|>)"
    r"\s*(?:'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\""
    r"|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))"
    r"\s*(?P<end>$|and\s)"
)


@dataclass(frozen=True)
class Condition:
    """A column compared with a text or a number."""

    column: str
    operator: str
    value: str | float

    def holds(self, values: pa.Array, place: Place) -> np.ndarray:
        """`(rows,)` bool; a missing value never fulfils a condition.

        Raises:
            DataError: If the value is a number and the column is not.
        """
        values, value = self._comparable(plain(values), place), self.value
        if pa.types.is_floating(values.type):
            value = float(value)
        held = _OPERATORS[self.operator](values, pa.scalar(value, values.type))
        return np.asarray(pc.fill_null(held, False))

    def _comparable(self, values: pa.Array, place: Place) -> pa.Array:
        """The values as the type of `value`; missing ones are null."""
        if isinstance(self.value, int):
            if is_text(values.type):  # An empty cell is a missing number.
                blank = pc.equal(pc.utf8_trim_whitespace(values), "")
                values = pc.if_else(blank, pa.scalar(None, values.type), values)
            if _are_whole(values):
                return values.cast(pa.string()).cast(_WHOLE)
        if not isinstance(self.value, str):
            return pa.array(doubles(values, place), pa.float64(), from_pandas=True)
        try:
            return text_of(values)
        except BadValueError as error:
            value = value_at(values, error.index)
            raise place.error(error.index, str(error), value) from None


@dataclass(frozen=True)
class RowFilter:
    """Conditions joined by `and`.

    Example:
        >>> RowFilter.parse("rating >= 4 and `event type` == 'buy'").columns
        ('rating', 'event type')
    """

    conditions: tuple[Condition, ...]

    @classmethod
    def parse(cls, text: str) -> RowFilter:
        """Parses a filter: conditions `column operator value`, joined by `and`.

        The name of a column with spaces is written in backticks. The operators are ==,
        !=, <, <=, > and >=. The value is a number, or text in quotes.

        Raises:
            DataError: If the text is not such a filter.
        """
        conditions, place = [], 0
        while True:
            match = _CONDITION.match(text, place)
            if match is None:
                raise DataError(
                    "`dataset.keep` must be conditions such as rating >= 4 or event == "
                    f"'purchase', joined by `and`. Received: {text!r}, from "
                    f"{text[place:]!r} on"
                )
            number = match["number"]
            words = match["single"] if match["double"] is None else match["double"]
            conditions.append(
                Condition(
                    match["quoted"] or match["name"],
                    match["operator"],
                    words if number is None else _number(number),
                )
            )
            place = match.end()
            if not match["end"]:
                return cls(tuple(conditions))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the conditions."""
        return tuple(condition.column for condition in self.conditions)

    def holds(self, batch: pa.RecordBatch, table: str, first_row: int) -> pa.Array:
        """`(rows,)` bool: the rows that fulfil all conditions.

        Args:
            batch: The rows.
            table: Name of the table, for errors.
            first_row: Number of the first row, for errors.

        Raises:
            DataError: If a column is compared with a number and is not a number.
        """
        held = np.ones(batch.num_rows, bool)
        for condition in self.conditions:
            place = Place(table, condition.column, first_row)
            held &= condition.holds(batch[condition.column], place)
        return pa.array(held)


def _are_whole(values: pa.Array) -> bool:
    """Whether all values are whole numbers of at most 64 bits, or their text."""
    if is_text(values.type):
        return bool(pc.all(pc.match_substring_regex(values, _DIGITS)).as_py())
    return bool(pa.types.is_integer(values.type))


def _number(text: str) -> int | float:
    """A number; a whole one that a float64 may not hold exactly is an integer."""
    number = float(text)
    exact = abs(number) < 2**53 or len(text) > _MOST_DIGITS
    return int(text) if not exact and text.lstrip("+-").isdecimal() else number
