"""Requests of both protocols, as protocol buffer messages."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
)

from recdistill.serving.server.loaded_model import (
    LoadedSignature,
    request_inputs,
    request_outputs,
)
from recdistill.serving.server.request_errors import invalid
from recdistill.serving.server.served_models import ServedModels
from recdistill.serving.server.server_metrics import ServerMetrics
from recdistill.serving.server.versions import ModelVersion
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
        spec = _spec(request)
        with self.models.use(spec) as version:
            signature = version.signature(spec.signature_name)
            values = request_inputs(signature, request)
            outputs = request_outputs(signature, request.output_filter)
            answer = self._timed(
                spec.name,
                lambda: version.answer(signature, values, outputs, None, deadline_s),
            )
        response = predict_pb2.PredictResponse()
        response.model_spec.name = spec.name
        response.model_spec.signature_name = signature.name
        response.model_spec.version.value = version.number
        for name, array in zip(outputs, answer, strict=True):
            write_tensor(array, response.outputs[name])
        return response

    def predict_arrays(
        self,
        spec: model_pb2.ModelSpec,
        read: Callable[[ModelVersion], tuple[LoadedSignature, list[np.ndarray]]],
        timeout_s: float,
    ) -> dict[str, np.ndarray]:
        """Answers a REST request with all outputs.

        Args:
            spec: Model, version or label.
            read: Reads the inputs, given the version, because JSON does not have the
                types of a signature.
            timeout_s: Timeout in seconds.

        Returns:
            Arrays by output name.

        Raises:
            RequestError: If the request is invalid or the model fails.
        """
        with self.models.use(spec) as version:
            signature, values = read(version)
            outputs = tuple(signature.outputs)
            answer = self._timed(
                spec.name,
                lambda: version.answer(signature, values, outputs, timeout_s),
            )
        return dict(zip(outputs, answer, strict=True))

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

    def measure(
        self, model: str, protocol: str, method: str, status: str, started: float
    ) -> None:
        """Records a prediction request in the metrics.

        Args:
            model: Model name in the request.
            protocol: "GRPC" or "REST".
            method: TensorFlow Serving's name of the method for this protocol.
            status: Name of the status code.
            started: Start of the request, by `time.perf_counter`.
        """
        # Unknown names are not recorded, because clients could fill the memory.
        name = model if model in self.models.names else UNKNOWN_MODEL
        microseconds = (time.perf_counter() - started) * 1e6
        metrics, prefix = self.metrics, ":tensorflow:serving"
        metrics.count(f"{prefix}:request_count", name, status)
        metrics.observe(
            f"{prefix}:request_latency", microseconds, name, method, protocol
        )

    def _timed(
        self, model: str, run: Callable[[], list[np.ndarray]]
    ) -> list[np.ndarray]:
        started = time.perf_counter()
        answer = run()
        microseconds = (time.perf_counter() - started) * 1e6
        name = ":tensorflow:serving:runtime_latency"
        self.metrics.observe(name, microseconds, model, "Predict", "TF1")
        return answer


def _spec(
    request: predict_pb2.PredictRequest
    | get_model_metadata_pb2.GetModelMetadataRequest
    | get_model_status_pb2.GetModelStatusRequest,
) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec
