"""Conformance with details of TensorFlow Serving's protocol that one would not expect.

They were observed on the C++ server.
"""

import gzip
import json
import socket

import numpy as np
import pytest
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2
from tensorflow_serving.config import model_server_config_pb2

from recdistill.serving.deploy.model_server import metric_names
from tests.serving.calls import predict_request, refused
from tests.serving.conformance.test_protocol import as_columns, inputs_of, predict, rest
from tests.serving.waiting import LONG_S

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(endpoint):
    """Path of predictions of the export."""
    return f"/v1/models/{endpoint.model}:predict"


@pytest.fixture(scope="module")
def body(endpoint):
    """A valid body for the export."""
    return {"inputs": as_columns(inputs_of(endpoint, "serving_default"))}


@pytest.fixture(scope="module")
def answer(endpoint, body):
    """Outputs for the valid body."""
    status, document = rest(endpoint, body)
    assert status == 200
    return document["outputs"]


def first_string(endpoint, signature="serving_default"):
    """Name of the first text input of rank 1 or 2, and a valid value."""
    return next(
        (name, value)
        for name, value in sorted(inputs_of(endpoint, signature).items())
        if value.dtype == object
    )


def raw(endpoint, data):
    """Status line and body of the answer to bytes sent as they are."""
    address = endpoint.client.host, endpoint.client.rest_port
    with socket.create_connection(address, timeout=LONG_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: connection.recv(2**16), b""))
    head, _, page = got.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0], page


