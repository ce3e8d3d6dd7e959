"""JSON bodies of REST requests and answers, as arrays.

A body has the row format (`"instances": [{…}, …]`) or the columnar format
(`"inputs": {…}`). The types come from the signature. Values are not converted: `2.0`
and `"2"` are not accepted for an int32.

The parser accepts what TensorFlow Serving's parser accepts. If a key is repeated, its
first value counts. Text may contain bytes that are not UTF-8, but no escape of half a
surrogate pair. A number that overflows a double is an error; one that only overflows a
float becomes infinite.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from recdistill.serving.server.loaded_model import LoadedSignature
from recdistill.serving.server.request_errors import invalid
from recdistill.serving.server.wire_tensors import MOST_AXES, STRING, dtype_name

__all__ = ["Body", "columns_as_json", "memory_of_json", "read_body", "rows_as_json"]

_B64 = "b64"
_TYPES: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}}
"""Types of JSON values by kind of NumPy type. In Python, `True` is also an int."""

_BYTE_BYTES, _VALUE_BYTES, _LIST_BYTES, _OBJECT_BYTES = 8, 128, 80, 240
"""Memory of each byte, comma, list and object of a body, in Python, NumPy and
TensorFlow."""

_BOM = b"\xef\xbb\xbf"

_ESCAPES = re.compile(r"\\(u[dD][89abAB]..\\u[dD][c-fC-F]..|u[dD][89a-fA-F]..|.)")
"""Escapes in JSON: a surrogate pair, half a pair, or another one."""

_MAY_OVERFLOW = re.compile(r"[eE]\+?\d{3}|(?<!\d)\d{200}")
"""Found in every text that has a number above the largest double."""


@dataclass(frozen=True)
class Body:
    """Body of a request, before types are known.

    Attributes:
        signature: Name of the signature; empty for the default signature.
        in_rows: Whether it has the row format.
        content: Value of "instances" or "inputs".
    """

    signature: str
    in_rows: bool
    content: Any

    def values(self, signature: LoadedSignature) -> list[np.ndarray]:
        """Converts the inputs to arrays.

        Args:
            signature: The signature named by the body.

        Returns:
            One array for each input, in the order of the signature.

        Raises:
            RequestError: If an input is missing, has another type or shape, or a row
                has an unknown input.
        """
        if not signature.inputs:
            raise invalid(f"Failed to get input map for signature: {signature.name}")
        first = self.content[0] if self.in_rows else self.content
        named = self.content
        if not isinstance(first, dict) or _is_bytes(first):
            # The only input has no name in the body.
            if len(signature.inputs) > 1:
                raise invalid(
                    f"{'instances' if self.in_rows else 'inputs'} is a plain "
                    "value/list, but expecting an object or a list of objects as "
                    "multiple input tensors required as per tensorinfo_map"
                )
            named = dict.fromkeys(signature.inputs, self.content)
        elif self.in_rows:
            named = _columns(self.content, list(signature.inputs))
        for name in signature.inputs:
            if name not in named:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
        return [
            _as_array(named[name], info.dtype)
            for name, info in signature.inputs.items()
        ]


def memory_of_json(body: bytes) -> int:
    """Estimated memory of a body when it is parsed and converted, in bytes.

    Args:
        body: JSON.

    Examples:
        >>> memory_of_json(b"[],[]")
        328
    """
    return (
        len(body) * _BYTE_BYTES
        + body.count(b",") * _VALUE_BYTES
        + body.count(b"[") * _LIST_BYTES
        + body.count(b"{") * _OBJECT_BYTES
    )


def read_body(body: bytes) -> Body:
    """Parses a body.

    Args:
        body: JSON; `NaN` and `Infinity` are accepted, as in TensorFlow Serving.

    Raises:
        RequestError: If it is not a JSON object with either "instances" or "inputs".

    Examples:
        >>> read_body(b'{"instances": [1, 2]}')
        Body(signature='', in_rows=True, content=[1, 2])
    """
    document = _parsed(body)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise invalid("'signature_name' key must be a string value.")
    in_rows = "instances" in document
    if in_rows and "inputs" in document:
        raise invalid(
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys"
        )
    if not in_rows and "inputs" not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    content = document["instances" if in_rows else "inputs"]
    if in_rows and not isinstance(content, list):
        raise invalid("Expecting 'instances' to be a list/array")
    if in_rows and not content:
        raise invalid("No values in 'instances' array")
    return Body(signature, in_rows, content)


def rows_as_json(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Writes an answer in the row format; a single output has no name.

    Args:
        outputs: Arrays by name, each `(batch, …)`.

    Raises:
        RequestError: If the outputs differ in batch size, or a type is not supported.

    Examples:
        >>> rows_as_json({"scores": np.float32([[1, 0.1]]), "known": np.array([True])})
        b'{"predictions": [{"scores": [1.0, 0.1], "known": true}]}'
    """
    size: int | None = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if size is not None and len(array) != size:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} "
                f"expecting: {size}"
            )
        size = len(array)
    columns = [_as_lists(name, array) for name, array in outputs.items()]
    if len(columns) == 1:
        return _encoded("predictions", columns[0])
    rows = zip(*columns, strict=True)
    return _encoded(
        "predictions", [dict(zip(outputs, row, strict=True)) for row in rows]
    )


