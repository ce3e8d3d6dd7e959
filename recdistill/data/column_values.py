"""Conversion of raw column values to ids and numbers; errors name the row."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.errors import DataError
from recdistill.features.raw_numbers import (
    FOR_DECIMAL_COMMAS,
    as_doubles,
    with_decimal_points,
)
from recdistill.features.raw_text import (
    EXACT_BITS,
    BadValueError,
    is_list,
    is_text,
    plain,
    text_of,
    value_at,
)

ColumnType = Literal["text", "integer", "number", "decimal_comma"]


@dataclass(frozen=True)
class Place:
    """Position of some values in their table, for error messages.

    Attributes:
        table: Path of the file or name of the table, as the user gave it.
        column: Name of the column.
        first_row: Row of the first value; rows count from 1, without a header.
        rows: Row of each value, if they are not consecutive.
    """

    table: str
    column: str
    first_row: int = 1
    rows: np.ndarray | None = None

    def error(self, index: int, problem: str, value: Any) -> DataError:
        """Error about the value at `index`."""
        row = self.first_row + index if self.rows is None else self.rows[index]
        return DataError(
            f"{self.table}, column `{self.column}`, row {row}: "
            f"{problem}. Received: {value!r}"
        )

    def type_error(self, problem: str, values: pa.Array) -> DataError:
        """Error about the type of the values."""
        return self.error(0, f"{problem}, not {values.type}", value_at(values, 0))


def ids(values: pa.Array, place: Place) -> pa.Array:
    """Ids as strings, by the rule of `recdistill.features.raw_text`.

    Raises:
        DataError: If an id is missing, empty, a number with a fraction, a boolean, or
            of a nested type.

    Examples:
        >>> ids(pa.array([7.0, 12.0]), Place("items.parquet", "item_id")).to_pylist()
        ['7', '12']
    """
    values = plain(values)
    reject_missing(values, place)
    if pa.types.is_boolean(values.type) or pa.types.is_temporal(values.type):
        raise place.type_error("an id must be text or integer", values)
    try:
        text = text_of(values, whole=True)
    except BadValueError as error:
        value = value_at(values, error.index)
        raise place.error(error.index, f"an id: {error}", value) from None
    reject_missing(text, place)
    blank = pc.equal(pc.utf8_trim_whitespace(text), "")
    _reject_where(blank, text, place, "an id must not be empty")
    return text


def typed(values: pa.Array, kind: ColumnType, place: Place) -> pa.Array:
    """The values of a column in a given type; missing values and "" are null.

    Args:
        values: Text, numbers, booleans, dates or binary values.
        kind: "text"; "integer", which reads "0012" and "12.0" as 12; "number", with the
            prices of `recdistill.features.raw_numbers`; or "decimal_comma", for numbers
            and prices such as "1.299,00".
        place: Position of the values, for errors.

    Raises:
        DataError: If a value cannot be read.

    Examples:
        >>> place = Place("items.csv", "item_id")
        >>> typed(pa.array(["0012", "12.0", ""]), "integer", place).to_pylist()
        [12, 12, None]
    """
    values = plain(values)
    if kind == "decimal_comma":
        return _with_decimal_comma(values, place)
    try:
        if kind == "text":
            return text_of(values)
        if kind == "integer" and pa.types.is_integer(values.type):
            return values
        found = pa.array(doubles(values, place), pa.float64(), from_pandas=True)
        if kind == "number":
            return found
        return _integers(text_of(values), found, place)
    except BadValueError as error:
        value = value_at(values, error.index)
        raise place.error(error.index, str(error), value) from None


def _with_decimal_comma(values: pa.Array, place: Place) -> pa.Array:
    points = with_decimal_points(values) if is_text(values.type) else values
    try:
        return pa.array(as_doubles(points), pa.float64(), from_pandas=True)
    except BadValueError as error:
        raise place.error(
            error.index,
            "must be a number with a decimal comma; a point separates thousands, as in "
            "1.250,00",
            value_at(values, error.index),
        ) from None


def _integers(texts: pa.Array, found: pa.Array, place: Place) -> pa.Array:
    """Integers from their digits, so that large ones are exact."""
    digits = pc.match_substring_regex(texts, r"^\s*[-+]?[0-9]+\s*$")
    others = pc.if_else(digits, pa.scalar(None, pa.float64()), found)
    whole = pc.and_(
        pc.equal(others, pc.floor(others)), pc.less(pc.abs(others), 2.0**53)
    )
    _reject_where(pc.invert(whole), texts, place, "must be a whole number")
    exact = pc.if_else(digits, pc.utf8_trim_whitespace(texts), None)
    exact = pc.replace_substring(exact, "+", "")
    exact = cast_with_row(exact, pa.int64(), place, "a whole number must fit 64 bits")
    return pc.if_else(digits, exact, others.cast(pa.int64()))


def numbers(values: pa.Array, place: Place) -> pa.Array:
    """Finite float32 numbers.

    Raises:
        DataError: If a value is missing, cannot be read, or is infinite or NaN.
    """
    values = plain(values)
    reject_missing(values, place)
    if is_text(values.type):
        values = pc.utf8_trim_whitespace(values)
    wanted = "must be a number"
    if is_text(values.type) and pc.any(pc.match_substring(values, ",")).as_py():
        wanted += f" with a decimal point; {FOR_DECIMAL_COMMAS}"
    doubles = cast_with_row(values, pa.float64(), place, wanted)
    floats = doubles.cast(pa.float32(), safe=False)
    _reject_where(pc.invert(pc.is_finite(floats)), doubles, place, "must be finite")
    return floats


def doubles(values: pa.Array, place: Place) -> np.ndarray:
    """Float64 numbers; NaN if missing.

    Raises:
        DataError: If a value cannot be read as a number.
    """
    try:
        return as_doubles(plain(values))
    except BadValueError as error:
        problem = str(error).removeprefix("it ")
        raise place.error(error.index, problem, value_at(values, error.index)) from None


def scores(values: pa.Array, place: Place) -> pa.Array:
    """Finite float32 numbers; a missing score is null.

    Raises:
        DataError: If a value cannot be read, or is infinite or NaN.
    """
    values = plain(values)
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.float32())
    missing = pc.is_null(values)
    if is_text(values.type):
        missing = pc.or_kleene(missing, pc.equal(values, ""))
        missing = pc.fill_null(missing, True)
    zero = pa.scalar("0" if is_text(values.type) else 0).cast(values.type)
    filled = pc.if_else(missing, zero, values)
    return pc.if_else(missing, pa.scalar(None, pa.float32()), numbers(filled, place))


def relevances(values: pa.Array, place: Place) -> pa.Array:
    """Finite float32 numbers of at least 0; 0 is an item that was not chosen.

    The texts "true" and "false", in any case, are 1 and 0.

    Raises:
        DataError: As `numbers`, and if a value is negative.
    """
    values = plain(values)
    if is_text(values.type):
        lowered = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        for word, number in (("true", "1"), ("false", "0")):
            values = pc.if_else(pc.equal(lowered, word), number, values)
    floats = numbers(values, place)
    _reject_where(
        pc.less(floats, 0),
        floats,
        place,
        "a relevance must be 0 (shown and not chosen) or more; map negative values to "
        "0, or select rows with `dataset.keep`",
    )
    return floats


def weights(values: pa.Array, place: Place) -> pa.Array:
    """Finite float32 numbers of at least 0.

    Raises:
        DataError: As `numbers`, and if a value is negative.
    """
    floats = numbers(values, place)
    _reject_where(pc.less(floats, 0), floats, place, "a weight must not be negative")
    return floats


def reject_duplicates(values: pa.Array, place: Place) -> None:
    """Check that ids are unique.

    Raises:
        DataError: Names the first repeated id and its rows.
    """
    example = first_repeated(values, place.first_row)
    if example is not None:
        raise DataError(
            f"{place.table}, column `{place.column}`: ids must be unique, but "
            f"{example}. Keep one row for each id."
        )


def first_repeated(values: pa.Array, first_row: int = 1) -> str | None:
    """Says in which rows the first repeated id is; None if all ids are unique.

    Args:
        values: The ids; missing ones do not count.
        first_row: Row of the first id.

    Examples:
        >>> first_repeated(pa.array(["u1", "u2", None, "u2"]))
        "'u2' is in rows 2, 4"
    """
    indices = values.dictionary_encode().indices
    codes = pc.fill_null(indices, len(values)).to_numpy(zero_copy_only=False)
    found, counts = np.unique(codes, return_counts=True)
    repeated = found[(counts > 1) & (found < len(values))]
    if not len(repeated):
        return None
    rows = np.flatnonzero(codes == repeated[0])
    listed = ", ".join(str(first_row + row) for row in rows[:5])
    more = ", …" if len(rows) > 5 else ""
    return f"{values[rows[0]].as_py()!r} is in rows {listed}{more}"


def feature(values: pa.Array) -> pa.Array:
    """Feature as read, dictionaries decoded; lists of ids become lists of strings."""
    values = plain(values)
    if pa.types.is_large_string(values.type):
        return values.cast(pa.string())
    if not is_list(values.type):
        return values
    inner = values.type.value_type
    if pa.types.is_integer(inner) or is_text(inner) or pa.types.is_dictionary(inner):
        return values.cast(pa.list_(pa.string()))
    return values


def reject_missing(values: pa.Array, place: Place) -> None:
    """Check that no value is null."""
    if values.null_count:
        index = pc.index(pc.is_null(values), True).as_py()
        raise place.error(index, "must have a value", None)


def _reject_where(bad: pa.Array, shown: pa.Array, place: Place, problem: str) -> None:
    index = pc.index(bad, True).as_py()
    if index >= 0:
        raise place.error(index, problem, value_at(shown, index))


def whole_numbers(values: pa.Array, place: Place, remedy: str = "") -> pa.Array:
    """Floats as int64; a number with a fraction, or too large, is an error.

    Args:
        values: The floats.
        place: Their place, for the errors.
        remedy: Follows "must be a whole number" in the error for a fraction.
    """
    doubles = values.cast(pa.float64())
    fraction = pc.not_equal(doubles, pc.floor(doubles))
    _reject_where(fraction, values, place, f"must be a whole number{remedy}")
    large = pc.greater_equal(pc.abs(doubles), 2.0**53)
    wanted = "must be a 64-bit integer; a float must be below 2**53"
    _reject_where(large, values, place, wanted)
    return doubles.cast(pa.int64())


def reject_rounded(values: pa.Array, place: Place) -> None:
    """Checks that floats of 16 or 32 bits are below the integers that they round.

    Raises:
        DataError: If not.
    """
    size = values.type.bit_width
    if size < 64:
        # Half precision has few compute functions.
        large = pc.greater_equal(
            pc.abs(values.cast(pa.float32())), 2.0 ** EXACT_BITS[size]
        )
        wanted = f"a float of {size} bits must be below 2**{EXACT_BITS[size]}"
        _reject_where(large, values, place, f"{wanted}, because it rounds larger ones")


def cast_with_row(
    values: pa.Array,
    convert: pa.DataType | Callable[[pa.Array], pa.Array],
    place: Place,
    wanted: str,
) -> pa.Array:
    """The values in another type; the error names the first row that does not fit."""
    call = convert if callable(convert) else lambda each: each.cast(convert)
    try:
        return call(values)
    except pa.ArrowInvalid:
        index = _first_failure(values, call)
        raise place.error(index, wanted, value_at(values, index)) from None
    except pa.ArrowNotImplementedError:
        raise place.type_error(wanted, values) from None


def _first_failure(values: pa.Array, convert: Callable[[pa.Array], pa.Array]) -> int:
    """Index of the first value that does not convert, by bisection."""
    good, bad = 0, len(values)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            convert(values[:middle])
            good = middle
        except pa.ArrowInvalid:
            bad = middle
    return bad - 1
