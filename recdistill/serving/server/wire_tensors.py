"""Conversion between `TensorProto` messages and arrays.

Strings are `bytes` in object arrays, as in TensorFlow's sessions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2

from recdistill.serving.client.tensors import VALUE_FIELDS
from recdistill.serving.server.request_errors import RequestError, invalid

__all__ = [
    "MOST_AXES",
    "STRING",
    "check_fields",
    "dtype_name",
    "memory_of_request",
    "read_tensor",
    "write_tensor",
]

STRING = types_pb2.DT_STRING

MOST_AXES = 8
"""Maximum number of axes of a tensor, as in many of TensorFlow's operations."""

MOST_FILLED = 2**10
"""Maximum number of values of a tensor that has more values than bytes.

The last value of a message fills the rest of its shape, so that a small message could
take much memory.
"""

_MOST_FIELDS, _LARGE = 1_000, 2**18
_INPUTS, _VALUE, _OBJECTS = 2, 2, (14, 15)
"""Numbers of fields: the inputs of a request, the value of an entry, and resources and
variants of a tensor."""
_STRING_TAG = 8 << 3 | 2
_LENGTH_DELIMITED = 2
_FIXED_SIZES = {1: 8, 5: 4}
"""Sizes of fields by protocol buffers' wire type."""

_VALUE_BYTES = 128
"""Memory of a string in a message, in Python, in NumPy and in TensorFlow."""

_FIELDS = {**VALUE_FIELDS, "bfloat16": "half_val"}
_TYPES = {
    int(tf.as_dtype(name).as_datatype_enum): (field, tf.as_dtype(name).as_numpy_dtype)
    for name, field in _FIELDS.items()
}
"""Field of the values, and NumPy's type, by number of the data type."""


def dtype_name(number: int) -> str:
    """TensorFlow's name of a data type by its number, such as `float`.

    Examples:
        >>> dtype_name(1), dtype_name(7), dtype_name(-1)
        ('float', 'string', 'unknown type -1')
    """
    if number not in types_pb2.DataType.values():
        return f"unknown type {number}"
    return str(types_pb2.DataType.Name(number)).removeprefix("DT_").lower()


def read_tensor(proto: tensor_pb2.TensorProto, name: str) -> np.ndarray:
    """Converts a message to an array.

    As in TensorFlow, the last value fills the rest of the shape.

    Args:
        proto: The tensor of a request.
        name: Name of the input for error messages.

    Raises:
        RequestError: If shape, type and values do not match.

    Examples:
        >>> read_tensor(tf.make_tensor_proto([["a", "b"]]), "ids")
        array([[b'a', b'b']], dtype=object)
    """
    number, shape = proto.dtype, [d.size for d in proto.tensor_shape.dim]
    if number not in _TYPES:
        raise _parsing(name, f"the type {dtype_name(number)} is not supported")
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise _parsing(name, "the shape must be known")
    if len(shape) > MOST_AXES:
        raise _parsing(name, f"the shape must have at most {MOST_AXES} axes")
    field, dtype = _TYPES[number]
    content, values = proto.tensor_content, getattr(proto, field)
    size = math.prod(shape)
    # A size of 0 must not hide the others.
    largest = math.prod(max(1, n) for n in shape)
    if largest > max(MOST_FILLED, len(content), len(values)):
        raise _parsing(name, f"the shape {shape} is larger than the values sent")
    if number == STRING and not values:
        return np.full(shape, b"", object)
    try:
        if len(values) == size and not content and field != "half_val":
            # `make_ndarray` takes five times as long.
            return np.array(list(values), dtype).reshape(shape)
        return tf.make_ndarray(proto)  # type: ignore[no-any-return]
    except (ValueError, OverflowError) as error:
        problem = (
            f"the values do not fit the type {dtype_name(number)} and the shape {shape}"
        )
        raise _parsing(name, problem) from error


def check_fields(data: bytes) -> None:
    """Checks the fields of a serialised `PredictRequest` that need much memory.

    An empty input takes two bytes, and a hundred when it is decoded. So do resources
    and variants inside a tensor, which are never used in requests.

    Args:
        data: The message.

    Raises:
        RequestError: If it has too many fields, or a large tensor has resources or
            variants.

    Examples:
        >>> request = predict_pb2.PredictRequest(output_filter=["scores"])
        >>> check_fields(request.SerializeToString())
    """
    for count, (number, start, end) in enumerate(_fields(data, 0, len(data)), 1):
        if count > _MOST_FIELDS:
            raise invalid(f"A request must have at most {_MOST_FIELDS} fields.")
        if number == _INPUTS and end - start > _LARGE:
            for part, first, last in _fields(data, start, end):
                if part == _VALUE:
                    _check_tensor(data, first, last)


def _check_tensor(data: bytes, start: int, end: int) -> None:
    for number, _, _ in _fields(data, start, end):
        if number in _OBJECTS:
            raise invalid("Tensors must not have resources or variants.")


def _fields(data: bytes, place: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field of a message; invalid data may end them."""
    while place < end:
        # Strings of a tensor, which may be millions; each has less than 128 bytes here.
        while place + 1 < end and data[place] == _STRING_TAG and data[place + 1] < 128:
            place += 2 + data[place + 1]
        if place >= end:
            return
        tag, place = _varint(data, place)
        size = _FIXED_SIZES.get(tag & 7, 0)
        if tag & 7 == _LENGTH_DELIMITED:
            size, place = _varint(data, place)
        elif tag & 7 == 0:
            _, place = _varint(data, place)
        yield tag >> 3, place, min(end, place + size)
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number in base 128, and the place after it. The end of data ends it."""
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            break
    return value, place


def memory_of_request(request: predict_pb2.PredictRequest, size: int) -> int:
    """Estimated memory of a request and its tensors, in bytes.

    Args:
        request: The decoded message.
        size: Size of the serialised message in bytes.
    """
    strings = sum(len(each.string_val) for each in request.inputs.values())
    return 8 * size + _VALUE_BYTES * strings


def write_tensor(array: np.ndarray, proto: tensor_pb2.TensorProto) -> None:
    """Writes an array to a message, value by value as TensorFlow Serving does.

    Args:
        array: An output of a session.
        proto: An empty message.

    Raises:
        RequestError: If the data type is not supported.

    Examples:
        >>> proto = tensor_pb2.TensorProto()
        >>> write_tensor(np.float32([1, 2]), proto)
        >>> list(proto.float_val)
        [1.0, 2.0]
    """
    dtype = tf.as_dtype(array.dtype)
    field = _FIELDS.get(dtype.name)
    if field is None:
        raise invalid(f"Outputs of the type {array.dtype} are not supported.")
    proto.dtype = dtype.as_datatype_enum
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if field == "half_val":
        array = array.view("uint16")
    getattr(proto, field).extend(array.ravel().tolist())


def _parsing(name: str, problem: str) -> RequestError:
    return invalid(f"tensor parsing error: {name}: {problem}")
