"""Times of interactions as 64-bit integers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.column_values import (
    Place,
    cast_with_row,
    reject_missing,
    reject_rounded,
    whole_numbers,
)
from recdistill.features.raw_text import is_text, plain, text_of

_MICROSECONDS = pa.timestamp("us")
_MICROSECONDS_UTC = pa.timestamp("us", "UTC")
_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_FIT = "a time must fit 64 bits, in microseconds if it is a date"
_FRACTION = 1_000_000
"""Factor of numbers with a fraction, which are seconds."""
_ZONE_NAME = r"\s*(?:UTC|GMT)$"
_ZONE_OFFSET = r"\s+([-+][0-9]{2}:?[0-9]{2})$"
_BELOW_MICROSECONDS = r"(\.[0-9]{6})[0-9]+"
_NUMBER = r"^[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?$"
_REMEDY = (
    ", like the first of the table; set `dataset.time_format` to the unit of the "
    "numbers if they may have fractions"
)


class Times:
    """Times as int64, in one unit for the whole stream.

    Whole numbers are unchanged. Dates become microseconds since 1970 (UTC if they have
    no time zone), and so do numbers with a fraction, which are seconds. The first
    values of a stream decide which of these it is, so that one date among seconds
    cannot become microseconds.

    Args:
        time_format: Unit of numbers ("s", "ms", "us", "ns"; times become microseconds)
            or format of dates, as for `datetime.strptime`; None to recognise it.
    """

    def __init__(self, time_format: str | None = None) -> None:
        self._format = time_format
        self._parse: Callable[[pa.Array], pa.Array] | None = None
        self._seconds: bool | None = None
        self._dates: bool | None = None

    def __call__(self, values: pa.Array, place: Place) -> pa.Array:
        """Convert the next values.

        Raises:
            DataError: If a time is missing, has a fraction or cannot be read.
        """
        values = plain(values)
        reject_missing(values, place)
        if "%" in (self._format or "") and _is_number(values.type):
            values = text_of(values)  # A date such as 20240501.
        if is_text(values.type):
            return self._from_text(pc.utf8_trim_whitespace(values), place)
        dates = pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)
        if not (dates or _is_number(values.type)):
            raise place.type_error("a time must be integer or date", values)
        self._require_kind(dates, values, place)
        if dates:
            return cast_with_row(values, _microseconds, place, _FIT)
        return self._from_numbers(values, place)

    def _require_kind(self, dates: bool, values: pa.Array, place: Place) -> None:
        """Checks that the values are dates, or numbers, as those before."""
        if self._dates not in (None, dates):
            wanted = "a time must be integer or date, the same in all rows"
            raise place.type_error(wanted, values)
        self._dates = dates

    def _from_numbers(self, values: pa.Array, place: Place) -> pa.Array:
        if pa.types.is_integer(values.type):
            if self._seconds is None and len(values):
                self._seconds = False
            whole = cast_with_row(values, pa.int64(), place, _FIT)
            if self._format == "ns":
                return pc.divide(whole, 1000)
            times = _FRACTION if self._seconds else _UNITS.get(self._format or "", 1)
            scale = partial(pc.multiply_checked, times)
            return cast_with_row(whole, scale, place, _FIT)
        if pa.types.is_floating(values.type):
            reject_rounded(values, place)
        doubles = values.cast(pa.float64())
        factor = _UNITS.get(self._format or "")
        if self._seconds is None and len(doubles):
            found = pc.any(pc.not_equal(doubles, pc.floor(doubles))).as_py()
            self._seconds = bool(found) and self._format is None
        if self._seconds:
            factor = _FRACTION
        if factor is None:
            remedy = _REMEDY if self._format is None else ""
            whole = whole_numbers(doubles, place, remedy)
            return pc.divide(whole, 1000) if self._format == "ns" else whole
        scaled = pc.round(pc.multiply(doubles, float(factor)))
        return cast_with_row(scaled, pa.int64(), place, _FIT)

    def _from_text(self, values: pa.Array, place: Place) -> pa.Array:
        if len(values) == 0:
            return values.cast(pa.int64())
        if self._format is not None and "%" in self._format:
            self._require_kind(True, values, place)
            wanted = f"a time must have the format {self._format!r}"
            return cast_with_row(values, self._strptime, place, wanted)
        if self._parse is None:
            self._parse = _time_parser(values[:1], self._format is not None)
        self._require_kind(self._parse is not _parse_number, values, place)
        if self._parse is _parse_number:
            wanted = "a time must be a whole number, like the first of the table"
            numbers = cast_with_row(values, _parse_number, place, wanted)
            return self._from_numbers(numbers, place)
        wanted = (
            "a time must be a whole number or an ISO 8601 date, in the same form in "
            "all rows; set `dataset.time_format` for other forms"
        )
        return cast_with_row(values, self._parse, place, wanted)

    def _strptime(self, values: pa.Array) -> pa.Array:
        times = []
        for text in values.to_pylist():
            try:
                time = datetime.strptime(text, self._format or "")
            except ValueError as error:
                raise pa.ArrowInvalid(str(error)) from error
            if time.tzinfo is not None:
                time = time.astimezone(UTC).replace(tzinfo=None)
            times.append(np.datetime64(time, "us"))
        return pa.array(np.array(times, "datetime64[us]").astype("int64"))


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    )


def _time_parser(first: pa.Array, number: bool) -> Callable[[pa.Array], pa.Array]:
    if number or pc.match_substring_regex(first, _NUMBER)[0].as_py():
        return _parse_number
    for parse in (_parse_date, _parse_date_with_zone):
        try:
            parse(first)
            return parse
        except pa.ArrowInvalid:
            continue
    return _parse_date


def _parse_number(values: pa.Array) -> pa.Array:
    if not pc.all(pc.match_substring_regex(values, _NUMBER)).as_py():
        raise pa.ArrowInvalid("not a decimal number")  # Arrow also reads 0x10.
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        return values.cast(pa.float64())


def _microseconds(values: pa.Array) -> pa.Array:
    """Dates as microseconds since 1970."""
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("ms"))
    nanoseconds = values.type.unit == "ns"  # The digits below a microsecond are cut.
    in_zone = pa.timestamp("us", values.type.tz)
    return values.cast(in_zone, safe=not nanoseconds).cast(pa.int64())


def _parse_date(values: pa.Array) -> pa.Array:
    return _date(values).cast(_MICROSECONDS).cast(pa.int64())


def _parse_date_with_zone(values: pa.Array) -> pa.Array:
    values = pc.replace_substring_regex(_date(values), _ZONE_NAME, "Z")
    values = pc.replace_substring_regex(values, _ZONE_OFFSET, r"\1")
    return values.cast(_MICROSECONDS_UTC).cast(pa.int64())


def _date(values: pa.Array) -> pa.Array:
    """Texts of dates without the digits below a microsecond."""
    return pc.replace_substring_regex(values, _BELOW_MICROSECONDS, r"\1")
