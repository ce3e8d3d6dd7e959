"""wire_tensors: messages and arrays, compared with TensorFlow's functions."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow.core.framework import tensor_pb2

from recdistill.serving.server.request_errors import RequestError
from recdistill.serving.server.wire_tensors import read_tensor, write_tensor

TYPES = (
    "float32 float64 float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool"
).split()

any_array = st.sampled_from(TYPES).flatmap(
    lambda dtype: arrays.arrays(
        dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    )
)


@given(any_array)
def test_messages_of_tensorflow_are_read(array):
    got = read_tensor(tf.make_tensor_proto(array), "a")
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


@given(any_array)
def test_tensorflow_reads_the_messages(array):
    proto = tensor_pb2.TensorProto()
    write_tensor(array, proto)
    assert not proto.tensor_content  # Clients may read the values directly.
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)


def test_strings_and_small_floats_round_trip():
    ids = np.array([[b"a", "größe".encode()], [b"", b"\xff\x00"]], object)
    small = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    for array in (ids, small):
        proto = tensor_pb2.TensorProto()
        write_tensor(array, proto)
        for read in (read_tensor(proto, "a"), tf.make_ndarray(proto)):
            assert read.dtype == array.dtype
            assert read.tolist() == array.tolist()


def test_the_last_value_fills_the_rest_of_the_shape():
    proto = tensor_pb2.TensorProto(dtype=1, float_val=[1, 2])
    proto.tensor_shape.dim.add(size=4)
    assert read_tensor(proto, "a").tolist() == [1, 2, 2, 2]
    del proto.float_val[:]
    assert read_tensor(proto, "a").tolist() == [0, 0, 0, 0]
    text = tensor_pb2.TensorProto(dtype=7)
    text.tensor_shape.dim.add(size=2)
    assert read_tensor(text, "a").tolist() == [b"", b""]


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({"dtype": 1, "float_val": [1, 2]}, [1], r"values do not fit .*float .*\[1\]"),
        ({"dtype": 3, "tensor_content": b"1"}, [1], r"values do not fit .*int32"),
        ({"dtype": 4, "int_val": [256]}, [1], r"values do not fit .*uint8"),
        ({"dtype": 1}, [-1], "shape must be known"),
        ({"dtype": 1, "float_val": [0]}, [2**20, 2**20], "more than 268435456 values"),
        ({"dtype": 8}, [1], "type complex64 is not supported"),
        ({"dtype": 0}, [1], "type invalid is not supported"),
    ],
)
def test_invalid_messages_are_rejected(fields, shape, message):
    proto = tensor_pb2.TensorProto(**fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    with pytest.raises(RequestError, match=f"tensor parsing error: a: .*{message}"):
        read_tensor(proto, "a")
