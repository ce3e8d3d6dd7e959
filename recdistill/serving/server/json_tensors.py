"""JSON bodies of REST requests and answers, as arrays.

A body has the row format (`"instances": [{…}, …]`) or the columnar format
(`"inputs": {…}`). The types come from the signature. Values are not converted: `2.0`
and `"2"` are not accepted for an int32.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from recdistill.serving.server.loaded_model import LoadedSignature
from recdistill.serving.server.request_errors import invalid
from recdistill.serving.server.wire_tensors import STRING, dtype_name

__all__ = ["Body", "columns_as_json", "read_body", "rows_as_json"]

_B64 = "b64"
_DEEPEST = 32


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
        columns = _from_rows if self.in_rows else _from_columns
        named = columns(self.content, signature)
        return [
            _as_array(named[name], info.dtype)
            for name, info in signature.inputs.items()
        ]


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
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise invalid("'signature_name' key must be a string value.")
    given = [key for key in ("instances", "inputs") if key in document]
    if not given:
        raise invalid("Missing 'inputs' or 'instances' key")
    if len(given) > 1:
        raise invalid(
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys"
        )
    content = document[given[0]]
    in_rows = given == ["instances"]
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
    columns = {name: _tokens(name, array) for name, array in outputs.items()}
    parts = {
        name: [_nested(columns[name], array.shape[1:]) for _ in range(len(array))]
        for name, array in outputs.items()
    }
    if len(parts) == 1:
        [rows] = parts.values()
    else:
        names = [json.dumps(name, ensure_ascii=False) for name in parts]
        rows = [
            "{" + ", ".join(map(": ".join, zip(names, row, strict=True))) + "}"
            for row in zip(*parts.values(), strict=True)
        ]
    return _encoded('{"predictions": [' + ", ".join(rows) + "]}")


def columns_as_json(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Writes an answer in the columnar format; a single output has no name.

    Args:
        outputs: Arrays by name.

    Raises:
        RequestError: If the type of an output is not supported.

    Examples:
        >>> columns_as_json({"scores": np.float32([-np.inf, np.nan, 1e7])})
        b'{"outputs": [-Infinity, NaN, 1e+07]}'
    """
    texts = {
        name: _nested(_tokens(name, array), array.shape)
        for name, array in outputs.items()
    }
    if len(texts) == 1:
        [text] = texts.values()
    else:
        pairs = (
            f"{json.dumps(name, ensure_ascii=False)}: {text}"
            for name, text in texts.items()
        )
        text = "{" + ", ".join(pairs) + "}"
    return _encoded('{"outputs": ' + text + "}")


def _from_columns(content: Any, signature: LoadedSignature) -> dict[str, Any]:
    names = list(signature.inputs)
    if not isinstance(content, dict) or _is_bytes(content):
        if len(names) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple "
                "input tensors required as per tensorinfo_map"
            )
        return {names[0]: content}
    for name in names:
        if name not in content:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return content


def _from_rows(content: list[Any], signature: LoadedSignature) -> dict[str, list[Any]]:
    names = list(signature.inputs)
    named = isinstance(content[0], dict) and not _is_bytes(content[0])
    if not named:
        if len(names) > 1:
            raise invalid(
                "instances is a plain list, but expecting list of objects as multiple "
                "input tensors required as per tensorinfo_map"
            )
        return {names[0]: content}
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for place, row in enumerate(content):
        if not isinstance(row, dict) or _is_bytes(row):
            message = f"Expecting object but got list at item {place} of input list"
            raise invalid(message)
        if row.keys() != columns.keys():
            unknown = sorted(row.keys() - columns.keys())
            what = (
                f"{unknown[0]!r} is not an input" if unknown else "inputs are missing"
            )
            raise invalid(
                f"Failed to process element: {place} of 'instances' list, {what}: "
                f"keys must be equal to: {','.join(names)}"
            )
        for name, value in row.items():
            columns[name].append(value)
    return columns


def _as_array(value: Any, number: int) -> np.ndarray:
    shape = _shape(value)
    flat: list[Any] = []
    _flatten(value, shape, 0, flat)
    if number == STRING:
        array = np.empty(len(flat), object)
        array[:] = [_as_bytes(each) for each in flat]
        return array.reshape(shape)
    dtype = np.dtype(tf.as_dtype(number).as_numpy_dtype)
    if dtype.kind == "f" and dtype.itemsize >= 4:
        return _floats(flat, dtype).reshape(shape)
    if dtype.kind in "iu":
        return _integers(flat, dtype).reshape(shape)
    if dtype.kind == "b":
        _require_types(flat, {bool}, number)
        return np.array(flat, bool).reshape(shape)
    message = f"Inputs of the type {dtype_name(number)} cannot be written in JSON."
    raise invalid(message)


