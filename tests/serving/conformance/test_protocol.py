"""Conformance with TensorFlow Serving's protocol; `conftest.py` chooses the server.

Requests are built from the signatures that the server reports, so any export works.
"""

import http.client
import json

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from tests.serving.calls import predict_request, refused

pytestmark = pytest.mark.slow

SIGNATURES = "serving_default recommend rank encode_query encode_candidates".split()


def inputs_of(endpoint, signature, rows=2, width=2):
    """Valid inputs of every export, as arrays by name."""
    inputs = {}
    for name, info in endpoint.signatures[signature].inputs.items():
        shape = [rows, *(d.size for d in info.tensor_shape.dim[1:])]
        shape = [width if size == -1 else size for size in shape]
        if info.dtype == types_pb2.DT_STRING:
            inputs[name] = np.full(shape, "новинка", object)
        else:
            dtype = tf.as_dtype(info.dtype).as_numpy_dtype
            # At least one item, and a history that is no longer than it is wide.
            inputs[name] = np.ones(shape, dtype)
    return inputs


def as_columns(inputs):
    return {name: value.tolist() for name, value in inputs.items()}


def as_rows(inputs):
    columns = as_columns(inputs)
    rows = len(next(iter(columns.values())))
    return [{name: value[k] for name, value in columns.items()} for k in range(rows)]


def rest(endpoint, body, **more):
    return endpoint.client.rest(body, model=endpoint.model, **more)


def predict(endpoint, signature="serving_default", rows=2, **changes):
    """Sends a request with some inputs changed; None omits an input."""
    inputs = {**inputs_of(endpoint, signature, rows), **changes}
    given = {name: value for name, value in inputs.items() if value is not None}
    request = predict_request(signature, endpoint.model, **given)
    return endpoint.client.send(request)


def some(endpoint, kind, signature="serving_default"):
    """Name of the first input of a kind of data type."""
    return next(
        name
        for name, info in sorted(endpoint.signatures[signature].inputs.items())
        if (info.dtype == types_pb2.DT_STRING) == (kind == "string")
    )


