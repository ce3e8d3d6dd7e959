"""Profile of a column: what its values are, judged from a sample."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.column_values import Place
from recdistill.data.item_titles import is_title
from recdistill.data.times import Times
from recdistill.errors import DataError
from recdistill.features.raw_numbers import (
    MISSING,
    SPACES,
    as_doubles,
    list_of,
    vector_of,
)
from recdistill.features.raw_text import (
    BadValueError,
    is_list,
    is_text,
    plain,
    text_of,
    texts_of,
)

Content = Literal[
    "empty",
    "text",
    "integer",
    "number",
    "boolean",
    "date",
    "list",
    "vector",
    "unreadable",
]

TIME_FORMATS = (
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%Y%m%d",
    "%Y-%m-%d %I:%M:%S %p",
    "%Y-%m-%d %I:%M %p",
    "%d-%b-%Y %H:%M:%S",
    "%d-%b-%Y %H:%M",
    "%d-%b-%Y",
    "%d %b %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%d/%m/%y %H:%M",
    "%d/%m/%y",
    "%m/%d/%y %H:%M",
    "%m/%d/%y",
    "%d.%m.%y",
    "%d/%b/%Y:%H:%M:%S %z",
    "%d/%b/%Y:%H:%M:%S",
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S %Z %Y",
)
"""Formats of dates that are recognised in addition to ISO 8601."""

_SEPARATORS = ("|", ";", ",", "/")
_MOST_LOOKED_AT = 20_000
"""Different values of a column that are looked at one by one."""

_LEADING_ZERO = r"^0[0-9]+$"
_CURRENCY = r"\s*(?:[A-Z]{3}|[^\w\s.,;|/+-])?\s*"
_GROUPS = rf"[0-9]{{1,3}}(?:[.{SPACES}][0-9]{{3}})+|[0-9]+"
_DECIMAL_COMMA = rf"^{_CURRENCY}[-+]?(?:{_GROUPS})(?:,[0-9]+)?{_CURRENCY}$"
_SURELY_DECIMAL = r"[^0-9,+-]|^[-+]?0|,0"
_FEWEST_IN_A_VECTOR = 4
T = TypeVar("T")
_DAY = re.compile(r"^(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$")


@dataclass(frozen=True)
class ColumnProfile:
    """What the values of a column are.

    Attributes:
        name: Name of the column.
        content: Kind of the values; "integer" and "number" also for text of numbers,
            "list" and "vector" also for text of lists.
        values: `(rows,)` text of each value, null if it is missing; the text of a list
            is its values, joined.
        parts: Values of all lists, one after another; empty if it is not a list.
        separator: Separator of the values in the text of a list.
        size: Length of the vectors.
        zeros: Whether values have leading zeros, which a number would lose.
        time_format: Format of the dates; None if they need none.
        reason: Why the values cannot be read.
        index: Whether pandas wrote the column as the index of a DataFrame.
    """

    name: str
    content: Content
    values: pa.Array = field(repr=False, compare=False)
    parts: pa.Array = field(
        default_factory=lambda: pa.array([], pa.string()), repr=False, compare=False
    )
    separator: str | None = None
    size: int | None = None
    zeros: bool = False
    time_format: str | None = None
    reason: str = ""
    index: bool = False

    @property
    def rows(self) -> int:
        """Number of values, missing ones included."""
        return len(self.values)

    @cached_property
    def missing(self) -> int:
        """Number of missing values."""
        return int(self.values.null_count)

    @cached_property
    def distinct(self) -> int:
        """Number of different values, without the missing one."""
        return int(pc.count_distinct(self.values, mode="only_valid").as_py())

    @cached_property
    def vocabulary(self) -> int:
        """Number of different values in the lists."""
        return int(pc.count_distinct(self.parts, mode="only_valid").as_py())

    @property
    def all_distinct(self) -> bool:
        """Whether no value occurs twice."""
        return self.distinct == self.rows - self.missing

    @cached_property
    def numbers(self) -> np.ndarray:
        """`(rows,)` float64, NaN if missing, for integers, numbers and booleans."""
        if self.content == "boolean":
            true = pc.equal(pc.utf8_lower(self.values), "true")
            return as_doubles(true.cast(pa.float64()))
        return as_doubles(self.values)

    @cached_property
    def range(self) -> tuple[float, float]:
        """Smallest and largest number."""
        return float(np.nanmin(self.numbers)), float(np.nanmax(self.numbers))

    @property
    def numbers_the_rows(self) -> bool:
        """Whether the values are consecutive integers, each once."""
        if self.content != "integer" or not self.all_distinct or self.missing:
            return False
        low, high = self.range
        return high - low + 1 == self.rows

    @cached_property
    def words(self) -> float:
        """Mean number of words of a value."""
        present = pc.drop_null(self.values).slice(0, _MOST_LOOKED_AT)
        if not len(present):
            return 0.0
        words = pc.list_value_length(pc.utf8_split_whitespace(present))
        return float(pc.mean(words).as_py())

    @cached_property
    def most_frequent(self) -> list[tuple[str, int]]:
        """The values and how often they occur, the most frequent first."""
        counts = pc.value_counts(pc.drop_null(self.values)).to_pylist()
        pairs = [(str(each["values"]), int(each["counts"])) for each in counts]
        return sorted(pairs, key=lambda pair: -pair[1])

    def examples(self, number: int = 3) -> list[str]:
        """The first different values."""
        found = pc.unique(pc.drop_null(self.values).slice(0, 2_000))
        return [str(value) for value in found.slice(0, number).to_pylist()]


def profile_column(name: str, column: pa.ChunkedArray) -> ColumnProfile:
    """Profile of a column.

    Args:
        name: Name of the column.
        column: `(rows,)`, as read from the table.
    """
    values = plain(column.combine_chunks())
    if isinstance(values, pa.ChunkedArray):  # Arrow gives chunks for no rows.
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([])
    if pa.types.is_nested(values.type):
        return _of_lists(name, values)
    try:
        texts = text_of(values)
    except BadValueError as error:
        found = None
        if pa.types.is_floating(values.type):  # No ids, but perhaps quantities.
            found = _of_numbers(name, values.cast(pa.string()))
        blank = pa.nulls(len(values), pa.string())
        return found or ColumnProfile(name, "unreadable", blank, reason=str(error))
    texts = pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), None, texts)
    if texts.null_count == len(texts):
        return ColumnProfile(name, "empty", texts)
    if pa.types.is_boolean(values.type):
        return ColumnProfile(name, "boolean", texts)
    if pa.types.is_temporal(values.type):
        return ColumnProfile(name, "date", texts)
    if is_text(values.type):
        return _of_texts(name, texts)
    found = _of_days(name, texts) or _of_numbers(name, texts)
    return found or ColumnProfile(name, "text", texts)


def _of_lists(name: str, values: pa.Array) -> ColumnProfile:
    blank = pa.nulls(len(values), pa.string())
    try:
        lists = texts_of(values)
    except BadValueError as error:
        return ColumnProfile(name, "unreadable", blank, reason=str(error))
    joined = pc.binary_join(lists, ", ")
    parts = lists.flatten()
    numbers = is_list(values.type) or pa.types.is_fixed_size_list(values.type)
    if numbers and pa.types.is_floating(values.type.value_type):
        size = _one_length(pc.drop_null(pc.list_value_length(lists)).to_pylist())
        if size is not None:
            return ColumnProfile(name, "vector", joined, parts, size=size)
    if not len(parts):
        return ColumnProfile(name, "empty", blank)
    return ColumnProfile(name, "list", joined, parts)


def _of_texts(name: str, texts: pa.Array) -> ColumnProfile:
    found = pc.unique(pc.drop_null(texts)).slice(0, _MOST_LOOKED_AT)
    lowered = set(pc.unique(pc.utf8_lower(found)).to_pylist())
    if lowered <= {"true", "false"}:
        return ColumnProfile(name, "boolean", texts)
    zeros = pc.any(pc.match_substring_regex(found, _LEADING_ZERO)).as_py()
    if zeros:
        return ColumnProfile(name, "text", texts, zeros=True)
    for recognise in (_of_days, _of_numbers, _of_dates, _of_lists_as_text):
        profile = recognise(name, texts)
        if profile is not None:
            return profile
    # A title such as "Knit cap, green, M" is no list, even if its parts are repeated.
    separated = None if is_title(name) else _of_separated(name, texts)
    return separated or ColumnProfile(name, "text", texts)


def _of_days(name: str, texts: pa.Array) -> ColumnProfile | None:
    """Dates such as 20240501."""
    found = pc.unique(pc.drop_null(texts)).slice(0, _MOST_LOOKED_AT).to_pylist()
    if len(found) > 1 and all(_DAY.match(value) for value in found):
        return ColumnProfile(name, "date", texts, time_format="%Y%m%d")
    return None


def _of_numbers(name: str, texts: pa.Array) -> ColumnProfile | None:
    found = pc.unique(pc.drop_null(texts)).slice(0, _MOST_LOOKED_AT)
    try:
        numbers = as_doubles(found)
        as_doubles(pc.unique(pc.drop_null(texts)))
    except BadValueError:
        return None
    missing = np.isnan(numbers)
    if missing.any():
        texts = without_missing_words(texts)
        numbers = numbers[~missing]
    if not len(numbers):
        return None
    if not np.isfinite(numbers).all():
        reason = "it has infinite numbers"
        return ColumnProfile(name, "unreadable", texts, reason=reason)
    whole = bool((numbers == np.floor(numbers)).all())
    return ColumnProfile(name, "integer" if whole else "number", texts)


def without_missing_words(texts: pa.Array) -> pa.Array:
    r"""The texts, null where one means a missing value.

    Examples:
        >>> without_missing_words(pa.array(["u7", "NULL", r"\N"])).to_pylist()
        ['u7', None, None]
    """
    words = pa.array([*sorted(MISSING), r"\n"], pa.string())
    lowered = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
    return pc.if_else(pc.is_in(lowered, words), None, texts)


def _of_dates(name: str, texts: pa.Array) -> ColumnProfile | None:
    texts = without_missing_words(texts)
    found = pc.unique(pc.drop_null(texts)).slice(0, _MOST_LOOKED_AT)
    with suppress(BadValueError):
        as_doubles(found)
        return None  # Times in numbers are numbers.
    for time_format in (None, *TIME_FORMATS):
        if are_times(found.slice(0, 50), time_format) and are_times(found, time_format):
            return ColumnProfile(name, "date", texts, time_format=time_format)
    return None


def are_times(values: pa.Array, time_format: str | None = None) -> bool:
    """Whether the readers can use the values as times."""
    try:
        Times(time_format)(values, Place("", ""))
    except DataError:
        return False
    return True


def _of_lists_as_text(name: str, texts: pa.Array) -> ColumnProfile | None:
    """Texts such as "[27, 9]", "['Action']" or "0.1 0.2 0.3 0.4"."""
    present = pc.drop_null(texts).slice(0, _MOST_LOOKED_AT).to_pylist()
    vectors = _each(vector_of, present)
    if vectors is not None:
        size = _one_length([len(vector) for vector in vectors])
        whole = all(
            float(number).is_integer() for each in vectors[:100] for number in each
        )
        if size is not None and size >= _FEWEST_IN_A_VECTOR and not whole:
            return ColumnProfile(name, "vector", texts, size=size)
    if not all(value.lstrip().startswith("[") for value in present):
        return None
    lists = _each(list_of, present)
    if lists is None:
        reason = "it is the text of a list of lists or of objects"
        return ColumnProfile(name, "unreadable", texts, reason=reason)
    if any(each is None for each in lists):
        return None
    parts = pa.array([part for each in lists for part in each or []], pa.string())
    if not len(parts):
        return ColumnProfile(name, "empty", texts)
    return ColumnProfile(name, "list", texts, parts, separator=",")


def _of_separated(name: str, texts: pa.Array) -> ColumnProfile | None:
    """Texts such as "Action|Drama": short values that occur in many rows."""
    present = pc.drop_null(texts).slice(0, _MOST_LOOKED_AT)
    with_comma = _with_comma(present)
    if len(with_comma):
        reason = (
            f"values such as {with_comma[0].as_py()!r} are lists of numbers, or "
            "numbers with a decimal comma; for these, set the type of the column to "
            "`decimal_comma` in `types` of the table"
        )
        return ColumnProfile(name, "unreadable", texts, reason=reason)
    for separator in _SEPARATORS:
        have = pc.sum(pc.match_substring(present, separator)).as_py() or 0
        links = pc.sum(pc.match_substring(present, "://")).as_py() or 0
        if links or have < max(2, 0.1 * len(present)):
            continue
        parts = pc.utf8_trim_whitespace(
            pc.split_pattern(present, pattern=separator).flatten()
        )
        parts = parts.filter(pc.not_equal(parts, ""))
        different = len(pc.unique(parts))
        words = pc.list_value_length(pc.utf8_split_whitespace(parts))
        if len(parts) and different * 2 <= len(parts) and pc.mean(words).as_py() <= 2:
            return ColumnProfile(name, "list", texts, parts, separator=separator)
    return None


def has_decimal_commas(column: pa.ChunkedArray, quantity: bool = False) -> bool:
    """Whether the texts of a column are numbers such as "12,99 €" and "1.299,00".

    Texts such as "4,5" and "12,7" may be lists of two numbers. They are numbers if the
    column is a quantity, if a value has a currency or a point before the comma, if the
    first or second part of a value is 0 or begins with 0, or if the second parts of all
    values have the same number of digits, at least two.

    Args:
        column: `(rows,)`, as read from the table.
        quantity: Whether the values are known to be quantities, by their name.
    """
    values = plain(column.combine_chunks())
    if not len(values) or not is_text(values.type):
        return False
    texts = pc.unique(pc.drop_null(values)).slice(0, _MOST_LOOKED_AT)
    with_comma = _with_comma(texts)
    if not len(with_comma) or _of_numbers("", texts) is not None:
        return False
    digits = pc.utf8_length(pc.replace_substring_regex(with_comma, r"^.*,|\D+$", ""))
    same = pc.count_distinct(digits).as_py() == 1 and digits[0].as_py() >= 2
    surely = pc.match_substring_regex(with_comma, _SURELY_DECIMAL)
    return bool(quantity or same or pc.any(surely).as_py())


def _with_comma(texts: pa.Array) -> pa.Array:
    """The texts with a comma, if all texts may be numbers with a decimal comma."""
    present = pc.drop_null(without_missing_words(pc.utf8_trim_whitespace(texts)))
    present = present.filter(pc.not_equal(present, ""))
    numbers = pc.all(pc.match_substring_regex(present, _DECIMAL_COMMA)).as_py()
    with_comma = present.filter(pc.match_substring(present, ","))
    return with_comma if numbers else with_comma.slice(0, 0)


def _each(convert: Callable[[str], T], values: Sequence[str]) -> list[T] | None:
    """Each value converted; None if one cannot be converted."""
    try:
        return [convert(value) for value in values]
    except ValueError:
        return None


def _one_length(lengths: Sequence[int]) -> int | None:
    """The length that all lists have; None if they differ."""
    different = set(lengths)
    return different.pop() if len(different) == 1 and min(lengths) > 1 else None
