"""tensors: conversion of arrays, compared with TensorFlow's functions."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from recdistill.serving.client.tensors import DTYPES, from_json, from_proto, to_proto

NUMBERS = sorted(set(DTYPES.values()) - {"string"})


@pytest.mark.parametrize("dtype", NUMBERS)
def test_tensorflow_reads_our_tensors(dtype):
    value = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    proto = tensor_pb2.TensorProto.FromString(to_proto(value).SerializeToString())
    got = tf.make_ndarray(proto)
    assert got.dtype == value.dtype
    np.testing.assert_array_equal(got, value)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("value", [[[3, 1, 0], [0, 1, 2]], [[1, 1], [1, 1]], [1]])
def test_tensors_of_tensorflow_are_read(dtype, value):
    array = np.array(value).astype(dtype)
    packed = tf.make_tensor_proto(array)
    listed = tensor_pb2.TensorProto(dtype=packed.dtype)
    listed.tensor_shape.CopyFrom(packed.tensor_shape)
    field = {"float32": "float", "float64": "double", "float16": "half"}.get(
        dtype, dtype if dtype in ("int64", "bool", "uint32", "uint64") else "int"
    )
    flat = array.view("uint16") if dtype == "float16" else array
    getattr(listed, f"{field}_val").extend(flat.ravel().tolist())
    for proto in (packed, listed):
        got = from_proto(proto)
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


def test_the_last_value_fills_the_rest_of_the_shape():
    proto = tensor_pb2.TensorProto(dtype=1, float_val=[1.0, 2.0])
    proto.tensor_shape.dim.add(size=4)
    assert from_proto(proto).tolist() == tf.make_ndarray(proto).tolist()
    assert from_proto(proto).tolist() == [1.0, 2.0, 2.0, 2.0]


def test_text_is_converted_in_both_directions():
    text = np.array([["映画", ""], ["a", "b"]], object)
    assert from_proto(to_proto(text)).tolist() == text.tolist()
    assert from_proto(tf.make_tensor_proto(text)).tolist() == text.tolist()
    empty = np.empty((0, 2), object)
    assert from_proto(to_proto(empty)).shape == (0, 2)


def test_too_few_values_and_unknown_types_are_errors():
    proto = tensor_pb2.TensorProto(dtype=1)
    proto.tensor_shape.dim.add(size=4)
    with pytest.raises(ValueError, match=r"must hold 4 values.*Received: 0"):
        from_proto(proto)
    with pytest.raises(ValueError, match=r"Received: number 21"):
        from_proto(tensor_pb2.TensorProto(dtype=21))
    with pytest.raises(ValueError, match=r"Received: complex64"):
        to_proto(np.zeros(1, "complex64"))
    with pytest.raises(ValueError, match=r"must hold text\. Received: 3"):
        to_proto(np.array([3], object))


def test_json_becomes_an_array_of_the_given_type():
    lowest = float(np.finfo("float32").min)
    got = from_json([[1, 0.1], [lowest, -2]], "float32")
    assert got.dtype == "float32"
    assert got[0, 1] == np.float32(0.1) and got[1, 0] == np.finfo("float32").min
    assert from_json([["größe"], [""]], "string").tolist() == [["größe"], [""]]
    with pytest.raises(ValueError, match="inhomogeneous"):
        from_json([[1], [1, 2]], "float32")
