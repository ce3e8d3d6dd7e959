"""gRPC services of the embedded server, on the official stubs."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent import futures
from typing import Any, NoReturn, TypeVar

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from recdistill.errors import ServeError
from recdistill.serving.server.options import ServerOptions
from recdistill.serving.server.request_errors import Code, RequestError
from recdistill.serving.server.requests import Requests

__all__ = ["GrpcServer"]

In = TypeVar("In")
Out = TypeVar("Out")

_STATUS = {code.value[0]: code for code in grpc.StatusCode}


class GrpcServer:
    """gRPC server.

    Args:
        requests: Answers the requests.
        options: Address, port, threads and limits.

    Raises:
        ServeError: If the port is not available.
    """

    def __init__(self, requests: Requests, options: ServerOptions) -> None:
        self._server = grpc.server(
            futures.ThreadPoolExecutor(
                options.threads(options.grpc_threads), thread_name_prefix="grpc"
            ),
            options=[
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Else a second server could share the port and get some requests.
                ("grpc.so_reuseport", 0),
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(requests), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            _ModelService(requests), self._server
        )
        address = f"{options.address}:{options.port}"
        if ":" in options.address:
            address = f"[{options.address}]:{options.port}"
        try:
            self.port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            message = f"The server cannot listen for gRPC at {address}: {error}"
            raise ServeError(message) from error

    def start(self) -> None:
        """Starts to answer requests."""
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Rejects new requests and waits for running ones.

        Args:
            grace_s: Seconds until running requests are cancelled.
        """
        self._server.stop(grace_s).wait()


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        started, status = time.perf_counter(), "OK"
        try:
            return self._requests.predict(request, context.time_remaining())
        except RequestError as error:
            status = error.code.name
            _refuse(context, error)
        finally:
            name = request.model_spec.name
            self._requests.measure(name, "GRPC", "Predict", status, started)

    def GetModelMetadata(
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        return _answered(self._requests.metadata, request, context)

    def Classify(self, request: Any, context: grpc.ServicerContext) -> NoReturn:
        _refuse(context, _only_predict("Classify"))

    def Regress(self, request: Any, context: grpc.ServicerContext) -> NoReturn:
        _refuse(context, _only_predict("Regress"))

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> NoReturn:
        _refuse(context, _only_predict("MultiInference"))


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def GetModelStatus(
        self,
        request: get_model_status_pb2.GetModelStatusRequest,
        context: grpc.ServicerContext,
    ) -> get_model_status_pb2.GetModelStatusResponse:
        return _answered(self._requests.status, request, context)

    def HandleReloadConfigRequest(
        self,
        request: model_management_pb2.ReloadConfigRequest,
        context: grpc.ServicerContext,
    ) -> model_management_pb2.ReloadConfigResponse:
        return _answered(self._requests.reconfigure, request, context)


def _answered(
    answer: Callable[[In], Out], request: In, context: grpc.ServicerContext
) -> Out:
    try:
        return answer(request)
    except RequestError as error:
        _refuse(context, error)


def _refuse(context: grpc.ServicerContext, error: RequestError) -> NoReturn:
    context.abort(_STATUS[error.code], error.message)
    raise error  # Not reached: `abort` raises.


def _only_predict(method: str) -> RequestError:
    message = f"The embedded server does not support {method}. Use Predict."
    return RequestError(Code.UNIMPLEMENTED, message)
