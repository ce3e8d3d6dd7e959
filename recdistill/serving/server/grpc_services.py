"""gRPC services of the embedded server, on the official stubs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import Any, TypeVar

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
from recdistill.serving.server.request_errors import RequestError
from recdistill.serving.server.requests import Requests

__all__ = ["GrpcServer"]

In = TypeVar("In")
Out = TypeVar("Out")


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
                # Otherwise a second server could share the port and get some requests.
                ("grpc.so_reuseport", 0),
            ],
        )
        services = _Services(requests)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            services, self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            services, self._server
        )
        host = f"[{options.address}]" if ":" in options.address else options.address
        address = f"{host}:{options.port}"
        try:
            self.port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ServeError(
                f"The server cannot listen for gRPC at {address}: {error}"
            ) from error

    def start(self) -> None:
        """Starts to answer requests."""
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Rejects new requests and waits for running ones.

        Args:
            grace_s: Seconds until running requests are cancelled.
        """
        self._server.stop(grace_s).wait()


class _Services(
    prediction_service_pb2_grpc.PredictionServiceServicer,  # type: ignore[misc]
    model_service_pb2_grpc.ModelServiceServicer,  # type: ignore[misc]
):
    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        predict, left = self._requests.predict, context.time_remaining()
        return _answered(lambda request: predict(request, left), request, context)

    def GetModelMetadata(
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        return _answered(self._requests.metadata, request, context)

    def Classify(self, request: Any, context: grpc.ServicerContext) -> None:
        context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "The embedded server does not support this method. Use Predict.",
        )

    Regress = MultiInference = Classify

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
        context.abort(error.code, error.message)
        raise  # Not reached: `abort` raises.
