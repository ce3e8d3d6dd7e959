"""REST API of the embedded server: TensorFlow Serving's paths, and metrics."""

from __future__ import annotations

import re
import threading
from http import HTTPStatus
from urllib.parse import unquote

from google.protobuf import json_format, message
from grpc import StatusCode
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
)

from recdistill.errors import ServeError
from recdistill.serving.deploy.models_config import METRICS_PATH
from recdistill.serving.server.admission import RequestMemory, Slots
from recdistill.serving.server.http_connections import (
    JSON,
    HttpAnswer,
    HttpListener,
    HttpRequest,
    json_error,
)
from recdistill.serving.server.json_tensors import (
    columns_as_json,
    memory_of_json,
    read_body,
    rows_as_json,
)
from recdistill.serving.server.options import ServerOptions
from recdistill.serving.server.request_errors import RequestError, invalid
from recdistill.serving.server.requests import SIGNATURE_DEF, Requests
from recdistill.serving.server.versions import ModelVersion, Prediction

__all__ = ["RestServer"]

_MODEL = r"(?i:/v1/models)/([^/:]+)(?:(?i:/versions)/([0-9]+)|(?i:/labels)/([^/:]+))?"
_POST = re.compile(_MODEL + ":(predict|classify|regress)")
_GET = re.compile(_MODEL + "(?i:(/metadata))?")

_PATIENCE_S = 0.25
"""Longest expected wait for a slot, because clients do not send their timeout."""


class RestServer:
    """REST server.

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
        self._requests = requests
        self._slots = Slots(options.threads(options.rest_threads), options.waiting)
        try:
            self._listener = HttpListener(self._answered, options, memory)
        except OSError as error:
            raise ServeError(
                "The server cannot listen for REST at "
                f"{options.address}:{options.rest_port}: {error}"
            ) from error
        self.port: int = self._listener.server_address[1]
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(0.05,), daemon=True
        )

    def start(self) -> None:
        """Starts to answer requests."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Rejects new requests and waits for running ones.

        Args:
            grace_s: Maximum wait in seconds.
        """
        self._listener.draining = True
        if self._thread.is_alive():
            self._listener.shutdown()
            self._thread.join()
        with self._listener.changed:
            self._listener.changed.wait_for(lambda: not self._listener.working, grace_s)
        self._listener.close_connections()
        self._listener.server_close()

    def _answered(self, request: HttpRequest) -> HttpAnswer:
        if request.method == "GET" and request.path == METRICS_PATH:
            page = self._requests.metrics.render().encode()
            return HTTPStatus.OK, "text/plain; version=0.0.4", page
        if not request.path.lower().startswith("/v1/"):
            return HTTPStatus.NOT_FOUND, JSON, json_error("Not Found")
        try:
            answer = self._v1(request)
            request.held.add(len(answer))
        except RequestError as error:
            return error.http_status, JSON, json_error(error.message)
        except Exception as error:
            text = json_error(f"The server failed: {type(error).__name__}: {error}")
            return HTTPStatus.INTERNAL_SERVER_ERROR, JSON, text
        return HTTPStatus.OK, JSON, answer

    def _v1(self, request: HttpRequest) -> bytes:
        requests, path = self._requests, request.path
        if request.method == "GET" and (match := _GET.fullmatch(path)):
            spec = _spec(match)
            if match[4]:
                metadata = get_model_metadata_pb2.GetModelMetadataRequest(
                    model_spec=spec, metadata_field=[SIGNATURE_DEF]
                )
                return _metadata_as_json(requests.metadata(metadata))
            status = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
            return _as_json(requests.status(status), keep_names=False)
        if request.method == "POST" and (match := _POST.fullmatch(path)):
            spec, method = _spec(match), match[4]
            with (
                requests.measured(spec.name, "REST", method),
                self._slots.slot(request.time_left(), _PATIENCE_S) as waited,
            ):
                if waited and not request.is_connected():
                    raise RequestError(StatusCode.CANCELLED, "The client disconnected.")
                return self._prediction(spec, method, request)
        raise invalid(f"Malformed request: {request.method} {path}")

    def _prediction(
        self, spec: model_pb2.ModelSpec, method: str, request: HttpRequest
    ) -> bytes:
        if method != "predict":
            raise self._requests.unsupported(spec, method)
        request.held.add(memory_of_json(request.body))
        parsed = read_body(request.body)

        def read(version: ModelVersion) -> Prediction:
            signature = version.signature(parsed.signature)
            inputs = parsed.values(signature)
            return Prediction(signature, inputs, tuple(signature.outputs))

        outputs = self._requests.run(spec, read, request.time_left())
        return rows_as_json(outputs) if parsed.in_rows else columns_as_json(outputs)


def _spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    name, version, label = match[1], match[2], match[3]
    spec = model_pb2.ModelSpec(name=unquote(name))
    if version:
        if len(version) > 18:
            raise invalid(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label:
        spec.version_label = unquote(label)
    return spec


def _as_json(response: message.Message, *, keep_names: bool) -> bytes:
    return json_format.MessageToJson(  # type: ignore[no-any-return]
        response,
        preserving_proto_field_name=keep_names,
        always_print_fields_with_no_presence=True,
    ).encode()


def _metadata_as_json(
    response: get_model_metadata_pb2.GetModelMetadataResponse,
) -> bytes:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[SIGNATURE_DEF].Unpack(signatures)
    return b'{"model_spec": %b,\n"metadata": {"signature_def": %b}\n}' % (
        _as_json(response.model_spec, keep_names=True),
        _as_json(signatures, keep_names=True),
    )
