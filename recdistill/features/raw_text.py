"""Conversion of raw values to text: one rule for ids and categories of all sources.

Text is unchanged. Integers become their digits; floats and decimals with an integer
value become the digits of that integer; booleans become `true` and `false`. Binary
values must be UTF-8; a binary value of a fixed size of 16 bytes is a UUID. Nested
values are errors.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

EXACT_BITS = {16: 11, 32: 24, 64: 53}
"""Of a float with this number of bits, the bits of the integers that are all exact."""

_UUID_BYTES = 16


class BadValueError(ValueError):
    """A value that cannot be converted.

    Attributes:
        index: Position of the value in its column.
    """

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(problem)
        self.index = index


def text_of(values: pa.Array, *, whole: bool = False) -> pa.Array:
    """Text of each value; null and NaN are null.

    Args:
        values: Text, numbers, booleans, dates or binary values.
        whole: Whether a number with a fraction is an error, as for ids.

    Raises:
        BadValueError: If a value is nested, is not UTF-8, or is a float that is too
            large to be exact.

    Example:
        >>> text_of(pa.array([7.0, 6.5, None])).to_pylist()
        ['7', '6.5', None]
        >>> text_of(pa.array([True, False])).to_pylist()
        ['true', 'false']
        >>> text_of(pa.array(["007", "1.0"])).to_pylist()
        ['007', '1.0']
    """
    values = plain(values)
    kind = values.type
    if is_text(kind):
        return _utf8(values)
    if pa.types.is_null(kind) or pa.types.is_integer(kind):
        return values.cast(pa.string())
    if pa.types.is_boolean(kind):
        return values.cast(pa.string())
    if pa.types.is_floating(kind):
        return _of_floats(values, whole)
    if pa.types.is_decimal(kind):
        return _each(values, lambda value: _of_decimal(value, whole))
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == _UUID_BYTES:
        return _each(values, lambda value: str(uuid.UUID(bytes=value)))
    if _is_binary(kind):
        return _each(values, _of_bytes)
    if pa.types.is_temporal(kind):
        return _each(values, str)
    found = pc.index(pc.is_valid(values), True).as_py()
    raise BadValueError(
        max(found, 0), f"it must be one value (text or a number), not {kind}"
    )


def texts_of(values: pa.Array) -> pa.Array:
    """Text of the values of each list: `list<string>`.

    Raises:
        BadValueError: As `text_of`, for the first list with such a value.
    """
    values = plain(values)
    if pa.types.is_fixed_size_list(values.type):
        values = values.cast(pa.list_(values.type.value_type))
    if not is_list(values.type):
        raise BadValueError(0, f"it must be a list, not {values.type}")
    try:
        inner = text_of(values.flatten())
    except BadValueError as error:
        first = _owner(values, error.index)
        raise BadValueError(first, f"in a list: {error}") from None
    length = pc.fill_null(pc.list_value_length(values), 0)
    offsets = pa.concat_arrays(
        [pa.array([0], pa.int64()), pc.cumulative_sum(length.cast(pa.int64()))]
    )
    lists = pa.LargeListArray.from_arrays(offsets, inner)
    return pc.if_else(pc.is_valid(values), lists, pa.scalar(None, lists.type)).cast(
        pa.list_(pa.string())
    )


def value_at(values: pa.Array, index: int) -> Any:
    """The value at an index for a message; a number for a date beyond Python's years.

    Example:
        >>> value_at(pa.array([10**15], pa.timestamp("s")), 0)
        1000000000000000
    """
    if is_period(values.type):
        number = values[index].as_py()
        return f"{number} (a pandas Period; convert them with .dt.to_timestamp())"
    try:
        return values[index].as_py()
    except (OverflowError, ValueError):
        if pa.types.is_temporal(values.type):
            return values[index].value
        return values[index].as_buffer().to_pybytes()


def plain(values: pa.Array) -> pa.Array:
    """The values without dictionaries, run-end encoding, views and extension types.

    Periods of pandas stay as they are: their numbers count from 1970 in a unit of their
    own.
    """
    if isinstance(values, pa.ExtensionArray) and not is_period(values.type):
        values = values.storage
    if pa.types.is_run_end_encoded(values.type):
        values = pc.run_end_decode(values)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string_view(values.type):
        values = values.cast(pa.string())
    if _is_list_view(values.type):
        # Arrow's own cast gives invalid offsets.
        values = pa.array(values.to_pylist(), pa.list_(values.type.value_type))
    return values


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
    )


def is_period(kind: pa.DataType) -> bool:
    """Whether a type is that of the periods of pandas, such as months."""
    return getattr(kind, "extension_name", None) == "pandas.period"


def type_name(kind: pa.DataType) -> str:
    """Name of a column's type in messages: text, integer, float, boolean, list or …"""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    for name, matches in (
        ("text", is_text),
        ("integer", pa.types.is_integer),
        ("float", pa.types.is_floating),
        ("boolean", pa.types.is_boolean),
        ("list", pa.types.is_nested),
    ):
        if matches(kind):
            return name
    return str(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is a list of any length (a map is not)."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_list_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _utf8(texts: pa.Array) -> pa.Array:
    """Text as strings; a writer may have stored other bytes as text."""
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return _each(texts, str)
    texts = texts.cast(pa.string())
    nul = pc.index(pc.match_substring(texts, "\0"), True).as_py()
    if nul >= 0:
        raise BadValueError(nul, "text must not have a NUL character")
    return texts


def _of_floats(values: pa.Array, whole: bool) -> pa.Array:
    # Half precision has few compute functions.
    wide = values if pa.types.is_float64(values.type) else values.cast(pa.float32())
    missing = pc.or_kleene(pc.is_null(values), pc.fill_null(pc.is_nan(wide), True))
    doubles = pc.if_else(missing, 0.0, wide.cast(pa.float64()))
    bits = EXACT_BITS[values.type.bit_width] if whole else 53
    large = pc.greater_equal(pc.abs(doubles), 2.0**bits)
    exact = pc.and_not(pc.equal(doubles, pc.floor(doubles)), large)
    wrong = pc.index(pc.invert(exact) if whole else large, True).as_py()
    if wrong >= 0:
        problem = "it must be a whole number" if whole else "it must be below 2**53"
        raise BadValueError(wrong, f"{problem} that a float holds exactly")
    digits = pc.if_else(exact, doubles, 0.0).cast(pa.int64()).cast(pa.string())
    texts = pc.if_else(exact, digits, wide.cast(pa.string()))
    return pc.if_else(missing, pa.scalar(None, pa.string()), texts)


def _of_decimal(value: Decimal, whole: bool) -> str:
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").removesuffix(".")
    if whole and "." in text:
        raise ValueError("it must be a whole number")
    return text


def _of_bytes(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(
            "a binary value must be UTF-8 text (or a UUID of 16 bytes of fixed size); "
            "write other binary values as text, for example in hexadecimal"
        )
    return text


def _each(values: pa.Array, convert: Callable[..., str]) -> pa.Array:
    texts: list[str | None] = []
    for index, scalar in enumerate(values):
        try:
            value = scalar.as_py()
            texts.append(None if value is None else convert(value))
        except (OverflowError, ValueError) as error:
            raise BadValueError(index, str(error)) from None
    return pa.array(texts, pa.string())


def _owner(lists: pa.Array, index: int) -> int:
    """The list that holds the value at `index` of the flattened lists."""
    end = pc.cumulative_sum(pc.fill_null(pc.list_value_length(lists), 0))
    return int(pc.sum(pc.less_equal(end, index)).as_py() or 0)