class TestGoodRequests:
    @pytest.mark.parametrize("rows", [1, 3])
    @pytest.mark.parametrize("signature", SIGNATURES)
    def test_every_signature_returns_its_outputs(self, endpoint, signature, rows):
        response = predict(endpoint, signature, rows)
        described = endpoint.signatures[signature].outputs
        assert response.outputs.keys() == described.keys()
        for name, proto in response.outputs.items():
            got = tf.make_ndarray(proto)
            assert proto.dtype == described[name].dtype
            assert len(got) == rows
            assert got.ndim == len(described[name].tensor_shape.dim)
            if got.dtype.kind == "f":
                assert np.isfinite(got).all()

    def test_the_answer_has_model_signature_and_version(self, endpoint):
        spec = predict(endpoint, "encode_query").model_spec
        assert (spec.name, spec.signature_name) == (endpoint.model, "encode_query")
        assert spec.version.value in endpoint.client.status(endpoint.model)

    def test_an_empty_signature_name_is_the_default_signature(self, endpoint):
        inputs = inputs_of(endpoint, "serving_default")
        response = endpoint.client.send(predict_request("", endpoint.model, **inputs))
        assert response.model_spec.signature_name == "serving_default"
        assert response.outputs == predict(endpoint).outputs

    @pytest.mark.parametrize("signature", SIGNATURES)
    def test_both_protocols_and_both_formats_agree(self, endpoint, signature):
        inputs = inputs_of(endpoint, signature)
        wanted = {
            name: tf.make_ndarray(proto)
            for name, proto in predict(endpoint, signature).outputs.items()
        }
        body = {"signature_name": signature}
        columns = rest(endpoint, {**body, "inputs": as_columns(inputs)})
        rows = rest(endpoint, {**body, "instances": as_rows(inputs)})
        assert (columns[0], rows[0]) == (200, 200)
        outputs, predictions = columns[1]["outputs"], rows[1]["predictions"]
        if len(wanted) == 1:
            # A single output has no name.
            [name] = wanted
            outputs, predictions = {name: outputs}, [{name: p} for p in predictions]
        for name, value in wanted.items():
            stacked = [row[name] for row in predictions]
            assert outputs[name] == stacked
            if value.dtype == object:
                assert outputs[name] == np.vectorize(bytes.decode)(value).tolist()
            else:
                np.testing.assert_allclose(outputs[name], value, rtol=1e-6)

    def test_a_version_can_be_requested(self, endpoint):
        status = endpoint.client.status(endpoint.model)
        number = max(n for n, state in status.items() if state == "AVAILABLE")
        inputs = inputs_of(endpoint, "serving_default")
        request = predict_request("", endpoint.model, number, **inputs)
        assert endpoint.client.send(request).model_spec.version.value == number
        where = f"/versions/{number}"
        assert rest(endpoint, {"inputs": as_columns(inputs)}, where=where)[0] == 200

    def test_outputs_can_be_selected_over_grpc(self, endpoint):
        inputs = inputs_of(endpoint, "serving_default")
        request = predict_request("", endpoint.model, **inputs)
        request.output_filter.append("scores")
        assert set(endpoint.client.send(request).outputs) == {"scores"}

    def test_signatures_are_described_over_both_protocols(self, endpoint):
        assert set(SIGNATURES) <= set(endpoint.signatures)
        path = f"/v1/models/{endpoint.model}/metadata"
        status, text = endpoint.client.http("GET", path)
        described = json.loads(text)
        assert status == 200
        assert described["model_spec"]["name"] == endpoint.model
        signatures = described["metadata"]["signature_def"]["signature_def"]
        assert signatures.keys() == endpoint.signatures.keys()
        k = signatures["recommend"]["inputs"]["k"]
        assert (k["dtype"], k["tensor_shape"]["dim"][0]["size"]) == ("DT_INT32", "-1")

    def test_the_status_is_the_same_over_both_protocols(self, endpoint):
        status, text = endpoint.client.http("GET", f"/v1/models/{endpoint.model}")
        document = json.loads(text)
        assert status == 200
        states = {
            int(each["version"]): each["state"]
            for each in document["model_version_status"]
        }
        assert states == endpoint.client.status(endpoint.model)
        assert "AVAILABLE" in states.values()
        first = document["model_version_status"][0]
        assert first["status"] == {"error_code": "OK", "error_message": ""}

    def test_paths_are_case_insensitive(self, endpoint):
        path = f"/V1/Models/{endpoint.model}"
        assert endpoint.client.http("GET", path)[0] == 200

    def test_extra_inputs_are_ignored_in_columns(self, endpoint):
        columns = as_columns(inputs_of(endpoint, "serving_default"))
        assert rest(endpoint, {"inputs": {**columns, "extra": [1]}})[0] == 200


class TestUnknownModels:
    @pytest.mark.parametrize(
        ("spec", "code", "path", "status"),
        [
            ({"model": "nowhere"}, "NOT_FOUND", "nowhere", 404),
            ({"version": 987}, "NOT_FOUND", "{}/versions/987", 404),
            ({"label": "nowhere"}, "INVALID_ARGUMENT", "{}/labels/nowhere", 400),
            ({"model": ""}, "INVALID_ARGUMENT", None, None),
            ({"model": "../../etc"}, "NOT_FOUND", "..%2F..%2Fetc", 404),
        ],
        ids=["model", "version", "label", "no name", "a path"],
    )
    def test_an_unknown_model_version_or_label_is_an_error(
        self, endpoint, spec, code, path, status
    ):
        inputs = inputs_of(endpoint, "serving_default")
        with refused(code):
            endpoint.client.send(
                predict_request(**{"model": endpoint.model, **spec}, **inputs)
            )
        if path:
            url = f"/v1/models/{path.format(endpoint.model)}:predict"
            body = {"inputs": as_columns(inputs)}
            got, text = endpoint.client.http("POST", url, body)
            assert (got, "error" in json.loads(text)) == (status, True)

    def test_an_unknown_signature_is_an_error(self, endpoint):
        inputs = inputs_of(endpoint, "serving_default")
        with refused("FAILED_PRECONDITION"):
            endpoint.client.send(predict_request("nowhere", endpoint.model, **inputs))
        body = {"signature_name": "nowhere", "inputs": as_columns(inputs)}
        assert rest(endpoint, body)[0] == 400

    def test_a_request_without_a_model_spec_is_an_error(self, endpoint):
        request = predict_request()
        request.ClearField("model_spec")
        with refused("INVALID_ARGUMENT"):
            endpoint.client.send(request)

    def test_the_status_of_an_unknown_model_is_not_found(self, endpoint):
        with refused("NOT_FOUND"):
            endpoint.client.status("nowhere")
        assert endpoint.client.http("GET", "/v1/models/nowhere")[0] == 404
        assert endpoint.client.http("GET", "/v1/models/nowhere/metadata")[0] == 404

    def test_unknown_metadata_fields_are_an_error(self, endpoint):
        for fields in ((), ("weights",)):
            with refused("INVALID_ARGUMENT"):
                endpoint.client.metadata(endpoint.model, fields)


