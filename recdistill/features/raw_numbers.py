"""Parsing of numbers, vectors and lists that a table holds as text."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.features.raw_text import BadValueError, is_text, text_of

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>"})
"""Text, in lower case, that means a missing number."""

FOR_DECIMAL_COMMAS = (
    "a comma separates thousands, as in 1,250.00. For a column with decimal commas, "
    "set its type to `decimal_comma` in `types` of the table"
)
"""Advice for a number such as 4,5."""

_BOOLEANS = {"true": 1.0, "false": 0.0}
_PRICE = re.compile(r"^([-+]?)\s*(?:[^\W\d_]{3}\b|[$€£¥₹₩₽₺₫₪฿])?\s*([-+]?[\d.,]+)$")
_AFTER = re.compile(r"\s*(?:[A-Z]{3}|[$€£¥₹₩₽₺₫₪฿])$")
_THOUSANDS = re.compile(r"^[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?$")
SPACES = r" '\x{2019}\x{a0}\x{202f}"
"""Spaces and apostrophes that separate thousands, for the inside of brackets."""

_GROUPED = rf"([0-9])[{SPACES}]([0-9]{{3}})\b"

_ONE = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan"""
)
_IN_ROW = re.compile(rf"\[\s*(?:{_ONE.pattern})(?:\s+(?:{_ONE.pattern}))+\s*\]")
"""The text of a NumPy array: values with spaces between them, and no commas."""


def number_of(text: str) -> float:
    """The number in a text; prices may have a currency and thousands separators.

    A comma separates thousands and is no decimal sign: of a column with decimal commas,
    1,250 would be another number than 1,25, depending on its last digits only.

    Returns:
        The number; NaN if the text means a missing value (`MISSING`).

    Raises:
        ValueError: If it is not a number, or has a comma that separates no thousands.

    Example:
        >>> number_of("$1,299.00"), number_of("1299.5 €"), number_of("true")
        (1299.0, 1299.5, 1.0)
    """
    text = text.strip()
    lowered = text.lower()
    if lowered in MISSING:
        return float("nan")
    if lowered in _BOOLEANS:
        return _BOOLEANS[lowered]
    if "_" not in text:
        try:
            return float(text)
        except ValueError:
            pass
    match = _PRICE.match(_AFTER.sub("", text))
    if match is None:
        raise ValueError("it must be a number")
    digits = match[1] + match[2]
    if _THOUSANDS.match(digits):
        digits = digits.replace(",", "")
    try:
        return float(digits)
    except ValueError:
        raise ValueError(
            f"it must be a number with a decimal point; {FOR_DECIMAL_COMMAS}"
        ) from None


def with_decimal_points(texts: pa.Array) -> pa.Array:
    """Texts of numbers with decimal commas as texts for `number_of`.

    Points and commas change places; a point, a space or an apostrophe may separate
    thousands.

    Example:
        >>> with_decimal_points(pa.array(["4,5", "1.299,00 €", "1 299,5"])).to_pylist()
        ['4.5', '1,299.00 €', '1299.5']
    """
    for old, new in ((",", "\0"), (".", ","), ("\0", ".")):
        texts = pc.replace_substring(texts, old, new)
    for _ in range(2):  # Neighbouring groups overlap in the first pass.
        texts = pc.replace_substring_regex(texts, _GROUPED, r"\1\2")
    return texts


def vector_of(text: str) -> list[float]:
    """Numbers in a text, in brackets or not, separated by commas or spaces.

    Example:
        >>> vector_of("[0.5, 1]"), vector_of("0.5 1")
        ([0.5, 1.0], [0.5, 1.0])
    """
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("[]", "()", "{}"):
        inner = inner[1:-1]
    return [float(part) for part in re.split(r"[,;\s]+", inner.strip()) if part]


def list_of(text: str) -> list[str] | None:
    """Values of a text that is a list in JSON or Python; None if it is not a list.

    Raises:
        ValueError: If a value of the list is a list or an object.

    Example:
        >>> list_of("['Action', 'Indie']"), list_of("[27, 9]"), list_of("Action")
        (['Action', 'Indie'], ['27', '9'], None)
        >>> list_of("['Action' 'Indie']"), list_of("[27  9]")  # as NumPy writes them
        (['Action', 'Indie'], ['27', '9'])
        >>> list_of("[1. nan 2.5]"), list_of("[007 5]"), list_of("[1-2 3-4]")
        (['1', '2.5'], ['007', '5'], None)
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    values: object
    if _IN_ROW.fullmatch(text):
        # Python would read two texts without a comma as one.
        values = [_value(part) for part in _ONE.findall(text)]
    else:
        values = _parsed(text)
    if not isinstance(values, list):
        return None
    if any(isinstance(value, list | tuple | dict | set) for value in values):
        raise ValueError("a list of lists or objects cannot be categories")
    texts = map(scalar_text, values)
    return [text for text in texts if text is not None]


def scalar_text(value: str | bool | int | float | None) -> str | None:
    """Text of one value of a JSON document, by the rule of `text_of`.

    Returns:
        The text; None if the value is null or NaN.

    Example:
        >>> scalar_text(5.0), scalar_text(True), scalar_text("007"), scalar_text(6.5)
        ('5', 'true', '007', '6.5')
    """
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and abs(value) < 2**53:
        return str(text_of(pa.array([value]))[0])
    return str(value)


def _value(text: str) -> object:
    """A value of a NumPy array; a number with leading zeros stays text."""
    if text[0] in "'\"":
        return _parsed(text)
    if text == "nan":
        return None
    return text if re.match(r"[-+]?0\d", text) else _parsed(text.rstrip("."))


def _parsed(text: str) -> object:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def as_doubles(values: pa.Array) -> np.ndarray:
    """Float64 numbers from numbers, booleans or text; NaN if missing.

    Raises:
        BadValueError: If a value is not a number.
    """
    if not is_text(values.type):
        try:
            doubles = values.cast(pa.float64(), safe=False)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            first = max(pc.index(pc.is_valid(values), True).as_py(), 0)
            raise BadValueError(
                first, f"it must be a number, not {values.type}"
            ) from None
        return np.asarray(doubles.to_numpy(zero_copy_only=False), "float64")
    try:
        found = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return np.asarray(found, "float64")
    except pa.ArrowInvalid:
        return np.asarray(converted(values, number_of, float("nan")), "float64")


def converted(
    values: pa.Array, convert: Callable[[Any], Any], missing: Any
) -> list[Any]:
    """Each value converted; `missing` for null. A failure becomes a BadValueError."""
    results = []
    for index, scalar in enumerate(values):
        try:
            value = scalar.as_py()
            results.append(missing if value is None else convert(value))
        except (OverflowError, TypeError, ValueError) as error:
            raise BadValueError(index, str(error)) from None
    return results
