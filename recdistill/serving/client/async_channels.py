"""Connections to a server for asyncio, over gRPC and REST. The load test uses them.

REST is implemented here instead of with `httpx.AsyncClient`, because this client must
not be the bottleneck of a load test. Measured on 2 cores with bodies of 600 bytes,
httpx 0.28 takes 3.7 ms of CPU time per request at 32 concurrent requests and 6.1 ms at
256, where this code takes 0.03 ms. A single core could then send 160 to 270 requests
per second, while TensorFlow Serving answers several thousand.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from typing import Any, TypeAlias

from recdistill.serving.client.channels import (
    HEADERS,
    Endpoint,
    connect,
    rest_error,
)
from recdistill.serving.client.protocols import Message
from recdistill.serving.client.serving_errors import code_of_status

__all__ = ["AsyncChannel", "AsyncGrpcChannel", "AsyncRestChannel", "open_async_channel"]

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class AsyncGrpcChannel:
    """gRPC channel for asyncio."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._call = functools.cache(lambda path: self._channel.unary_unary(path))

    @functools.cached_property
    def _channel(self) -> Any:
        """Opened on first use, because it belongs to the running event loop."""
        from grpc import aio

        return connect(self._endpoint, aio)

    async def send(self, message: Message, timeout_s: float) -> bytes:
        """Sends a message and returns the answer.

        Raises:
            ServingError: If no answer arrives within `timeout_s` seconds.
        """
        from grpc.aio import AioRpcError

        call = self._call(message.path)
        try:
            answer: bytes = await call(message.body, timeout=timeout_s)
        except AioRpcError as error:
            code, detail = error.code().name, error.details()
            raise self._endpoint.failure(code, detail, message) from error
        return answer

    async def close(self) -> None:
        """Closes the connection; running calls fail."""
        await self._channel.close()


class AsyncRestChannel:
    """REST channel for asyncio: the part of HTTP/1.1 that model servers use."""

    def __init__(self, endpoint: Endpoint, connections: int) -> None:
        self._endpoint = endpoint
        self._idle: list[_Connection] = []
        self._places = asyncio.Semaphore(connections)
        self._tls = ssl.create_default_context() if endpoint.encrypted else None
        fixed = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
        self._headers = f"Host: {endpoint.address}\r\n{fixed}"

    async def send(self, message: Message, timeout_s: float) -> bytes:
        """Sends a message and returns the answer.

        Raises:
            ServingError: If no answer arrives within `timeout_s` seconds.
        """
        failure = self._endpoint.failure
        try:
            async with asyncio.timeout(timeout_s), self._places:
                status, body = await self._request(message)
        except TimeoutError as error:
            raise failure("DEADLINE_EXCEEDED", "timed out", message) from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise failure("UNAVAILABLE", error, message) from error
        if status != 200:
            raise failure(code_of_status(status), rest_error(body), message)
        return body

    async def _request(self, message: Message) -> tuple[int, bytes]:
        if self._idle:
            # The server may have closed an idle connection. A new one is tried then.
            with contextlib.suppress(ConnectionError, EOFError):
                return await self._exchange(self._idle.pop(), message)
        connection = await asyncio.open_connection(
            self._endpoint.host, self._endpoint.port, ssl=self._tls
        )
        return await self._exchange(connection, message)

    async def _exchange(
        self, connection: _Connection, message: Message
    ) -> tuple[int, bytes]:
        """Sends a request, and keeps the connection if that succeeds."""
        reader, writer = connection
        keep = False
        try:
            method = "GET" if message.body is None else "POST"
            body = message.body or b""
            head = (
                f"{method} {message.path} HTTP/1.1\r\n{self._headers}"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            status, headers = await _head(reader)
            answer = await _body(reader, headers)
            keep = headers.get("connection", "").lower() != "close" and bool(
                {"content-length", "transfer-encoding"} & headers.keys()
            )
        finally:
            if keep:
                self._idle.append(connection)
            else:
                writer.close()
        return status, answer

    async def close(self) -> None:
        """Closes the idle connections."""
        while self._idle:
            _, writer = self._idle.pop()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers of a response, with header names in lower case."""
    head = await reader.readuntil(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(status_line.split(" ", 2)[1]), headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        pieces = []
        while size := int((await reader.readline()).split(b";")[0], 16):
            pieces.append(await reader.readexactly(size))
            await reader.readexactly(2)  # CR LF after each chunk.
        while (await reader.readline()).strip():  # Trailers.
            pass
        return b"".join(pieces)
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read()


AsyncChannel: TypeAlias = AsyncGrpcChannel | AsyncRestChannel
"""Connection to a server. It belongs to the event loop that uses it first."""


def open_async_channel(endpoint: Endpoint, connections: int = 512) -> AsyncChannel:
    """Creates the channel of an endpoint. It connects on first use.

    Args:
        endpoint: The server.
        connections: Maximum number of connections over REST. Further calls wait, and
            the wait counts towards their timeouts.
    """
    if endpoint.rest:
        return AsyncRestChannel(endpoint, connections)
    return AsyncGrpcChannel(endpoint)