class TestInputs:
    @pytest.mark.parametrize("signature", SIGNATURES)
    def test_a_missing_input_is_an_error(self, endpoint, signature):
        name = some(endpoint, "string", signature)
        with refused("INVALID_ARGUMENT") as said:
            predict(endpoint, signature, **{name: None})
        assert name in said["details"]
        inputs = inputs_of(endpoint, signature)
        del inputs[name]
        for form in ({"inputs": as_columns(inputs)}, {"instances": as_rows(inputs)}):
            assert rest(endpoint, {"signature_name": signature, **form})[0] == 400

    def test_an_extra_input_is_an_error(self, endpoint):
        with refused("INVALID_ARGUMENT"):
            predict(endpoint, extra=[1.0, 2.0])
        inputs = inputs_of(endpoint, "serving_default")
        rows = [{**row, "extra": 1} for row in as_rows(inputs)]
        assert rest(endpoint, {"instances": rows})[0] == 400

    def test_an_extra_input_in_place_of_another_is_an_error(self, endpoint):
        with refused("INVALID_ARGUMENT"):
            predict(endpoint, **{some(endpoint, "string"): None, "extra": ["a", "b"]})

    def test_an_input_of_another_type_is_an_error(self, endpoint):
        for kind, wrong in (("string", [1, 2]), ("number", ["a", "b"])):
            name = some(endpoint, kind)
            with refused("INVALID_ARGUMENT"):
                predict(endpoint, **{name: wrong})
            columns = as_columns(inputs_of(endpoint, "serving_default"))
            assert rest(endpoint, {"inputs": {**columns, name: wrong}})[0] == 400

    def test_values_are_not_converted_over_rest(self, endpoint):
        inputs = as_columns(inputs_of(endpoint, "recommend"))
        for wrong in (2.0, "2", True, None):
            body = {"signature_name": "recommend"}
            body["inputs"] = {**inputs, "k": [wrong, wrong]}
            assert rest(endpoint, body)[0] == 400

    def test_an_input_of_another_rank_is_an_error(self, endpoint):
        for signature in ("serving_default", "rank"):
            name = some(endpoint, "string", signature)
            value = inputs_of(endpoint, signature)[name]
            with refused("INVALID_ARGUMENT"):
                predict(endpoint, signature, **{name: value[..., None]})

    def test_an_input_with_another_number_of_rows_is_an_error(self, endpoint):
        name = some(endpoint, "string", "rank")
        value = inputs_of(endpoint, "rank", rows=3)[name]
        with refused("INVALID_ARGUMENT"):
            predict(endpoint, "rank", **{name: value})

    def test_a_k_below_one_is_refused_or_gives_no_items(self, endpoint):
        try:
            outputs = predict(endpoint, "recommend", k=np.int32([0, 1])).outputs
        except grpc.RpcError as error:
            assert error.details() == "`k` must be at least 1. Received: 0 in row 0"
        else:
            items = tf.make_ndarray(outputs["item_ids"])
            assert (items[0].tolist(), len(items[1])) == ([b""], 1)

    def test_a_k_beyond_the_catalogue_gives_all_items(self, endpoint):
        empty = np.full((2, 1), "", object)
        outputs = predict(
            endpoint,
            "recommend",
            k=np.int32([2**31 - 1, 1]),
            exclude_ids=empty,
            allow_ids=empty,
        ).outputs
        items = tf.make_ndarray(outputs["item_ids"])
        assert len(set(items[0].tolist())) == items.shape[1]
        assert items[0].all() and not items[1, 1:].any()

    def test_values_that_do_not_fill_the_shape_are_an_error(self, endpoint):
        inputs = inputs_of(endpoint, "recommend")
        request = predict_request("recommend", endpoint.model, **inputs)
        request.inputs["k"].tensor_content = b"123"
        with refused("INVALID_ARGUMENT"):
            endpoint.client.send(request)

    def test_an_unknown_or_repeated_output_is_an_error(self, endpoint):
        inputs = inputs_of(endpoint, "serving_default")
        for names in (["nothing"], ["scores", "scores"]):
            request = predict_request("", endpoint.model, **inputs)
            request.output_filter.extend(names)
            with refused("INVALID_ARGUMENT"):
                endpoint.client.send(request)


