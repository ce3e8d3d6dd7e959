"""grpc_services: messages that cannot be decoded or are too large."""

import logging
import threading

import pytest
import tensorflow as tf
from google.protobuf.internal.encoder import _VarintBytes as varint
from tensorflow.core.framework import tensor_pb2

from recdistill.serving.server import grpc_services
from recdistill.serving.server.loaded_model import LoadedModel
from recdistill.serving.server.requests import Requests
from tests.serving.calls import predict_request, refused
from tests.serving.waiting import LONG_S, wait_until

pytestmark = pytest.mark.slow

METHODS = [
    "PredictionService/Predict",
    "PredictionService/GetModelMetadata",
    "PredictionService/Classify",
    "ModelService/GetModelStatus",
    "ModelService/HandleReloadConfigRequest",
]


def send(serving, method, data):
    """Sends bytes as a message."""
    call = serving.client.channel.unary_unary(f"/tensorflow.serving.{method}")
    return call(data, timeout=LONG_S)


@pytest.mark.parametrize("method", METHODS)
def test_a_message_that_cannot_be_decoded_writes_one_line(shared, caplog, method):
    with caplog.at_level(logging.WARNING), refused("INTERNAL") as said:
        send(shared, method, b"\xff\xff\xff")
    assert "cannot be decoded" in said["details"]
    [record] = caplog.records
    assert record.exc_info is None
    assert "3 bytes cannot be decoded" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_an_unexpected_error_writes_one_line(shared, caplog, monkeypatch):
    def broken(self, request, deadline_s):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(Requests, "predict", broken)
    with caplog.at_level(logging.WARNING), refused("INTERNAL"):
        shared.client.predict(x=[1.0])
    [record] = caplog.records
    assert record.exc_info is None
    assert record.getMessage() == (
        "Predict failed: ZeroDivisionError: division by zero"
    )


def test_a_tensor_of_many_axes_is_an_error(shared):
    proto = tensor_pb2.TensorProto(dtype=1, float_val=[1.0])
    for _ in range(33):
        proto.tensor_shape.dim.add(size=1)
    with refused("INVALID_ARGUMENT") as said:
        shared.client.predict(x=proto)
    assert "at most 8 axes" in said["details"]


def test_one_value_does_not_fill_a_large_tensor(shared):
    proto = tensor_pb2.TensorProto(dtype=7, string_val=[b"a"])
    proto.tensor_shape.dim.add(size=1)
    proto.tensor_shape.dim.add(size=2**25)
    request = predict_request("described", ids=proto, scale=[1.0])
    with refused("INVALID_ARGUMENT") as said:
        shared.client.send(request)
    assert "larger than the values sent" in said["details"]


def test_a_request_with_many_empty_inputs_is_not_decoded(shared):
    with refused("INVALID_ARGUMENT") as said:
        send(shared, METHODS[0], b"\x12\x00" * 1_001)
    assert "at most 1000 fields" in said["details"]


def test_strings_that_need_too_much_memory_are_refused(serve):
    serving = serve(max_message_bytes=2**24)
    request = predict_request("described", scale=[1.0])
    # A serialised message may be continued: 4 million empty strings.
    tensor = b"\x08\x07" + b"\x42\x00" * 4_000_000
    entry = b"\x0a\x03ids\x12" + varint(len(tensor)) + tensor
    data = request.SerializeToString() + b"\x12" + varint(len(entry)) + entry
    with refused("RESOURCE_EXHAUSTED") as said:
        send(serving, METHODS[0], data)
    assert "MiB of memory when it is decoded" in said["details"]
    memory = serving.server._rest._listener.memory
    assert memory.used == 0


def test_a_call_that_does_not_send_its_message_in_time_is_cancelled(
    serve, caplog, monkeypatch
):
    monkeypatch.setattr(grpc_services, "_RECEIVE_S", 0.1)
    serving = serve(grpc_threads=1, waiting=1)
    calls = serving.client.channel.stream_unary(f"/tensorflow.serving.{METHODS[0]}")
    never = threading.Event()
    open_calls = [
        calls.future(iter(never.wait, True), timeout=LONG_S) for _ in range(2)
    ]
    for call in open_calls:
        with refused("CANCELLED"):
            call.result()
    never.set()
    assert serving.client.predict(x=[1.0])[1] == 1
    assert caplog.records == []


def test_calls_above_the_capacity_are_refused_at_once(serve, monkeypatch):
    running, proceed, run = threading.Event(), threading.Event(), LoadedModel.run

    def held(*arguments):
        running.set()
        proceed.wait()
        return run(*arguments)

    serving = serve(grpc_threads=1, waiting=1)
    monkeypatch.setattr(LoadedModel, "run", held)
    request = predict_request(x=[1.0])
    send = serving.client.prediction.Predict.future
    calls = [send(request, timeout=LONG_S)]
    running.wait()
    workers = serving.server._grpc._workers
    calls.append(send(request, timeout=LONG_S))
    wait_until(lambda: workers._accepted == 2)
    with refused("RESOURCE_EXHAUSTED") as said:
        serving.client.send(request)
    assert "1 requests wait" in said["details"]
    # A call that could only be answered late is refused although the queue has a place.
    workers._waiting, workers.duration_s = 100, LONG_S
    with refused("RESOURCE_EXHAUSTED"):
        serving.client.send(request, timeout=LONG_S)
    proceed.set()
    for call in calls:
        assert tf.make_ndarray(call.result().outputs["y"]).tolist() == [2.0]
    page = serving.client.http("GET", "/monitoring/prometheus/metrics")[1]
    assert 'request_count{model_name="",status="RESOURCE_EXHAUSTED"} 2' in page


def test_clients_that_do_not_send_their_messages_do_not_stop_others(serve):
    serving = serve(grpc_threads=2, waiting=4)
    calls = serving.client.channel.stream_unary(f"/tensorflow.serving.{METHODS[0]}")
    never = threading.Event()
    stalled = [calls.future(iter(never.wait, True), timeout=LONG_S) for _ in range(3)]
    assert serving.client.predict(x=[1.0])[1] == 1
    for call in stalled:
        call.cancel()
    never.set()


def test_a_call_without_a_message_is_an_error(shared):
    call = shared.client.channel.stream_unary(f"/tensorflow.serving.{METHODS[0]}")
    with refused("UNIMPLEMENTED"):
        call(iter([]), timeout=LONG_S)


def test_a_request_with_many_rows_is_an_error(shared):
    with refused("INVALID_ARGUMENT") as said:
        shared.client.predict(x=[0.0] * 4_097)
    assert "at most 4096 rows" in said["details"]


def test_messages_without_tensors_are_small(serve):
    serving = serve(max_message_bytes=2**24)
    with refused("RESOURCE_EXHAUSTED"):
        send(serving, METHODS[4], b"\x0a\x00" * 2**20)
