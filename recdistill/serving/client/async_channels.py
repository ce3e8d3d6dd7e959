"""Connections to a server for asyncio, over gRPC and REST."""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
from typing import Any, TypeAlias

from recdistill.serving.client.endpoints import Endpoint
from recdistill.serving.client.protocols import Message
from recdistill.serving.client.rest_connections import HttpAddress, HttpConnection
from recdistill.serving.client.serving_errors import code_of_status

__all__ = [
    "AsyncChannel",
    "AsyncGrpcChannel",
    "AsyncRestChannel",
    "grpc_channel",
    "open_async_channel",
]

_GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # The caller chose the size of the answer.
    ("grpc.enable_retries", 0),  # `RetryPolicy` decides.
    # A host with several addresses has several servers, such as a headless service.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    # Pauses between attempts to connect. The option `min_reconnect_backoff_ms` is not
    # one of them: it is the timeout of an attempt, and a low value excludes slow links.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


def grpc_channel(endpoint: Endpoint, module: Any) -> Any:
    """Opens a gRPC channel with `grpc` or `grpc.aio`."""
    if not endpoint.encrypted:
        return module.insecure_channel(endpoint.address, _GRPC_OPTIONS)
    from grpc import ssl_channel_credentials

    credentials = ssl_channel_credentials()
    return module.secure_channel(endpoint.address, credentials, _GRPC_OPTIONS)


class AsyncGrpcChannel:
    """gRPC channel for asyncio."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._closed = endpoint, False
        self._call = functools.cache(lambda path: self._channel.unary_unary(path))

    @functools.cached_property
    def _channel(self) -> Any:
        """Opened on first use, because it belongs to the running event loop."""
        from grpc import aio

        return grpc_channel(self._endpoint, aio)

    async def send(self, message: Message, timeout_s: float) -> bytes:
        """Sends a message and returns the answer.

        Raises:
            ServingError: If no answer arrives within `timeout_s` seconds.
        """
        from grpc.aio import AioRpcError, UsageError

        if self._closed:
            raise self._endpoint.closed(message)
        call = self._call(message.path)
        try:
            answer: bytes = await call(message.body, timeout=timeout_s)
        except AioRpcError as error:
            code, detail = error.code().name, error.details() or ""
            raise self._endpoint.failure(code, detail, message) from error
        except UsageError as error:
            raise self._endpoint.closed(message) from error
        except asyncio.CancelledError as error:
            # Closing the channel cancels its calls, but not the tasks that wait.
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            raise self._endpoint.closed(message) from error
        return answer

    async def close(self) -> None:
        """Closes the connection; running calls fail."""
        self._closed = True
        await self._channel.close()


class AsyncRestChannel:
    """REST channel for asyncio. A request is sent once, on a connection that is open.

    Args:
        endpoint: The server.
        connections: Maximum number of connections. Further calls wait, and the wait
            counts towards their timeouts.
        tls: Certificates to trust; None for those of the system if the endpoint uses
            TLS.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        connections: int = 512,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._endpoint, self._closed = endpoint, False
        if tls is None and endpoint.encrypted:
            tls = ssl.create_default_context()
        self._address = HttpAddress(endpoint.host, endpoint.port, tls)
        self._idle: list[HttpConnection] = []
        self._busy: set[HttpConnection] = set()
        self._places = asyncio.Semaphore(connections)
        self._headers = (
            f"Host: {_ascii(endpoint.address)}\r\nContent-Type: application/json\r\n"
            "Accept: application/json\r\nAccept-Encoding: identity\r\n"
        )

    async def send(self, message: Message, timeout_s: float) -> bytes:
        """Sends a message and returns the answer.

        Raises:
            ServingError: If no answer arrives within `timeout_s` seconds.
        """
        if self._closed:
            raise self._endpoint.closed(message)
        failure = self._endpoint.failure
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline), self._places:
                status, body = await self._request(message, deadline)
        except (OSError, EOFError, ValueError) as error:
            if self._closed:
                raise self._endpoint.closed(message) from error
            # A timeout with an error number comes from the operating system, not the
            # deadline.
            if isinstance(error, TimeoutError) and error.errno is None:
                raise failure("DEADLINE_EXCEEDED", "timed out", message) from error
            raise failure("UNAVAILABLE", error, message) from error
        if status != 200:
            raise failure(code_of_status(status), rest_error(body), message)
        return body

    async def _request(self, message: Message, deadline: float) -> tuple[int, bytes]:
        method = "GET" if message.body is None else "POST"
        body = message.body or b""
        head = (
            f"{method} {message.path} HTTP/1.1\r\n{self._headers}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        connection = self._open_connection() or await self._address.connect(deadline)
        self._busy.add(connection)
        try:
            if self._closed:
                raise EOFError("the client is closed")
            return await connection.exchange(head.encode() + body)
        finally:
            self._busy.discard(connection)
            if connection.reusable and not self._closed:
                self._idle.append(connection)
            else:
                connection.close()

    def _open_connection(self) -> HttpConnection | None:
        """An idle connection that is still open; closes those that are not."""
        while self._idle:
            connection = self._idle.pop()
            if connection.quiet:
                return connection
            connection.close()
        return None

    async def close(self) -> None:
        """Closes the connections; running calls fail."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # The event loop closes the sockets in its next round.


def rest_error(body: bytes) -> str:
    """The error message in the body of a REST answer."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:500].decode("utf-8", "replace").strip() or "no error message"


def _ascii(address: str) -> str:
    """The address as in a Host header: names beyond ASCII in their IDNA form."""
    try:
        return address if address.isascii() else address.encode("idna").decode("ascii")
    except UnicodeError:  # No such name exists; the lookup reports it.
        return "invalid"


AsyncChannel: TypeAlias = AsyncGrpcChannel | AsyncRestChannel
"""Connection to a server. It belongs to the event loop that uses it first."""


def open_async_channel(endpoint: Endpoint, connections: int = 512) -> AsyncChannel:
    """Creates the channel of an endpoint. It connects on first use.

    Args:
        endpoint: The server.
        connections: Maximum number of connections over REST.
    """
    if endpoint.rest:
        return AsyncRestChannel(endpoint, connections)
    return AsyncGrpcChannel(endpoint)
