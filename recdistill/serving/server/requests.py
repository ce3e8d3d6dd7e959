"""Requests of both protocols, as protocol buffer messages."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
from grpc import StatusCode
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
)

from recdistill.serving.client.input_checks import value_problem
from recdistill.serving.server.request_errors import RequestError, invalid
from recdistill.serving.server.served_models import ServedModels
from recdistill.serving.server.server_metrics import ServerMetrics
from recdistill.serving.server.versions import ModelVersion, Prediction
from recdistill.serving.server.wire_tensors import write_tensor

__all__ = ["Requests"]

SIGNATURE_DEF = "signature_def"
"""The only supported metadata field."""

UNKNOWN_MODEL = ""
"""Model name in the metrics of requests for unknown models."""


class Requests:
    """Answers requests.

    Args:
        models: The served models.
        metrics: Metrics of the server.
    """

    def __init__(self, models: ServedModels, metrics: ServerMetrics) -> None:
        self.models, self.metrics = models, metrics

    def predict(
        self, request: predict_pb2.PredictRequest, deadline_s: float | None = None
    ) -> predict_pb2.PredictResponse:
        """Answers a gRPC request.

        Args:
            request: The request.
            deadline_s: Time until the client's deadline, in seconds.

        Raises:
            RequestError: If the request is invalid or the model fails.
        """
        response = predict_pb2.PredictResponse()

        def read(version: ModelVersion) -> Prediction:
            prediction = version.prediction(request)
            response.model_spec.name = request.model_spec.name
            response.model_spec.signature_name = prediction.signature.name
            response.model_spec.version.value = version.number
            return prediction

        with self.measured(request.model_spec.name, "GRPC", "Predict"):
            answer = self.run(_spec(request), read, deadline_s)
            for name, array in answer.items():
                write_tensor(array, response.outputs[name])
        return response

    def run(
        self,
        spec: model_pb2.ModelSpec,
        read: Callable[[ModelVersion], Prediction],
        deadline_s: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs a prediction.

        Args:
            spec: Model, version or label.
            read: Converts the request to arrays, by the signatures of the version.
            deadline_s: Time until the deadline, in seconds.

        Returns:
            Arrays by output name.

        Raises:
            RequestError: If the request is invalid, the model fails or the deadline has
                passed.
        """
        with self.models.use(spec) as version:
            prediction, started = read(version), time.perf_counter()
            _check_values(prediction)
            answer = version.answer(prediction, deadline_s)
            seconds = time.perf_counter() - started
        name = ":tensorflow:serving:runtime_latency"
        self.metrics.observe(name, seconds * 1e6, spec.name, "Predict", "TF1")
        if deadline_s is not None and seconds > deadline_s:
            raise RequestError(
                StatusCode.DEADLINE_EXCEEDED,
                "The deadline of the request passed while it ran.",
            )
        return dict(zip(prediction.outputs, answer, strict=True))

    def unsupported(self, spec: model_pb2.ModelSpec, method: str) -> RequestError:
        """Error of a method other than predict, which no signature of ours has.

        Args:
            spec: Model, version or label of the request.
            method: The method.

        Raises:
            RequestError: If the model or version is not served.
        """
        with self.models.use(spec):
            return invalid(f"The signatures do not support {method}. Use predict.")

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Returns the signatures of a version.

        Raises:
            RequestError: If the model is unknown, or a metadata field other than the
                signatures is requested.
        """
        spec = _spec(request)
        if not request.metadata_field:
            raise invalid(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self.models.use(spec) as version:
            for name, definition in version.model.signature_defs.items():
                signatures.signature_def[name].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = version.number
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the state of the versions of a model.

        Raises:
            RequestError: If the model or version is unknown.
        """
        return self.models.status(_spec(request))

    def reconfigure(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """Applies a new configuration.

        Raises:
            RequestError: If the configuration is rejected.
        """
        if not request.HasField("config"):
            raise invalid("ReloadConfigRequest must have a config.")
        self.models.reconfigure(request.config)
        return model_management_pb2.ReloadConfigResponse()

    def count_unread(self, error: RequestError) -> None:
        """Counts a prediction that was refused before its model was known.

        Args:
            error: The error of the request.
        """
        name = ":tensorflow:serving:request_count"
        self.metrics.count(name, UNKNOWN_MODEL, error.code.name)

    @contextlib.contextmanager
    def measured(self, model: str, protocol: str, method: str) -> Iterator[None]:
        """Records a prediction request in the metrics.

        Args:
            model: Model name in the request.
            protocol: "GRPC" or "REST".
            method: TensorFlow Serving's name of the method for this protocol.
        """
        started, status = time.perf_counter(), "INTERNAL"
        try:
            yield
            status = "OK"
        except RequestError as error:
            status = error.code.name
            raise
        finally:
            # Unknown names are not recorded, because clients could fill the memory.
            name = model if model in self.models.names else UNKNOWN_MODEL
            microseconds = (time.perf_counter() - started) * 1e6
            self.metrics.count(":tensorflow:serving:request_count", name, status)
            latency = ":tensorflow:serving:request_latency"
            self.metrics.observe(latency, microseconds, name, method, protocol)


def _spec(
    request: predict_pb2.PredictRequest
    | get_model_metadata_pb2.GetModelMetadataRequest
    | get_model_status_pb2.GetModelStatusRequest,
) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def _check_values(prediction: Prediction) -> None:
    signature, arrays, _ = prediction
    inputs = dict(zip(signature.inputs, arrays, strict=True))
    problem = value_problem(signature.shapes, inputs)
    if problem is not None:
        raise invalid(problem)