def columns_as_json(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Writes an answer in the columnar format; a single output has no name.

    Args:
        outputs: Arrays by name.

    Raises:
        RequestError: If the type of an output is not supported.

    Examples:
        >>> columns_as_json({"scores": np.float32([-np.inf, np.nan, 1e7])})
        b'{"outputs": [-Infinity, NaN, 10000000.0]}'
    """
    columns = {name: _as_lists(name, array) for name, array in outputs.items()}
    single = len(columns) == 1
    return _encoded("outputs", next(iter(columns.values())) if single else columns)


def _columns(content: list[Any], names: list[str]) -> dict[str, list[Any]]:
    """The values of each input in rows."""
    for place, row in enumerate(content):
        if not isinstance(row, dict) or _is_bytes(row):
            raise invalid(
                f"Expecting object but got list at item {place} of input list"
            )
        if row.keys() != set(names):
            unknown = sorted(row.keys() - set(names))
            what = (
                f"{unknown[0]!r} is not an input" if unknown else "an input is missing"
            )
            raise invalid(
                f"Failed to process element: {place} of 'instances' list, {what}: "
                f"keys must be equal to: {','.join(names)}"
            )
    return {name: [row[name] for row in content] for name in names}


def _parsed(body: bytes) -> Any:
    # Bytes that are not UTF-8 become lone surrogates, and bytes again in `_as_bytes`.
    text = body.removeprefix(_BOM).decode("utf-8", "surrogateescape")
    if any(len(found[1]) == 5 for found in _ESCAPES.finditer(text)):
        raise invalid("JSON Parse error: The surrogate pair in string is invalid.")
    try:
        return json.loads(
            text,
            object_pairs_hook=_first_values,
            parse_float=_finite if _MAY_OVERFLOW.search(text) else None,
        )
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error


def _first_values(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"Number too big to be stored in double: {text[:20]}")
    return value


def _as_array(value: Any, number: int) -> np.ndarray:
    array = np.array(value, object)
    if array.ndim > MOST_AXES:
        raise invalid(f"Tensors must have at most {MOST_AXES} axes.")
    flat = array.ravel().tolist()
    if any(isinstance(each, list) for each in flat):
        raise invalid("Encountered list at unexpected level or of unexpected size.")
    if number == STRING:
        return _vectorized(_as_bytes, array)
    dtype = np.dtype(tf.as_dtype(number).as_numpy_dtype)
    types = _TYPES.get(dtype.kind)
    if types is None or dtype == np.float16:
        name = dtype_name(number)
        raise invalid(f"Inputs of the type {name} cannot be written in JSON.")
    wrong = [each for each in flat if type(each) not in types]
    if dtype.kind in "iu" and not wrong:
        limits = np.iinfo(dtype)
        wrong = [each for each in flat if not limits.min <= each <= limits.max]
    if wrong:
        raise _type_error(wrong[0], number)
    if dtype.kind == "f":
        _check_precision(flat, dtype, number)
    with np.errstate(over="ignore"):
        return np.array(flat, dtype).reshape(array.shape)


def _vectorized(function: Callable[[Any], Any], array: np.ndarray) -> np.ndarray:
    # `np.vectorize` takes three times as long.
    values = np.empty(array.size, object)
    values[:] = [function(each) for each in array.ravel().tolist()]
    return values.reshape(array.shape)


def _check_precision(flat: list[float], dtype: np.dtype, number: int) -> None:
    exact = 2 ** (np.finfo(dtype).nmant + 1) - 1
    for value in flat:
        if type(value) is int and abs(value) > exact:
            raise invalid(
                f"Cannot convert JSON value: {_shown(value)} to {dtype_name(number)} "
                "without loss of precision."
            )


def _type_error(value: Any, number: int) -> Exception:
    kinds = {type(None): "Null", bool: "Bool", dict: "Object", str: "String"}
    kind = kinds.get(type(value), "Number")
    return invalid(
        f"JSON Value: {_shown(value)} Type: {kind} is not of expected type: "
        f"{dtype_name(number)}"
    )


def _is_bytes(value: Any) -> bool:
    return (
        isinstance(value, dict) and value.keys() == {_B64} and type(value[_B64]) is str
    )


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if not isinstance(value, dict):
        raise _type_error(value, STRING)
    if not _is_bytes(value):
        raise invalid(
            f"JSON Value: {_shown(value)} not formatted correctly for base64 data"
        )
    text = "".join(value[_B64].split()).rstrip("=.")
    try:
        # The padding is optional, as in TensorFlow Serving.
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _as_lists(name: str, array: np.ndarray) -> Any:
    """The values as nested lists of JSON's types."""
    if array.dtype == object:
        text = _base64 if name.endswith("_bytes") else _text
        return _vectorized(text, array).tolist()
    if array.dtype == np.float32:
        return _decimals(array).tolist()
    if array.dtype == np.float64 or array.dtype.kind in "biu":
        return array.tolist()
    raise invalid(f"Failed to write JSON value for tensor type: {array.dtype}")


def _base64(value: bytes) -> dict[str, str]:
    return {_B64: base64.b64encode(value).decode()}


def _text(value: bytes) -> str:
    # Invalid UTF-8 is written unchanged, as in TensorFlow Serving.
    return value.decode("utf-8", "surrogateescape")


def _decimals(array: np.ndarray) -> np.ndarray:
    """float32 as decimal numbers: six digits if that is exact, else nine."""
    short, full = (
        np.array([f"{value:.{digits}g}" for value in array.ravel().tolist()], "float64")
        for digits in (6, 9)
    )
    exact = short.astype("float32") == array.ravel()
    return np.where(exact, short, full).reshape(array.shape)


def _encoded(key: str, value: Any) -> bytes:
    text = json.dumps({key: value}, ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape")
