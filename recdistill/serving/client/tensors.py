"""Conversion between NumPy arrays and tensors in protocol buffers and JSON.

Strings are `str` in object arrays, and UTF-8 in messages.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recdistill.serving.client.messages import TensorProto

__all__ = ["DTYPES", "VALUE_FIELDS", "from_json", "from_proto", "to_proto"]

_STRING = 7

DTYPES: dict[int, str] = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    _STRING: "string",
    9: "int64",
    10: "bool",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
"""NumPy's name of each data type, or "string", by TensorFlow's number."""

_NUMBERS = {name: number for number, name in DTYPES.items()}

VALUE_FIELDS: dict[str, str] = {
    "float32": "float_val",
    "float64": "double_val",
    "float16": "half_val",
    "string": "string_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    **dict.fromkeys(("int8", "int16", "int32", "uint8", "uint16"), "int_val"),
}
"""Field of a `TensorProto` that holds the values of a data type."""


def to_proto(value: np.ndarray) -> Any:
    """Converts an array to a `TensorProto`.

    Args:
        value: Of a type in `DTYPES`; an array of `str` or objects is text.

    Raises:
        ValueError: If the type is unsupported or an object is not `str` or `bytes`.

    Examples:
        >>> to_proto(np.array([["größe"]], object)).string_val[0].decode()
        'größe'
    """
    proto = TensorProto()
    for size in value.shape:
        proto.tensor_shape.dim.add(size=size)
    if value.dtype.kind in "OUS":
        proto.dtype = _STRING
        proto.string_val.extend(_as_bytes(each) for each in value.ravel().tolist())
    elif value.dtype.name in _NUMBERS:
        proto.dtype = _NUMBERS[value.dtype.name]
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        proto.tensor_content = little.tobytes()
    else:
        raise ValueError(
            f"`value` must have one of the types {sorted(_NUMBERS)}. "
            f"Received: {value.dtype.name}"
        )
    return proto


def from_proto(proto: Any) -> np.ndarray:
    """Converts a `TensorProto`, official or ours, to an array.

    As in TensorFlow, the last value fills the rest of the shape.

    Raises:
        ValueError: If the type is unsupported or the values do not fill the shape.
    """
    name = DTYPES.get(proto.dtype)
    if name is None:
        raise ValueError(
            f"`proto` must have one of the types {sorted(_NUMBERS)}. "
            f"Received: number {proto.dtype}"
        )
    shape = [dim.size for dim in proto.tensor_shape.dim]
    size = int(np.prod(shape, dtype="int64"))
    if name == "string":
        flat = np.empty(len(proto.string_val), object)
        flat[:] = [each.decode("utf-8", "replace") for each in proto.string_val]
    elif proto.tensor_content:
        # Copied by `astype` below, because an array over bytes is read-only.
        flat = np.frombuffer(proto.tensor_content, np.dtype(name).newbyteorder("<"))
        flat = flat.astype(name)
    else:
        values = np.array(getattr(proto, VALUE_FIELDS[name]))
        half = name == "float16"
        flat = values.astype("uint16").view("float16") if half else values.astype(name)
    if 0 < len(flat) < size:
        flat = np.concatenate([flat, np.repeat(flat[-1:], size - len(flat))])
    if len(flat) != size:
        raise ValueError(
            f"`proto` must hold {size} values for the shape {shape}. "
            f"Received: {len(flat)}"
        )
    return flat.reshape(shape)


def from_json(value: object, dtype: str) -> np.ndarray:
    """Converts a JSON value to an array.

    Args:
        value: Nested lists from `json.loads`.
        dtype: A value of `DTYPES`.

    Raises:
        ValueError: If the lists are ragged or a value has another type.

    Examples:
        >>> from_json([["a", "b"]], "string").shape
        (1, 2)
    """
    if dtype != "string":
        return np.array(value, dtype)
    return np.array(value, np.dtypes.StringDType()).astype(object)


def _as_bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise ValueError(f"`value` must hold text. Received: {value!r}")
