"""protocols: encoding of requests and decoding of answers."""

import json

import numpy as np
import pytest
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from recdistill.serving.client.contract import SignatureContract, TensorContract
from recdistill.serving.client.protocols import GRPC, REST, Target

SCORES = {"scores": TensorContract("float32", (None, None))}
TWO = {**SCORES, "ids": TensorContract("string", (None, None))}


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (Target("films"), "/v1/models/films"),
        (Target("films", version=3), "/v1/models/films/versions/3"),
        (Target("films", label="a b"), "/v1/models/films/labels/a%20b"),
        (Target("a/b"), "/v1/models/a%2Fb"),
    ],
)
def test_a_rest_path_has_model_and_version_or_label(target, path):
    assert REST.status(target).path == path
    assert REST.metadata(target).path == f"{path}/metadata"
    assert REST.predict(target, "rank", {}).path == f"{path}:predict"
    assert REST.status(target).body is None


def test_a_rest_request_is_columnar_json():
    inputs = {"ids": np.array([["größe"]], object), "k": np.int32([3])}
    message = REST.predict(Target("films"), "recommend", inputs)
    assert json.loads(message.body) == {
        "signature_name": "recommend",
        "inputs": {"ids": [["größe"]], "k": [3]},
    }
    assert message.what == "`recommend` of model 'films'"


def test_a_grpc_request_is_a_predict_request():
    message = GRPC.predict(Target("films", 3), "rank", {"k": np.int32([3])})
    request = predict_pb2.PredictRequest.FromString(message.body)
    assert request.model_spec.signature_name == "rank"
    assert request.model_spec.version.value == 3
    assert message.path == "/tensorflow.serving.PredictionService/Predict"
    assert message.what == "`rank` of model 'films' version 3"


def test_the_single_output_of_a_rest_answer_has_no_name():
    contract = SignatureContract({}, SCORES)
    answer = REST.answer(b'{"outputs": [[1, 0.5]]}', Target("films", 7), contract)
    assert answer.outputs["scores"].dtype == "float32"
    assert answer.outputs["scores"].tolist() == [[1.0, 0.5]]
    assert answer.version == 7


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"predictions": []}', "must have the member 'outputs'"),
        (b"[]", "must have the member 'outputs'"),
        (b'{"outputs": {"scores": [[1]]}}', r"must have the outputs \['ids', 'scores"),
        (b"{", "Expecting property name"),
    ],
)
def test_an_invalid_rest_answer_is_an_error(body, message):
    with pytest.raises(ValueError, match=message):
        REST.answer(body, Target("films"), SignatureContract({}, TWO))


def test_types_of_rest_metadata_have_numpys_names():
    def signature(dtype, shape):
        return {"inputs": {"x": {"dtype": dtype, "tensor_shape": shape}}}

    rows = {"dim": [{"size": "-1"}, {"size": "4"}], "unknown_rank": False}
    signatures = {
        "a": signature("DT_DOUBLE", rows),
        "b": signature("DT_HALF", {}),
        "c": signature("DT_INT64", {"unknown_rank": True}),
        "__init": signature("DT_BOOL", {}),
    }
    document = {"metadata": {"signature_def": {"signature_def": signatures}}}
    answer = REST.signatures(json.dumps(document).encode())
    assert {name: each.inputs["x"] for name, each in answer.items()} == {
        "a": TensorContract("float64", (None, 4)),
        "b": TensorContract("float16", ()),
        "c": TensorContract("int64", None),
    }


def test_versions_are_sorted_latest_first():
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state in ((1, 50), (3, 30), (2, 20)):
        each = response.model_version_status.add(version=version, state=state)
        each.status.error_message = "broken" if state == 50 else ""
    answer = GRPC.versions(response.SerializeToString())
    assert [(v.version, v.state, v.error) for v in answer] == [
        (3, "AVAILABLE", ""),
        (2, "LOADING", ""),
        (1, "END", "broken"),
    ]
