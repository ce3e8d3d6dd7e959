"""messages: the same fields as the official stubs, which read them and vice versa."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    prediction_log_pb2,
)

from recdistill.serving.client import messages
from recdistill.serving.client.tensors import DTYPES, from_json, from_proto, to_proto

PAIRS = [
    (messages.TensorProto, tensor_pb2.TensorProto),
    (messages.PredictRequest, predict_pb2.PredictRequest),
    (messages.PredictResponse, predict_pb2.PredictResponse),
    (messages.SignatureDefMap, get_model_metadata_pb2.SignatureDefMap),
    (messages.GetModelMetadataRequest, get_model_metadata_pb2.GetModelMetadataRequest),
    (
        messages.GetModelMetadataResponse,
        get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    (messages.GetModelStatusRequest, get_model_status_pb2.GetModelStatusRequest),
    (messages.GetModelStatusResponse, get_model_status_pb2.GetModelStatusResponse),
    (messages.PredictionLog, prediction_log_pb2.PredictionLog),
]
ENUM, INT32 = (
    descriptor.FieldDescriptor.TYPE_ENUM,
    descriptor.FieldDescriptor.TYPE_INT32,
)


def differences(ours, official, seen):
    """Fields that differ from the official message, nested messages included."""
    if ours.full_name in seen:
        return []
    seen.add(ours.full_name)
    wrong = []
    for field in ours.fields:
        theirs = official.fields_by_name.get(field.name)
        same = theirs is not None and (
            theirs.number == field.number
            and theirs.is_repeated == field.is_repeated
            and theirs.is_packed == field.is_packed
            and (
                theirs.type == field.type or (theirs.type, field.type) == (ENUM, INT32)
            )
            and (theirs.containing_oneof and theirs.containing_oneof.name)
            == (field.containing_oneof and field.containing_oneof.name)
        )
        # A log of another kind is read as a prediction without a request.
        if (
            not same
            and field.full_name != "tensorflow.serving.PredictionLog.predict_log"
        ):
            wrong.append(field.full_name)
        elif field.message_type is not None:
            wrong += differences(field.message_type, theirs.message_type, seen)
    return wrong


@pytest.mark.parametrize(("ours", "official"), PAIRS)
def test_every_field_equals_the_official_one(ours, official):
    seen = set()
    assert differences(ours.DESCRIPTOR, official.DESCRIPTOR, seen) == []
    assert ours.DESCRIPTOR.full_name == official.DESCRIPTOR.full_name
    assert len(seen) >= 1


def test_messages_are_exchanged_with_the_official_stubs():
    ours = messages.PredictRequest()
    ours.model_spec.name, ours.model_spec.signature_name = "films", "rank"
    ours.model_spec.version.value = 3
    ours.inputs["history"].CopyFrom(to_proto(np.array([["größe", ""]], object)))
    official = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert tf.make_ndarray(official.inputs["history"]).tolist() == [
        ["größe".encode(), b""]
    ]
    assert official.model_spec.version.value == 3
    again = messages.PredictRequest.FromString(official.SerializeToString())
    assert again == ours


def test_a_label_replaces_a_version():
    request = messages.PredictRequest()
    request.model_spec.version.value = 3
    request.model_spec.version_label = "stable"
    official = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    assert not official.model_spec.HasField("version")


NUMBERS = sorted(set(DTYPES.values()) - {"string"})


class TestTensors:
    @pytest.mark.parametrize("dtype", NUMBERS)
    def test_tensorflow_reads_our_tensors(self, dtype):
        value = np.array([[0, 1, 1], [1, 0, 1]], dtype)
        proto = tensor_pb2.TensorProto.FromString(to_proto(value).SerializeToString())
        got = tf.make_ndarray(proto)
        assert got.dtype == value.dtype
        np.testing.assert_array_equal(got, value)

    @pytest.mark.parametrize("dtype", NUMBERS)
    @pytest.mark.parametrize("value", [[[3, 1, 0], [0, 1, 2]], [[1, 1], [1, 1]], [1]])
    def test_tensors_of_tensorflow_are_read(self, dtype, value):
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

    def test_the_last_value_fills_the_rest_of_the_shape(self):
        proto = tensor_pb2.TensorProto(dtype=1, float_val=[1.0, 2.0])
        proto.tensor_shape.dim.add(size=4)
        assert from_proto(proto).tolist() == tf.make_ndarray(proto).tolist()
        assert from_proto(proto).tolist() == [1.0, 2.0, 2.0, 2.0]

    def test_text_is_converted_in_both_directions(self):
        text = np.array([["映画", ""], ["a", "b"]], object)
        assert from_proto(to_proto(text)).tolist() == text.tolist()
        assert from_proto(tf.make_tensor_proto(text)).tolist() == text.tolist()
        empty = np.empty((0, 2), object)
        assert from_proto(to_proto(empty)).shape == (0, 2)

    def test_too_few_values_and_unknown_types_are_errors(self):
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

    def test_json_becomes_an_array_of_the_given_type(self):
        lowest = float(np.finfo("float32").min)
        got = from_json([[1, 0.1], [lowest, -2]], "float32")
        assert got.dtype == "float32"
        assert got[0, 1] == np.float32(0.1) and got[1, 0] == np.finfo("float32").min
        assert from_json([["größe"], [""]], "string").tolist() == [["größe"], [""]]
        with pytest.raises(ValueError, match="inhomogeneous"):
            from_json([[1], [1, 2]], "float32")
