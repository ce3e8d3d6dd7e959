"""Conversion between `TensorProto` messages and arrays.

Strings are `bytes` in object arrays, as in TensorFlow's sessions.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from recdistill.serving.server.request_errors import RequestError, invalid

__all__ = ["STRING", "dtype_name", "read_tensor", "write_tensor"]

STRING = types_pb2.DT_STRING

LARGEST_TENSOR = 2**28
"""Maximum number of values. A small message can fill a large shape with one value."""

_FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_UINT8: "int_val",
    types_pb2.DT_INT16: "int_val",
    types_pb2.DT_INT8: "int_val",
    types_pb2.DT_UINT16: "int_val",
    STRING: "string_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_HALF: "half_val",
    types_pb2.DT_BFLOAT16: "half_val",
}
_NUMPY = {n: np.dtype(tf.as_dtype(n).as_numpy_dtype) for n in _FIELDS}
_NUMBERS = {dtype: number for number, dtype in _NUMPY.items()}
_HALVES = (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16)


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
    field, shape = _FIELDS.get(proto.dtype), [d.size for d in proto.tensor_shape.dim]
    if field is None:
        problem = f"the type {dtype_name(proto.dtype)} is not supported"
        raise _parsing(name, problem)
    size = math.prod(shape)
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise _parsing(name, "the shape must be known")
    if size > LARGEST_TENSOR:
        raise _parsing(name, f"{size} values are more than {LARGEST_TENSOR}")
    dtype = _NUMPY[proto.dtype]
    if proto.tensor_content and proto.dtype != STRING:
        if len(proto.tensor_content) != size * dtype.itemsize:
            got = len(proto.tensor_content)
            raise _parsing(name, f"{got} bytes do not fill the shape {shape}")
        flat: np.ndarray = np.frombuffer(proto.tensor_content, dtype)
        return flat.reshape(shape)
    values = getattr(proto, field)
    if len(values) > size:
        raise _parsing(name, f"{len(values)} values do not fit the shape {shape}")
    given: np.ndarray
    if proto.dtype in _HALVES:
        given = np.array(values, "uint16").view(dtype)
    else:
        given = _as_array(values, dtype, name)
    if len(given) < size:
        last = given[-1:] if len(given) else _zero(dtype)
        given = np.concatenate([given, np.repeat(last, size - len(given))])
    return given.reshape(shape)


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
    number = STRING if array.dtype == object else _NUMBERS.get(array.dtype)
    if number is None:
        raise invalid(f"Outputs of the type {array.dtype} are not supported.")
    proto.dtype = number
    dims = proto.tensor_shape.dim
    for size in array.shape:
        dims.add().size = size
    if number in _HALVES:
        array = array.view("uint16")
    getattr(proto, _FIELDS[number]).extend(array.ravel().tolist())


def _as_array(values: object, dtype: np.dtype, name: str) -> np.ndarray:
    try:
        # Assigned, because NumPy's constructor would inspect the values.
        if dtype.hasobject:
            listed = list(values)  # type: ignore[call-overload]
            array = np.empty(len(listed), object)
            array[:] = listed
            return array
        return np.array(values, dtype)
    except OverflowError as error:
        raise _parsing(name, str(error)) from error


def _zero(dtype: np.dtype) -> np.ndarray:
    return np.array([b""], object) if dtype.hasobject else np.zeros(1, dtype)


def _parsing(name: str, problem: str) -> RequestError:
    return invalid(f"tensor parsing error: {name}: {problem}")
