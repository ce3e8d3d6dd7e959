"""REST API of the embedded server: TensorFlow Serving's paths, and metrics."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
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
from recdistill.serving.server.json_tensors import (
    columns_as_json,
    read_body,
    rows_as_json,
)
from recdistill.serving.server.options import ServerOptions
from recdistill.serving.server.request_errors import (
    HTTP_STATUS,
    RequestError,
    invalid,
)
from recdistill.serving.server.requests import SIGNATURE_DEF, Requests
from recdistill.serving.server.versions import ModelVersion, Prediction

__all__ = ["RestServer"]

_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_POST = re.compile(_MODEL + ":(predict|classify|regress)", re.IGNORECASE)
_GET = re.compile(_MODEL + "(/metadata)?", re.IGNORECASE)

_IDLE_S = 60.0
"""Seconds until an idle connection is closed."""


class RestServer:
    """REST server.

    Args:
        requests: Answers the requests.
        options: Address, port, threads and limits.

    Raises:
        ServeError: If the port is not available.
    """

    def __init__(self, requests: Requests, options: ServerOptions) -> None:
        address = options.address, options.rest_port
        try:
            self._server = _Listener(address, requests, options)
        except OSError as error:
            raise ServeError(
                "The server cannot listen for REST at "
                f"{options.address}:{options.rest_port}: {error}"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )

    def start(self) -> None:
        """Starts to answer requests."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Rejects new requests and waits for running ones.

        Args:
            grace_s: Maximum wait in seconds.
        """
        self._server.draining = True
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        with self._server.changed:
            self._server.changed.wait_for(lambda: not self._server.working, grace_s)
        self._server.close_connections()
        self._server.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, Any], requests: Requests, options: ServerOptions
    ) -> None:
        if ":" in options.address:
            self.address_family = socket.AF_INET6
        self.requests, self.options = requests, options
        self.draining, self.working = False, 0
        self.changed = threading.Condition()
        self.slots = threading.Semaphore(options.threads(options.rest_threads))
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.changed:
            full = len(self._connections) >= self.options.rest_connections
            if not full:
                self._connections.add(request)
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.changed:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        with self.changed:
            left = list(self._connections)
        for connection in left:
            with contextlib.suppress(OSError):  # The client may have closed it.
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    server_version = "recdistill"
    sys_version = ""
    timeout = _IDLE_S
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        """Does not log requests; the metrics count them."""

    def do_GET(self) -> None:
        server = self.server
        with server.changed:
            server.working += 1
        try:
            body = self._read()
            if body is None:
                return
            with server.slots:
                status, kind, answer = self._answered(body)
            self._write(status, kind, answer)
        finally:
            with server.changed:
                server.working -= 1
                server.changed.notify_all()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def _read(self) -> bytes | None:
        """Reads the body; None if it is rejected and the connection will be closed."""
        length = self.headers.get("Content-Length", "0")
        limit = self.server.options.max_message_bytes
        if "Transfer-Encoding" in self.headers:
            problem = HTTPStatus.LENGTH_REQUIRED, "Bodies must have a Content-Length."
        elif not re.fullmatch("[0-9]{1,18}", length):
            problem = HTTPStatus.BAD_REQUEST, "Content-Length must be a number."
        elif int(length) > limit:
            problem = (
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"Bodies must have at most {limit} bytes. Received: {length}",
            )
        else:
            body = self.rfile.read(int(length))
            # Fewer bytes mean that the client has disconnected.
            return body if len(body) == int(length) else None
        self.close_connection = True
        self._write(problem[0], "application/json", _error(problem[1]))
        return None

    def _answered(self, body: bytes) -> tuple[int, str, bytes]:
        path, _, _ = self.path.partition("?")
        if self.command == "GET" and path == METRICS_PATH:
            page = self.server.requests.metrics.render().encode()
            return HTTPStatus.OK, "text/plain; version=0.0.4", page
        if not path.lower().startswith("/v1/"):
            return HTTPStatus.NOT_FOUND, "application/json", _error("Not Found")
        try:
            answer = self._v1(path, body)
        except RequestError as error:
            return HTTP_STATUS[error.code], "application/json", _error(error.message)
        except Exception as error:
            text = _error(f"The server failed: {type(error).__name__}: {error}")
            return HTTPStatus.INTERNAL_SERVER_ERROR, "application/json", text
        return HTTPStatus.OK, "application/json", answer

    def _v1(self, path: str, body: bytes) -> bytes:
        requests = self.server.requests
        if self.command == "GET" and (match := _GET.fullmatch(path)):
            spec = _spec(match)
            if match[4]:
                metadata = get_model_metadata_pb2.GetModelMetadataRequest(
                    model_spec=spec, metadata_field=[SIGNATURE_DEF]
                )
                return _metadata_as_json(requests.metadata(metadata))
            status = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
            return _as_json(requests.status(status), keep_names=False)
        if self.command == "POST" and (match := _POST.fullmatch(path)):
            spec, method = _spec(match), match[4].lower()
            with requests.measured(spec.name, "REST", method):
                return self._prediction(spec, method, body)
        raise invalid(f"Malformed request: {self.command} {path}")

    def _prediction(self, spec: model_pb2.ModelSpec, method: str, body: bytes) -> bytes:
        if method != "predict":
            raise RequestError(
                StatusCode.UNIMPLEMENTED,
                f"The embedded server does not support {method}. Use predict.",
            )
        parsed = read_body(body)

        def read(version: ModelVersion) -> Prediction:
            signature = version.signature(parsed.signature)
            inputs = parsed.values(signature)
            return Prediction(signature, inputs, tuple(signature.outputs))

        timeout_s = self.server.options.rest_timeout_s
        outputs = self.server.requests.run(spec, read, timeout_s)
        return rows_as_json(outputs) if parsed.in_rows else columns_as_json(outputs)

    def _write(self, status: int, kind: str, answer: bytes) -> None:
        if self.server.draining:
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer)
        self.wfile.flush()


def _spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    name, version, label = match[1], match[2], match[3]
    spec = model_pb2.ModelSpec(name=unquote(name))
    if version:
        if int(version) >= 2**63:
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


def _error(text: str) -> bytes:
    return json.dumps({"error": text}, ensure_ascii=False).encode("utf-8", "replace")
