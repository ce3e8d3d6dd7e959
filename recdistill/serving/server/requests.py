"""What requests of both protocols have in common: each as messages in and out."""

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

from recdistill.serving.server.loaded_model import Signature, inputs_of, outputs_of
from recdistill.serving.server.request_errors import invalid
from recdistill.serving.server.served_models import Catalogue
from recdistill.serving.server.server_metrics import Metrics
from recdistill.serving.server.versions import Version
from recdistill.serving.server.wire_tensors import write_tensor

__all__ = ["Requests"]

SIGNATURE_DEF = "signature_def"
"""The only metadata field there is."""

UNKNOWN_MODEL = ""
"""The name under which requests for models that are not there are counted."""

Arrays = dict[str, np.ndarray]


class Requests:
    """Answers requests.

    Args:
        catalogue: The models.
        metrics: Where requests are counted.
    """

    def __init__(self, catalogue: Catalogue, metrics: Metrics) -> None:
        self.catalogue, self.metrics = catalogue, metrics

    def predict(
        self, request: predict_pb2.PredictRequest, deadline_s: float | None = None
    ) -> predict_pb2.PredictResponse:
        """Answers a request that came over gRPC.

        Args:
            request: The request.
            deadline_s: How long the client waits.

        Raises:
            RequestError: If the request or the model is wrong.
        """
        spec = _spec(request)
        version = self.catalogue.hold(spec)
        try:
            signature = version.signature(spec.signature_name)
            values = inputs_of(signature, request)
            outputs = outputs_of(signature, request.output_filter)
            answer = self._run(
                spec.name,
                lambda: version.answer(signature, values, outputs, None, deadline_s),
            )
            response = predict_pb2.PredictResponse()
            described = response.model_spec
            described.name, described.signature_name = spec.name, signature.name
            described.version.value = version.number
        finally:
            version.let_go()
        for name, array in zip(outputs, answer, strict=True):
            write_tensor(array, response.outputs[name])
        return response

    def predict_arrays(
        self,
        spec: model_pb2.ModelSpec,
        read: Callable[[Version], tuple[Signature, list[np.ndarray]]],
        timeout_s: float,
    ) -> Arrays:
        """Answers a request that came over REST, with all outputs.

        Args:
            spec: Which model is meant.
            read: Reads the request, given the version: JSON says no types.
            timeout_s: How long it may take.

        Returns:
            Arrays by output name.

        Raises:
            RequestError: If the request or the model is wrong.
        """
        version = self.catalogue.hold(spec)
        try:
            signature, values = read(version)
            outputs = tuple(signature.outputs)
            answer = self._run(
                spec.name,
                lambda: version.answer(signature, values, outputs, timeout_s),
            )
        finally:
            version.let_go()
        return dict(zip(outputs, answer, strict=True))

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures of a version.

        Args:
            request: The request.

        Raises:
            RequestError: If it names no model, or another field than the signatures.
        """
        spec = _spec(request)
        if not request.metadata_field:
            raise invalid(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        version = self.catalogue.hold(spec)
        try:
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, definition in version.model.signature_defs.items():
                signatures.signature_def[name].CopyFrom(definition)
        finally:
            version.let_go()
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = version.number
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The state of the versions of a model.

        Args:
            request: The request.

        Raises:
            RequestError: If it names no model or version that is known.
        """
        return self.catalogue.status(_spec(request))

    def reconfigure(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """Takes another configuration.

        Args:
            request: The request.

        Raises:
            RequestError: If it is not taken.
        """
        if not request.HasField("config"):
            raise invalid("ReloadConfigRequest must have a config.")
        self.catalogue.reconfigure(request.config)
        return model_management_pb2.ReloadConfigResponse()

    def measure(
        self, model: str, protocol: str, method: str, status: str, started: float
    ) -> None:
        """Counts one request for a prediction.

        Args:
            model: Its name, as the request has it.
            protocol: "GRPC" or "REST".
            method: As the model server calls it over this protocol.
            status: The name of its code.
            started: When it began, by `time.perf_counter`.
        """
        # Names that clients make up would fill the memory.
        name = model if model in self.catalogue.names else UNKNOWN_MODEL
        microseconds = (time.perf_counter() - started) * 1e6
        metrics, prefix = self.metrics, ":tensorflow:serving"
        metrics.count(f"{prefix}:request_count", name, status)
        metrics.observe(
            f"{prefix}:request_latency", microseconds, name, method, protocol
        )

    def _run(self, model: str, run: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
        started = time.perf_counter()
        answer = run()
        self.metrics.observe(
            ":tensorflow:serving:runtime_latency",
            (time.perf_counter() - started) * 1e6,
            model,
            "Predict",
            "TF1",
        )
        return answer


def _spec(
    request: predict_pb2.PredictRequest
    | get_model_metadata_pb2.GetModelMetadataRequest
    | get_model_status_pb2.GetModelStatusRequest,
) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec
