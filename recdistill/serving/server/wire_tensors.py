"""Conversion between `TensorProto` messages and arrays.

Strings are `bytes` in object arrays, as in TensorFlow's sessions.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from recdistill.serving.client.tensors import VALUE_FIELDS
from recdistill.serving.server.request_errors import RequestError, invalid

__all__ = ["STRING", "dtype_name", "read_tensor", "write_tensor"]

STRING = types_pb2.DT_STRING

LARGEST_TENSOR = 2**28
"""Maximum number of values. A small message can fill a large shape with one value."""

_FIELDS = {**VALUE_FIELDS, "bfloat16": "half_val"}
_NUMBERS = {tf.as_dtype(name).as_datatype_enum for name in _FIELDS}


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
    dtype, shape = dtype_name(proto.dtype), [d.size for d in proto.tensor_shape.dim]
    if proto.dtype not in _NUMBERS:
        raise _parsing(name, f"the type {dtype} is not supported")
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise _parsing(name, "the shape must be known")
    if math.prod(shape) > LARGEST_TENSOR:
        problem = f"the shape has more than {LARGEST_TENSOR} values"
        raise _parsing(name, problem)
    if proto.dtype == STRING and not proto.string_val:
        return np.full(shape, b"", object)
    try:
        return tf.make_ndarray(proto)  # type: ignore[no-any-return]
    except (ValueError, OverflowError) as error:
        problem = f"the values do not fit the type {dtype} and the shape {shape}"
        raise _parsing(name, problem) from error


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
