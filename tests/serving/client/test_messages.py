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
from recdistill.serving.client.tensors import to_proto

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
