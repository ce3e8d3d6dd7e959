"""Connections that carry one message and bring back the answer, in time or not at all.

A channel is opened on first use and kept: setting up a connection for each request
costs more than the request. They raise the errors of
`recdistill.serving.client.serving_errors`.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from recdistill.serving.client.protocols import GRPC, REST, Message, ServingProtocol
from recdistill.serving.client.serving_errors import (
    ServingError,
    code_of_status,
    error_of,
)

__all__ = ["Channel", "Endpoint", "GrpcChannel", "RestChannel", "open_channel"]

GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # An answer is as large as we asked for.
    ("grpc.enable_retries", 0),  # The client decides what is sent twice.
    # After a lost connection: how soon to try again, at most.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
]

HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens.

    Attributes:
        url: As it was given, with its scheme.
        host: Name or address.
        port: The port.
        rest: True for REST, False for gRPC.
        encrypted: Whether the connection is by TLS.
    """

    url: str
    host: str
    port: int
    rest: bool
    encrypted: bool

    @property
    def address(self) -> str:
        """Host and port, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def protocol(self) -> ServingProtocol:
        """What is spoken there."""
        return REST if self.rest else GRPC

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Reads "localhost:8500", "grpc://…", "grpcs://…", "http://…" or "https://…".

        Args:
            url: Without a scheme it is gRPC; without a port 8500 for gRPC and 8501
                for REST, as TensorFlow Serving has them.

        Raises:
            ValueError: If it is none of these.

        Example:
            >>> Endpoint.parse("localhost").address, Endpoint.parse("http://a").port
            ('localhost:8500', 8501)
        """
        whole = url if "://" in url else f"grpc://{url}"
        try:
            parts = urlsplit(whole)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        known = parts.scheme in ("grpc", "grpcs", "http", "https") if host else False
        if not host or not known or parts.path not in ("", "/") or parts.query:
            raise ValueError(
                "`endpoint` must be like grpc://host:8500 or http://host:8501. "
                f"Received: endpoint={url!r}"
            )
        rest = parts.scheme.startswith("http")
        port = port or (8501 if rest else 8500)
        return cls(whole.rstrip("/"), host, port, rest, parts.scheme.endswith("s"))


class Channel(Protocol):
    """A way to a server."""

    def send(self, message: Message, timeout_s: float) -> bytes:
        """The answer to a message.

        Raises:
            ServingError: If there was none, within so many seconds.
        """

    def close(self) -> None:
        """Closes the connections."""


def open_channel(endpoint: Endpoint) -> Channel:
    """The channel of an endpoint; it connects on first use."""
    return RestChannel(endpoint) if endpoint.rest else GrpcChannel(endpoint)


def rest_said(body: bytes) -> str:
    """The words of a REST error."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:500].decode("utf-8", "replace").strip() or "no reason"


class GrpcChannel:
    """gRPC; one HTTP/2 connection carries any number of calls at once."""

    def __init__(self, endpoint: Endpoint) -> None:
        import grpc

        self._endpoint, self._error = endpoint, grpc.RpcError
        if endpoint.encrypted:
            credentials = grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(
                endpoint.address, credentials, GRPC_OPTIONS
            )
        else:
            self._channel = grpc.insecure_channel(endpoint.address, GRPC_OPTIONS)
        self._calls: dict[str, Any] = {}

    def send(self, message: Message, timeout_s: float) -> bytes:
        """The answer to a message."""
        call = self._calls.get(message.path)
        if call is None:
            # Without serializers bytes go in and out as they are.
            call = self._calls[message.path] = self._channel.unary_unary(message.path)
        try:
            answer: bytes = call(message.body, timeout=timeout_s)
            return answer
        except self._error as error:
            raise error_of(
                error.code().name, error.details(), message.what, self._endpoint.url
            ) from error

    def close(self) -> None:
        """Closes the connection; calls under way fail."""
        self._channel.close()


class RestChannel:
    """REST over connections that are kept open; one carries one call at a time."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def send(self, message: Message, timeout_s: float) -> bytes:
        """The answer to a message."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                return self._exchange(connection, message, deadline)
            except (ConnectionError, http.client.BadStatusLine):
                pass  # The server closed it while it was idle; a new one will tell.
        kind = (
            http.client.HTTPSConnection
            if self._endpoint.encrypted
            else http.client.HTTPConnection
        )
        connection = kind(self._endpoint.host, self._endpoint.port)
        try:
            return self._exchange(connection, message, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise self._failure("UNAVAILABLE", error, message) from error

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        message: Message,
        deadline: float,
    ) -> bytes:
        """Sends and reads; the connection goes back to the others if all went well."""
        kept = False
        try:
            _limit(connection, deadline)
            method = "GET" if message.body is None else "POST"
            connection.request(method, message.path, message.body, HEADERS)
            _limit(connection, deadline)
            response = connection.getresponse()
            pieces = []
            while piece := response.read1():
                pieces.append(piece)
                _limit(connection, deadline)
            response.close()  # Else the connection takes no further request.
            kept = not response.will_close
        except TimeoutError as error:
            raise self._failure("DEADLINE_EXCEEDED", error, message) from error
        finally:
            if not kept:
                connection.close()
        with self._lock:
            self._idle.append(connection)
        body = b"".join(pieces)
        if response.status != 200:
            code = code_of_status(response.status)
            raise error_of(code, rest_said(body), message.what, self._endpoint.url)
        return body

    def _failure(self, code: str, error: Exception, message: Message) -> ServingError:
        said = str(error) or type(error).__name__
        return error_of(code, said, message.what, self._endpoint.url)

    def close(self) -> None:
        """Closes the connections that carry no call."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _limit(connection: http.client.HTTPConnection, deadline: float) -> None:
    """Lets the next wait last until the deadline, and no longer."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    connection.timeout = left
    if connection.sock is not None:
        connection.sock.settimeout(left)
