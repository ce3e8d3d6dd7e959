"""gRPC services of the embedded server, with the messages of the official stubs.

Requests arrive as bytes and are decoded here, after their memory is reserved. A call is
admitted when it arrives, before a thread is needed for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
from recdistill.serving.server.admission import HeldMemory, RequestMemory
from recdistill.serving.server.options import ServerOptions
from recdistill.serving.server.request_errors import RequestError, too_large
from recdistill.serving.server.requests import Requests
from recdistill.serving.server.wire_tensors import check_fields, memory_of_request
from recdistill.serving.server.workers import Workers

__all__ = ["GrpcServer"]

Method = Callable[[bytes, grpc.ServicerContext, HeldMemory], Message]

_DECODED = 32
"""Maximum memory of a decoded message, as a multiple of its size."""

_LARGEST_OTHER = 2**20
"""Maximum size of a message that has no tensors."""

_RECEIVE_S = 30.0
"""Time in which a client must send the message of a call, in seconds."""

_SLOW_S = 0.05
"""Time after which a thread that waits for a message is replaced, in seconds."""

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
        self._workers = Workers(running, options.waiting, "grpc")
        calls = _Calls(self._workers)
        self._server = grpc.server(
            calls,
            options=[
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Otherwise a second server could share the port and get some requests.
                ("grpc.so_reuseport", 0),
            ],
        )
        self._receiving = _Receiving(self._workers)
        methods = _Methods(requests, memory, self._workers, calls, self._receiving)
        for service, handlers in methods.handlers().items():
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, handlers),)
            )
        host = f"[{options.address}]" if ":" in options.address else options.address
        address = f"{host}:{options.port}"
        try:
            self.port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            self._workers.close()
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
        self._workers.close()


class _Calls(futures.Executor):
    """Executor of calls, for gRPC.

    gRPC submits a call when its headers have arrived. One that is refused runs at once
    in gRPC's thread, where it must not wait.

    Args:
        workers: Threads for the calls.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers, self._here = workers, threading.local()

    @property
    def refusal(self) -> RequestError | None:
        """Why the call that runs in this thread is refused; None if it is not."""
        return getattr(self._here, "refusal", None)

    @property
    def waited(self) -> bool:
        """Whether the call that runs in this thread has waited."""
        return bool(self._here.waited)

    def submit(
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> futures.Future[Any]:
        """Adds a call to the queue, or refuses it."""
        future: futures.Future[Any] = futures.Future()

        def work(waited: bool) -> None:
            self._here.waited = waited
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        try:
            self._workers.submit(work, _time_left(args))
        except RequestError as error:
            self._here.refusal = error
            work(False)
            self._here.refusal = None
        return future


def _time_left(call: Sequence[Any]) -> float | None:
    """Time until the deadline of a call, which gRPC publishes only to its handler.

    Args:
        call: The arguments with which gRPC submits the call.
    """
    for each in call:
        details = getattr(each, "call_details", None)
        if details is not None:
            return max(0.0, float(details.deadline) - time.time())
    return None


class _Receiving:
    """Receives messages, and cancels calls that do not send theirs in time.

    Args:
        workers: Their threads are replaced while they wait for messages.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
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
        blocked = 0
        while not self._stopped.wait(_SLOW_S):
            due, now = list(self._due.items()), time.monotonic()
            for context, end in due:
                if end < now:
                    context.cancel()
            slow = sum(end - _RECEIVE_S + _SLOW_S < now for _, end in due)
            if slow != blocked:
                blocked = slow
                self._workers.set_blocked(slow)


class _Methods:
    """Methods of both services, from bytes to messages."""

    def __init__(
        self,
        requests: Requests,
        memory: RequestMemory,
        workers: Workers,
        calls: _Calls,
        receiving: _Receiving,
    ) -> None:
        self._requests, self._memory, self._workers = requests, memory, workers
        self._calls, self._receiving = calls, receiving

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
                if (refusal := self._calls.refusal) is not None:
                    if name == "Predict":
                        self._requests.count_unread(refusal)
                    raise refusal
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
        left = context.time_remaining()
        try:
            if self._calls.waited and left < self._workers.duration_s:
                raise RequestError(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    "The deadline of the request passed while it waited.",
                )
            held.resize(_DECODED * len(data))
        except RequestError as error:
            self._requests.count_unread(error)
            raise
        if not context.is_active():
            raise RequestError(grpc.StatusCode.CANCELLED, "The client cancelled.")
        with self._workers.timed():
            check_fields(data)
            request = predict_pb2.PredictRequest.FromString(data)
            held.resize(memory_of_request(request, len(data)))
            return self._requests.predict(request, left)

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
