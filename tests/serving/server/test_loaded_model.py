"""loaded_model: inputs and outputs of requests, and warm-up records."""

import numpy as np
import pytest
import tensorflow as tf
from grpc import StatusCode
from tensorflow.core.protobuf import meta_graph_pb2

from recdistill.serving.server.loaded_model import (
    LoadedModel,
    LoadedSignature,
    request_inputs,
    request_outputs,
    warm_up_requests,
)
from recdistill.serving.server.request_errors import RequestError
from tests.serving.calls import predict_request
from tests.small_models import WARM_UP, saved_toy, write_warm_up

pytestmark = pytest.mark.slow

FLOAT = meta_graph_pb2.TensorInfo(dtype=tf.float32.as_datatype_enum)
SIGNATURE = LoadedSignature(
    "any", {"a": FLOAT, "b": FLOAT}, {"y": FLOAT, "z": FLOAT}, {"b": np.float32([9])}
)


def code(call, *arguments):
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    return caught.value.code


def test_inputs_are_in_the_order_of_the_signature_with_defaults():
    inputs = request_inputs(SIGNATURE, predict_request(a=np.float32([1])))
    assert [value.tolist() for value in inputs] == [[1.0], [9.0]]


def test_outputs_are_all_outputs_or_the_sorted_filter():
    assert request_outputs(SIGNATURE, []) == ("y", "z")
    assert request_outputs(SIGNATURE, ["z", "y"]) == ("y", "z")
    assert code(request_outputs, SIGNATURE, ["x"]) == StatusCode.INVALID_ARGUMENT
    assert code(request_outputs, SIGNATURE, ["y", "y"]) == StatusCode.INVALID_ARGUMENT


def test_a_folder_that_is_not_a_saved_model_is_an_error(tmp_path):
    assert code(LoadedModel, tmp_path) == StatusCode.INTERNAL
    (tmp_path / "saved_model.pb").write_bytes(b"broken")
    assert code(LoadedModel, tmp_path) == StatusCode.INTERNAL


def test_a_loaded_model_runs_its_signatures():
    model = LoadedModel(saved_toy(3))
    signature = model.signatures["serving_default"]
    [answer] = model.run(signature, [np.float32([1, 2])], ("y",))
    assert answer.tolist() == [4.0, 5.0]
    model.close()


def test_signatures_that_are_not_for_requests_are_described_but_not_served():
    model = LoadedModel(saved_toy(3))
    assert "__saved_model_init_op" in model.signature_defs
    assert "__saved_model_init_op" not in model.signatures
    assert {"serving_default", "constant"} <= model.signatures.keys()
    model.close()


class TestWarmUpRequests:
    def read(self, folder, records):
        file = folder / WARM_UP
        file.parent.mkdir(exist_ok=True)
        write_warm_up(file, records)
        return list(warm_up_requests(folder))

    def test_without_a_file_there_are_none(self, tmp_path):
        assert list(warm_up_requests(tmp_path)) == []

    def test_empty_records_are_skipped(self, tmp_path):
        request = predict_request(x=[1.0])
        assert self.read(tmp_path, [b"", request]) == [request]

    def test_a_record_of_another_message_is_data_loss(self, tmp_path):
        assert code(self.read, tmp_path, [b"\xff"]) == StatusCode.DATA_LOSS

    def test_a_truncated_file_is_data_loss(self, tmp_path):
        self.read(tmp_path, [predict_request(x=[1.0])])
        file = tmp_path / WARM_UP
        file.write_bytes(file.read_bytes()[:-1])
        assert code(lambda: list(warm_up_requests(tmp_path))) == StatusCode.DATA_LOSS