def _shape(value: Any) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > _DEEPEST:
            raise invalid(f"Tensors must have at most {_DEEPEST} axes.")
        if not value:
            break
        value = value[0]
    return shape


def _flatten(value: Any, shape: Sequence[int], level: int, flat: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in "
                f"the JSON DOM. Expected at level: {len(shape)}"
            )
        flat.append(value)
        return
    if level >= len(shape):
        message = f"Encountered list at unexpected level: {level} expected < {level}"
        raise invalid(message)
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    if level == len(shape) - 1 and not any(isinstance(v, list) for v in value):
        flat += value
        return
    for each in value:
        _flatten(each, shape, level + 1, flat)


def _floats(flat: list[Any], dtype: np.dtype) -> np.ndarray:
    number = 1 if dtype == np.float32 else 2
    _require_types(flat, {int, float}, number)
    limits = np.finfo(dtype)
    exact = 2 ** (limits.nmant + 1) - 1
    for value in flat:
        lossy = (
            abs(value) > exact
            if type(value) is int
            else math.isfinite(value) and abs(value) > float(limits.max)
        )
        if lossy:
            raise invalid(
                f"Cannot convert JSON value: {_shown(value)} to {dtype_name(number)} "
                "without loss of precision."
            )
    return np.array(flat, dtype)


def _integers(flat: list[Any], dtype: np.dtype) -> np.ndarray:
    number = tf.as_dtype(dtype).as_datatype_enum
    _require_types(flat, {int}, number)
    limits = np.iinfo(dtype)
    for value in flat:
        if not limits.min <= value <= limits.max:
            raise _type_error(value, number)
    return np.array(flat, dtype)


def _require_types(flat: list[Any], types: set[type], number: int) -> None:
    # Types are compared, because `True` is an int in Python.
    if not set(map(type, flat)) <= types:
        raise _type_error(next(v for v in flat if type(v) not in types), number)


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
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict):
        raise _type_error(value, STRING)
    if not _is_bytes(value):
        message = f"JSON Value: {_shown(value)} not formatted correctly for base64 data"
        raise invalid(message)
    try:
        return base64.b64decode(value[_B64], validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _tokens(name: str, array: np.ndarray) -> Iterator[str]:
    """The values as JSON text, in order."""
    flat = array.ravel()
    if array.dtype == object:
        return iter(_strings(flat.tolist(), name.endswith("_bytes")))
    if array.dtype in (np.float32, np.float64):
        return iter(_decimals(flat))
    if array.dtype == bool:
        return iter(["true" if value else "false" for value in flat.tolist()])
    if array.dtype.kind in "iu":
        return iter([str(value) for value in flat.tolist()])
    raise invalid(f"Failed to write JSON value for tensor type: {array.dtype}")


def _strings(values: list[bytes], as_bytes: bool) -> list[str]:
    if as_bytes:
        return [f'{{"{_B64}": "{base64.b64encode(v).decode()}"}}' for v in values]
    # Invalid UTF-8 is written unchanged, as in TensorFlow Serving.
    texts = [value.decode("utf-8", "surrogateescape") for value in values]
    return [json.dumps(text, ensure_ascii=False) for text in texts]


def _decimals(flat: np.ndarray) -> list[str]:
    """Numbers with six digits if that is exact, else with as many as necessary."""
    digits = 9 if flat.dtype == np.float32 else 17
    values = flat.tolist()
    texts = [f"{value:.6g}" for value in values]
    short = np.array(texts, "float64").astype(flat.dtype) if texts else flat
    for place in np.flatnonzero(~np.isfinite(flat)):
        value = values[place]
        named = "NaN" if math.isnan(value) else "Infinity"
        texts[place] = f"-{named}" if value < 0 else named
    for place in np.flatnonzero((short != flat) & np.isfinite(flat)):
        texts[place] = f"{values[place]:.{digits}g}"
    return [
        text if "." in text or "e" in text or text[-1] in "Ny" else f"{text}.0"
        for text in texts
    ]


def _nested(tokens: Iterator[str], shape: Sequence[int]) -> str:
    if not shape:
        return next(tokens)
    return "[" + ", ".join(_nested(tokens, shape[1:]) for _ in range(shape[0])) + "]"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