class TestSizes:
    def test_a_request_without_rows_has_an_empty_answer(self, endpoint):
        if endpoint.engine == "given":
            pytest.skip("With batching, TensorFlow Serving may delay the request")
        outputs = predict(endpoint, rows=0).outputs
        assert {len(tf.make_ndarray(proto)) for proto in outputs.values()} == {0}

    def test_an_empty_list_of_instances_is_an_error(self, endpoint):
        assert rest(endpoint, {"instances": []})[0] == 400

    def test_a_request_that_is_too_large_is_rejected(self, endpoint):
        if endpoint.engine != "embedded":
            pytest.skip("TensorFlow Serving accepts requests up to 2 GiB")
        large = np.full((70, 1), "x" * 2**20, object)
        with refused("RESOURCE_EXHAUSTED"):
            predict(endpoint, rows=70, **{some(endpoint, "string"): large})
        # The header is enough to reject it.
        path = f"/v1/models/{endpoint.model}:predict"
        headers = {"Content-Length": str(2**40)}
        status, text = endpoint.client.http("POST", path, b"{", headers)
        assert (status, "at most" in text) == (413, True)
        assert rest(endpoint, {"instances": []})[0] == 400


class TestHttp:
    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[]", b"{}", b'{"instances": 1}', b'{"inputs": 1}', b"\xff\xfe"],
    )
    def test_an_invalid_body_is_an_error(self, endpoint, body):
        path = f"/v1/models/{endpoint.model}:predict"
        status, text = endpoint.client.http("POST", path, body)
        assert (status, "error" in json.loads(text)) == (400, True)

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/v1/models/{}:predict", 400),
            ("POST", "/v1/models/{}", 400),
            ("POST", "/v1/models/{}:explain", 400),
            ("GET", "/v1/models/{}/versions/one", 400),
            ("GET", "/v1/", 400),
            ("GET", "/", 404),
            ("GET", "/etc/passwd", 404),
        ],
    )
    def test_an_unknown_path_is_an_error(self, endpoint, method, path, status):
        url = path.format(endpoint.model)
        assert endpoint.client.http(method, url, b"")[0] == status

    def test_a_connection_serves_several_requests(self, endpoint):
        connection = http.client.HTTPConnection(
            endpoint.client.host, endpoint.client.rest_port
        )
        path = f"/v1/models/{endpoint.model}"
        for method, where, status in (
            ("GET", path, 200),
            ("POST", f"{path}:predict", 400),
            ("GET", path, 200),
        ):
            connection.request(method, where, b"{}" if method == "POST" else None)
            response = connection.getresponse()
            response.read()
            assert response.status == status
        connection.close()
