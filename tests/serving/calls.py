"""Requests over both protocols for tests."""

import contextlib
import http.client
import json

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving.waiting import LONG_S


def predict_request(signature="", model="toy", version=None, label=None, **inputs):
    """A request; inputs are tensor messages or array-like."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for name, value in inputs.items():
        proto = (
            value
            if hasattr(value, "dtype") and hasattr(value, "tensor_shape")
            else tf.make_tensor_proto(value)
        )
        request.inputs[name].CopyFrom(proto)
    return request


class Client:
    """Client of one server with the official stubs and plain HTTP."""

    def __init__(self, port, rest_port=None, host="127.0.0.1", options=()):
        self.host, self.port, self.rest_port = host, port, rest_port
        self.channel = grpc.insecure_channel(f"{host}:{port}", options=list(options))
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(
            self.channel
        )
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def close(self):
        self.channel.close()

    def send(self, request, timeout=LONG_S):
        return self.prediction.Predict(request, timeout=timeout)

    def predict(self, signature="", timeout=LONG_S, output_filter=(), **given):
        """Outputs as arrays by name, and the version that answered."""
        request = predict_request(signature, **given)
        request.output_filter.extend(output_filter)
        response = self.send(request, timeout)
        outputs = {n: tf.make_ndarray(v) for n, v in response.outputs.items()}
        return outputs, response.model_spec.version.value

    def metadata(self, model="toy", fields=("signature_def",)):
        request = get_model_metadata_pb2.GetModelMetadataRequest()
        request.model_spec.name = model
        request.metadata_field.extend(fields)
        return self.prediction.GetModelMetadata(request, timeout=LONG_S)

    def status(self, model="toy", version=None):
        """State of each version by number."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        if version is not None:
            request.model_spec.version.value = version
        response = self.model.GetModelStatus(request, timeout=LONG_S)
        state = get_model_status_pb2.ModelVersionStatus.State
        return {
            each.version: state.Name(each.state)
            for each in response.model_version_status
        }

    def reload(self, config):
        request = model_management_pb2.ReloadConfigRequest(config=config)
        return self.model.HandleReloadConfigRequest(request, timeout=LONG_S)

    def http(self, method, path, body=None, headers=()):
        """Status and body of one HTTP request."""
        with contextlib.closing(
            http.client.HTTPConnection(self.host, self.rest_port, timeout=LONG_S)
        ) as connection:
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "surrogateescape")

    def rest(self, body, model="toy", where="", method="predict"):
        """Status and document of a prediction request."""
        status, text = self.http("POST", f"/v1/models/{model}{where}:{method}", body)
        return status, json.loads(text)


@contextlib.contextmanager
def refused(code):
    """Checks that the call inside fails with a code, and yields the error."""
    said = {}
    try:
        yield said
    except grpc.RpcError as error:
        said["code"], said["details"] = error.code().name, error.details()
    assert said.get("code") == code, said