class TestBodies:
    def test_a_body_compressed_with_gzip_is_accepted(
        self, endpoint, path, body, answer
    ):
        data = gzip.compress(json.dumps(body).encode())
        headers = {"Content-Encoding": "gzip"}
        status, text = endpoint.client.http("POST", path, data, headers)
        assert (status, json.loads(text)["outputs"]) == (200, answer)

    def test_a_body_in_chunks_is_accepted(self, endpoint, path, body, answer):
        data = json.dumps(body).encode()
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (len(part), part) for part in (data[:7], data[7:], b"")
        )
        head = (
            f"POST {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        )
        line, page = raw(endpoint, head.encode() + chunks)
        assert line.startswith(b"HTTP/1.1 200 ")
        assert json.loads(page[page.index(b"{") : page.rindex(b"}") + 1]) == {
            "outputs": answer
        }

    def test_the_first_of_duplicate_keys_counts(self, endpoint, path, body, answer):
        inputs = json.dumps(body["inputs"])
        name, _ = first_string(endpoint)
        twice = inputs[:-1] + f', "{name}": [7]' + "}"
        for text in (
            f'{{"inputs": {twice}}}',
            f'{{"inputs": {inputs}, "inputs": 7}}',
        ):
            status, text = endpoint.client.http("POST", path, text.encode())
            assert (status, json.loads(text)["outputs"]) == (200, answer)

    def test_base64_needs_no_padding(self, endpoint, path, body):
        name, value = first_string(endpoint)
        pages = []
        for text in ("aQ==", "aQ"):
            given = np.full(value.shape, None, object)
            for place in np.ndindex(value.shape):
                given[place] = {"b64": text}
            changed = {"inputs": {**body["inputs"], name: given.tolist()}}
            pages.append(endpoint.client.http("POST", path, changed))
        assert pages[0][0] == 200
        assert pages[0] == pages[1]

    def test_text_may_have_bytes_that_are_not_utf8(self, endpoint, path, body):
        name, value = first_string(endpoint)
        given = np.full(value.shape, "MARK", object).tolist()
        text = json.dumps({"inputs": {**body["inputs"], name: given}}).encode()
        broken = text.replace(b"MARK", b"\xff\xfe\x80")
        assert endpoint.client.http("POST", path, broken)[0] == 200
        values = np.full(value.shape, b"\xff\xfe\x80", object)
        outputs = predict(endpoint, **{name: values}).outputs
        assert len(outputs) > 0

    def test_a_number_above_the_largest_float_is_accepted_but_not_double(self, toy):
        url = "/v1/models/toy:predict"
        status, text = toy.http("POST", url, b'{"inputs": [1e39]}')
        assert (status, "Infinity" in text) == (200, True)
        for number in (b"1e400", b"-1e400"):
            status, text = toy.http("POST", url, b'{"inputs": [%b]}' % number)
            assert (status, "error" in json.loads(text)) == (400, True)

    def test_unknown_keys_such_as_an_output_filter_are_ignored(self, endpoint, body):
        filtered = {"output_filter": ["scores"], **body}
        status, document = rest(endpoint, filtered)
        assert status == 200
        assert (
            document["outputs"].keys()
            == endpoint.signatures["serving_default"].outputs.keys()
        )


class TestPaths:
    @pytest.mark.parametrize(
        "change",
        [
            lambda path: path + "?a=b",
            lambda path: path.replace(":predict", ":PREDICT"),
            lambda path: "/" + path,
            lambda path: path.replace("/models", "//models"),
            lambda path: path + "/",
        ],
        ids=["query", "method in capitals", "//v1", "//models", "trailing slash"],
    )
    def test_another_form_of_the_path_is_an_error(self, endpoint, path, body, change):
        status, _ = endpoint.client.http("POST", change(path), body)
        assert status in (400, 404)
        where = change(path.replace(":predict", ""))
        if "?" in where or where.startswith("//"):
            assert endpoint.client.http("GET", where)[0] in (400, 404)

    @pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"])
    def test_other_methods_are_an_error(self, endpoint, path, method):
        for where in (path, path.replace(":predict", "")):
            assert endpoint.client.http(method, where)[0] == 400

    def test_the_status_ignores_a_label(self, endpoint):
        status, text = endpoint.client.http(
            "GET", f"/v1/models/{endpoint.model}/labels/nowhere"
        )
        versions = {
            int(each["version"]): each["state"]
            for each in json.loads(text)["model_version_status"]
        }
        assert (status, versions) == (200, endpoint.client.status(endpoint.model))

    def test_the_metrics_have_the_documented_names(self, endpoint, body):
        rest(endpoint, body)
        predict(endpoint)
        status, page = endpoint.client.http("GET", "/monitoring/prometheus/metrics")
        assert status == 200
        for name in ("request_count", "request_latency", "runtime_latency"):
            assert f":tensorflow:serving:{name}" in metric_names() | {
                f":tensorflow:serving:{name}"
            }
            assert f":tensorflow:serving:{name}" in page


class TestOtherMethods:
    @pytest.mark.parametrize("method", ["classify", "regress"])
    @pytest.mark.parametrize("key", ["examples", "inputs"])
    def test_classify_and_regress_are_an_error_over_rest(self, endpoint, method, key):
        content = {"signature_name": "serving_default", key: [{"user_id": "a"}]}
        status, document = rest(endpoint, content, method=method)
        assert (status, "error" in document) == (400, True)

    def test_classify_and_regress_are_an_error_over_grpc(self, endpoint):
        classify = classification_pb2.ClassificationRequest()
        regress = regression_pb2.RegressionRequest()
        several = inference_pb2.MultiInferenceRequest()
        several.tasks.add().model_spec.name = endpoint.model
        for request in (classify, regress):
            request.model_spec.name = endpoint.model
        for request in (classify, regress, several):
            example = request.input.example_list.examples.add()
            example.features.feature["user_id"].bytes_list.value.append(b"a")
        stub = endpoint.client.prediction
        for call, request in (
            (stub.Classify, classify),
            (stub.Regress, regress),
            (stub.MultiInference, several),
        ):
            with refused("INVALID_ARGUMENT"):
                call(request, timeout=LONG_S)


class TestSignatures:
    def test_a_signature_that_is_not_for_predictions_is_an_error(self, endpoint):
        for name, described in endpoint.signatures.items():
            if not described.method_name:
                with refused("INVALID_ARGUMENT"):
                    endpoint.client.send(predict_request(name, endpoint.model))


class TestConfiguration:
    def test_a_configuration_without_a_platform_is_refused(self, endpoint):
        if endpoint.toy_folder is None:
            pytest.skip("The configuration of a given server stays as it is")
        config = model_server_config_pb2.ModelServerConfig()
        config.model_config_list.config.add(
            name="toy", base_path=str(endpoint.toy_folder)
        )
        with refused("INVALID_ARGUMENT"):
            endpoint.client.reload(config)
        assert set(endpoint.client.status(endpoint.model)) == {1}


class TestRest:
    def test_scalars_need_the_columnar_format(self, toy):
        body = {"signature_name": "scalar"}
        assert toy.rest({**body, "inputs": {"n": 3}}) == (200, {"outputs": 6})

    def test_the_row_form_needs_every_input(self, toy):
        body = {"signature_name": "optional", "instances": [{"a": 1.0}]}
        assert toy.rest(body)[0] == 400

    def test_defaults_of_a_signature_work_over_grpc_only(self, toy):
        outputs, _ = toy.predict("optional", a=[1.0])
        assert outputs["sum"].tolist() == [11.0]
        body = {"signature_name": "optional", "inputs": {"a": [1.0]}}
        assert toy.rest(body)[0] == 400

    def test_an_invalid_message_of_a_tensor_is_an_error(self, endpoint):
        name, value = first_string(endpoint)
        request = predict_request(
            "", endpoint.model, **inputs_of(endpoint, "serving_default")
        )
        request.inputs[name].tensor_shape.dim[0].size = -1
        with refused("INVALID_ARGUMENT"):
            endpoint.client.send(request)
        assert value.ndim in (1, 2)
