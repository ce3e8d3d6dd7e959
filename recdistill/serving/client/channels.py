"""Blocking connections to a server, over gRPC and REST.

A channel sends a message and returns the answer, or raises an error of
`recdistill.serving.client.serving_errors` by the deadline. It connects on first use and
keeps its connections, because connecting costs more than a request.
"""

from __future__ import annotations

import functools
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from recdistill.serving.client.protocols import GRPC, REST, Message, ServingProtocol
from recdistill.serving.client.serving_errors import (
    ServingError,
    code_of_status,
    error_of,
)

__all__ = ["Channel", "Endpoint", "open_channel"]

GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # The caller chose the size of the answer.
    ("grpc.enable_retries", 0),  # `RetryPolicy` decides.
    # Longest pauses before reconnecting.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
]

HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


@dataclass(frozen=True)
class Endpoint:
    """Address and protocol of a server.

    Attributes:
        url: The URL passed to `parse`, with its scheme.
        host: Host name or IP address.
        port: TCP port.
        rest: True for REST, False for gRPC.
        encrypted: Whether connections use TLS.
    """

    url: str
    host: str
    port: int
    rest: bool
    encrypted: bool

    @property
    def address(self) -> str:
        """Host and port, with an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def protocol(self) -> ServingProtocol:
        """The protocol of this endpoint."""
        return REST if self.rest else GRPC

    def failure(self, code: str, detail: object, message: Message) -> ServingError:
        """Creates the error of a request to this server.

        Args:
            code: Name of the gRPC status code.
            detail: Reason: a text or an exception.
            message: The request.
        """
        text = str(detail) or type(detail).__name__
        return error_of(code, text, message.what, self.url)

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Parses "localhost:8500", "grpc://…", "grpcs://…", "http://…" or "https://…".

        Args:
            url: The default scheme is grpc. The default ports are TensorFlow Serving's:
                8500 for gRPC and 8501 for REST.

        Raises:
            ValueError: If `url` has another form.

        Examples:
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


def rest_error(body: bytes) -> str:
    """The error message in the body of a REST answer."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:500].decode("utf-8", "replace").strip() or "no error message"


def connect(endpoint: Endpoint, module: Any) -> Any:
    """Opens a gRPC channel with `grpc` or `grpc.aio`."""
    if not endpoint.encrypted:
        return module.insecure_channel(endpoint.address, GRPC_OPTIONS)
    from grpc import ssl_channel_credentials

    credentials = ssl_channel_credentials()
    return module.secure_channel(endpoint.address, credentials, GRPC_OPTIONS)


class GrpcChannel:
    """gRPC channel; one HTTP/2 connection carries all concurrent calls."""

    def __init__(self, endpoint: Endpoint) -> None:
        import grpc

        self._endpoint, self._error = endpoint, grpc.RpcError
        self._channel = connect(endpoint, grpc)
        # Without serializers, a call takes and returns bytes.
        self._call = functools.cache(self._channel.unary_unary)

    def send(self, message: Message, timeout_s: float) -> bytes:
        """Sends a message and returns the answer.

        Raises:
            ServingError: If no answer arrives within `timeout_s` seconds.
        """
        try:
            answer: bytes = self._call(message.path)(message.body, timeout=timeout_s)
        except self._error as error:
            code, detail = error.code().name, error.details()
            raise self._endpoint.failure(code, detail, message) from error
        return answer

    def close(self) -> None:
        """Closes the connection; running calls fail."""
        self._channel.close()


class RestChannel:
    """REST channel on httpx; connections are kept open, one for each concurrent call.

    httpx has a timeout for each step of a request (connecting, sending, reading) but
    none for the whole. Each step therefore gets the time left until the deadline.
    Proxy settings of the environment are ignored.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        # Imported here, so that a gRPC client does not load it.
        import httpx

        self._failure = endpoint.failure
        self._errors, self._timeout = httpx.TransportError, httpx.TimeoutException
        self._http = httpx.Client(
            base_url=f"http{'s' * endpoint.encrypted}://{endpoint.address}",
            headers={**HEADERS, "Accept-Encoding": "identity"},
            verify=ssl.create_default_context() if endpoint.encrypted else False,
            trust_env=False,
            # No limits: threads may share the client, and idle connections are kept.
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=None,
                keepalive_expiry=None,
            ),
        )

    def send(self, message: Message, timeout_s: float) -> bytes:
        """Sends a message and returns the answer.

        Raises:
            ServingError: If no answer arrives within `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        method = "GET" if message.body is None else "POST"
        body = bytearray()
        try:
            with self._http.stream(
                method,
                message.path,
                content=message.body,
                extensions={"timeout": _TimeLeft(deadline)},
            ) as response:
                for chunk in response.iter_raw():
                    body += chunk
                    if time.monotonic() > deadline:
                        raise self._failure("DEADLINE_EXCEEDED", "timed out", message)
        except self._timeout as error:
            raise self._failure("DEADLINE_EXCEEDED", error, message) from error
        except self._errors as error:
            raise self._failure("UNAVAILABLE", error, message) from error
        if response.status_code != 200:
            code, detail = code_of_status(response.status_code), rest_error(bytes(body))
            raise self._failure(code, detail, message)
        return bytes(body)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()


class _TimeLeft(Mapping[str, float]):
    """Timeouts for httpx: each is the time left until the deadline."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __getitem__(self, name: str) -> float:
        # A timeout of 0 would make the socket non-blocking.
        return max(0.001, self._deadline - time.monotonic())

    def __iter__(self) -> Iterator[str]:
        return iter(("connect", "read", "write", "pool"))

    def __len__(self) -> int:
        return 4


Channel: TypeAlias = GrpcChannel | RestChannel
"""Connection to a server."""


def open_channel(endpoint: Endpoint) -> Channel:
    """Creates the channel of an endpoint. It connects on first use."""
    return RestChannel(endpoint) if endpoint.rest else GrpcChannel(endpoint)
