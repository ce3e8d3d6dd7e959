"""wire_tensors: messages and arrays, compared with TensorFlow's functions."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from recdistill.serving.server.request_errors import RequestError
from recdistill.serving.server.wire_tensors import (
    check_fields,
    memory_of_request,
    read_tensor,
    write_tensor,
)

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
        ({"dtype": 1, "float_val": [0]}, [33, 32], "larger than the values sent"),
        ({"dtype": 7, "string_val": [b"a"]}, [2**25], "larger than the values sent"),
        ({"dtype": 7}, [0, 2**40], "larger than the values sent"),
        ({"dtype": 1}, [2**62, 0, 2**62], "larger than the values sent"),
        ({"dtype": 1, "float_val": [0]}, 9 * [1], "at most 8 axes"),
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


def test_a_tensor_may_have_as_many_values_as_were_sent():
    array = np.arange(2**17, dtype="int8")
    assert read_tensor(tf.make_tensor_proto(array), "a").tolist() == array.tolist()
    proto = tensor_pb2.TensorProto(dtype=6, int_val=array.tolist())
    proto.tensor_shape.dim.add(size=len(array))
    assert read_tensor(proto, "a").tolist() == array.tolist()


def test_the_fields_of_a_request_are_counted_before_it_is_decoded():
    request = predict_pb2.PredictRequest(output_filter=["scores"] * 999)
    request.model_spec.name = "films" * 100
    check_fields(request.SerializeToString())
    request.output_filter.append("ids")
    with pytest.raises(RequestError, match="at most 1000 fields"):
        check_fields(request.SerializeToString())


@pytest.mark.parametrize("tag", [b"\x72", b"\x7a"], ids=["resources", "variants"])
def test_large_tensors_with_objects_are_not_decoded(tag):
    def data(number):
        tensor = tensor_pb2.TensorProto(dtype=7, string_val=[b"a", b"b" * 300, b""])
        tensor = tensor.SerializeToString() + tag + b"\x00"
        request = predict_pb2.PredictRequest()
        request.inputs["a"].MergeFromString(tensor)
        request.inputs["a"].string_val.extend([b"a"] * number)
        return request.SerializeToString()

    check_fields(data(10))
    texts = predict_pb2.PredictRequest()
    texts.inputs["a"].string_val.extend([b"a"] * 100_000)
    check_fields(texts.SerializeToString() + tag + b"\x00")
    with pytest.raises(RequestError, match="resources or variants"):
        check_fields(data(100_000))


@given(st.binary(max_size=40))
def test_any_bytes_can_be_counted(data):
    check_fields(data)


def test_the_memory_of_strings_is_above_that_of_numbers():
    texts, numbers = predict_pb2.PredictRequest(), predict_pb2.PredictRequest()
    texts.inputs["a"].string_val.extend([b"x"] * 10)
    numbers.inputs["a"].float_val.extend([1.0] * 10)
    assert memory_of_request(texts, 50) == 8 * 50 + 10 * 128
    assert memory_of_request(numbers, 50) == 8 * 50
