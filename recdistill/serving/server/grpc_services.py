"""gRPC services of the embedded server, with the messages of the official stubs.

Requests arrive as bytes and are decoded here, after their memory is reserved.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from recdistill.errors import ServeError
from recdistill.serving.server.admission import HeldMemory, RequestMemory, Slots
from recdistill.serving.server.options import ServerOptions
from recdistill.serving.server.request_errors import RequestError, too_large
from recdistill.serving.server.requests import Requests
from recdistill.serving.server.wire_tensors import check_fields, memory_of_request

__all__ = ["GrpcServer"]

Method = Callable[[bytes, grpc.ServicerContext, HeldMemory], Message]

_DECODED = 32
"""Maximum memory of a decoded message, as a multiple of its size."""

_LARGEST_OTHER = 2**20
"""Maximum size of a message that has no tensors."""

_RECEIVE_S = 30.0
"""Time in which a client must send the message of a call, in seconds."""

_log = logging.getLogger(__name__)


class GrpcServer:
    """gRPC server.

    Args:
        requests: Answers the requests.
        options: Address, port, threads and limits.
        memory: Memory for the requests of all protocols.

    Raises:
        ServeError: If the port is not available.
    """

    def __init__(
        self, requests: Requests, options: ServerOptions, memory: RequestMemory
    ) -> None:
        running = options.threads(options.grpc_threads)
        calls = running + options.waiting
        self._server = grpc.server(
            futures.ThreadPoolExecutor(calls, thread_name_prefix="grpc"),
            maximum_concurrent_rpcs=calls,
            options=[
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Otherwise a second server could share the port and get some requests.
                ("grpc.so_reuseport", 0),
            ],
        )
        self._receiving = _Receiving()
        slots = Slots(running, options.waiting)
        methods = _Methods(requests, memory, slots, self._receiving)
        for service, handlers in methods.handlers().items():
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, handlers),)
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
        self._receiving.start()

    def stop(self, grace_s: float) -> None:
        """Rejects new requests and waits for running ones.

        Args:
            grace_s: Seconds until running requests are cancelled.
        """
        self._server.stop(grace_s).wait()
        self._receiving.stop()


class _Receiving:
    """Receives messages, and cancels calls that do not send theirs in time."""

    def __init__(self) -> None:
        self._due: dict[grpc.ServicerContext, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Starts watching the calls."""
        self._thread.start()

    def stop(self) -> None:
        """Stops watching the calls."""
        self._stopped.set()

    def message(
        self, messages: Iterator[bytes], context: grpc.ServicerContext
    ) -> bytes:
        """The only message of a call.

        Raises:
            RequestError: If there is none, or it does not arrive in time.
        """
        self._due[context] = time.monotonic() + _RECEIVE_S
        try:
            return next(messages)
        except StopIteration as error:
            raise RequestError(
                grpc.StatusCode.UNIMPLEMENTED, "A call must have one message."
            ) from error
        finally:
            del self._due[context]

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, _RECEIVE_S)):
            now = time.monotonic()
            for context, due in list(self._due.items()):
                if due < now:
                    context.cancel()


class _Methods:
    """Methods of both services, from bytes to messages."""

    def __init__(
        self,
        requests: Requests,
        memory: RequestMemory,
        slots: Slots,
        receiving: _Receiving,
    ) -> None:
        self._requests, self._memory, self._slots = requests, memory, slots
        self._receiving = receiving

    def handlers(self) -> dict[str, dict[str, grpc.RpcMethodHandler]]:
        """Handlers by service and method."""
        requests = self._requests
        prediction = {
            "Predict": self._predict,
            "GetModelMetadata": _small(
                get_model_metadata_pb2.GetModelMetadataRequest, requests.metadata
            ),
            "Classify": _small(
                classification_pb2.ClassificationRequest, self._unsupported
            ),
            "Regress": _small(regression_pb2.RegressionRequest, self._unsupported),
            "MultiInference": _small(
                inference_pb2.MultiInferenceRequest, self._unsupported
            ),
        }
        models = {
            "GetModelStatus": _small(
                get_model_status_pb2.GetModelStatusRequest, requests.status
            ),
            "HandleReloadConfigRequest": _small(
                model_management_pb2.ReloadConfigRequest, requests.reconfigure
            ),
        }
        return {
            f"tensorflow.serving.{service}": {
                # A handler of streams is called before the message has arrived.
                name: grpc.stream_unary_rpc_method_handler(
                    self._safe(name, method),
                    response_serializer=lambda message: message.SerializeToString(),
                )
                for name, method in methods.items()
            }
            for service, methods in (
                ("PredictionService", prediction),
                ("ModelService", models),
            )
        }

    def _safe(self, name: str, method: Method) -> Callable[..., Message]:
        """A method whose errors end the call with a code, and log one line at most."""

        def call(messages: Iterator[bytes], context: grpc.ServicerContext) -> Message:
            try:
                data = self._receiving.message(messages, context)
                with self._memory.held() as held:
                    return method(data, context, held)
            except RequestError as error:
                context.abort(error.code, error.message)
            except DecodeError:
                _log.warning("%s: %d bytes cannot be decoded.", name, len(data))
                context.abort(
                    grpc.StatusCode.INTERNAL,
                    f"The message cannot be decoded as a request of {name}.",
                )
            except Exception as error:
                if not context.is_active():
                    raise  # The client cancelled the call; gRPC does not log it.
                text = f"{type(error).__name__}: {error}"
                _log.error("%s failed: %s", name, text)
                context.abort(
                    grpc.StatusCode.INTERNAL, f"The server failed with {text}"
                )
            raise AssertionError  # Not reached: `abort` raises.

        return call

    def _predict(
        self, data: bytes, context: grpc.ServicerContext, held: HeldMemory
    ) -> Message:
        with contextlib.ExitStack() as stack:
            try:
                held.resize(len(data))
                stack.enter_context(self._slots.slot(context.time_remaining()))
                held.resize(_DECODED * len(data))
            except RequestError as error:
                # Its model is not known yet.
                count = self._requests.metrics.count
                count(":tensorflow:serving:request_count", "", error.code.name)
                raise
            if not context.is_active():
                raise RequestError(grpc.StatusCode.CANCELLED, "The client cancelled.")
            check_fields(data)
            request = predict_pb2.PredictRequest.FromString(data)
            held.resize(memory_of_request(request, len(data)))
            return self._requests.predict(request, context.time_remaining())

    def _unsupported(self, request: Any) -> Message:
        task = request.tasks[0] if hasattr(request, "tasks") else request
        name = type(request).__name__.removesuffix("Request")
        raise self._requests.unsupported(task.model_spec, name)


def _small(kind: type[Message], answer: Callable[[Any], Message]) -> Method:
    """A method whose messages have no tensors."""

    def method(data: bytes, context: grpc.ServicerContext, held: HeldMemory) -> Message:
        if len(data) > _LARGEST_OTHER:
            raise too_large(f"This message must have at most {_LARGEST_OTHER} bytes.")
        held.resize(_DECODED * len(data))
        return answer(kind.FromString(data))

    return method
