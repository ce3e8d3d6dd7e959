"""The channels for asyncio. The load test sends through them, too."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, Protocol

from recdistill.serving.client.channels import (
    GRPC_OPTIONS,
    HEADERS,
    Endpoint,
    rest_said,
)
from recdistill.serving.client.protocols import Message
from recdistill.serving.client.serving_errors import code_of_status, error_of

__all__ = ["AsyncChannel", "AsyncGrpcChannel", "AsyncRestChannel", "open_async_channel"]

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class AsyncChannel(Protocol):
    """A way to a server; it belongs to the event loop that uses it first."""

    async def send(self, message: Message, timeout_s: float) -> bytes:
        """The answer to a message.

        Raises:
            ServingError: If there was none, within so many seconds.
        """

    async def close(self) -> None:
        """Closes the connections."""


def open_async_channel(endpoint: Endpoint, connections: int = 512) -> AsyncChannel:
    """The channel of an endpoint; it connects on first use.

    Args:
        endpoint: The server.
        connections: Over REST, most calls at a time; others wait, on their own time.
    """
    if endpoint.rest:
        return AsyncRestChannel(endpoint, connections)
    return AsyncGrpcChannel(endpoint)


class AsyncGrpcChannel:
    """gRPC for asyncio."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._channel: Any = None
        self._calls: dict[str, Any] = {}

    async def send(self, message: Message, timeout_s: float) -> bytes:
        """The answer to a message."""
        from grpc.aio import AioRpcError

        call = self._calls.get(message.path)
        if call is None:
            call = self._calls[message.path] = self._connect().unary_unary(message.path)
        try:
            answer: bytes = await call(message.body, timeout=timeout_s)
            return answer
        except AioRpcError as error:
            raise error_of(
                error.code().name,
                error.details() or "",
                message.what,
                self._endpoint.url,
            ) from error

    def _connect(self) -> Any:
        if self._channel is None:
            from grpc import aio, ssl_channel_credentials

            address = self._endpoint.address
            if self._endpoint.encrypted:
                credentials = ssl_channel_credentials()
                self._channel = aio.secure_channel(address, credentials, GRPC_OPTIONS)
            else:
                self._channel = aio.insecure_channel(address, GRPC_OPTIONS)
        return self._channel

    async def close(self) -> None:
        """Closes the connection; calls under way fail."""
        if self._channel is not None:
            await self._channel.close()


class AsyncRestChannel:
    """HTTP/1.1 for asyncio: as much of it as a model server speaks."""

    def __init__(self, endpoint: Endpoint, connections: int) -> None:
        self._endpoint = endpoint
        self._idle: list[_Connection] = []
        self._places = asyncio.Semaphore(connections)
        self._tls = ssl.create_default_context() if endpoint.encrypted else None
        fixed = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
        self._headers = f"Host: {endpoint.address}\r\n{fixed}"

    async def send(self, message: Message, timeout_s: float) -> bytes:
        """The answer to a message."""
        try:
            async with asyncio.timeout(timeout_s), self._places:
                status, body = await self._request(message)
        except TimeoutError as error:
            raise self._failure("DEADLINE_EXCEEDED", "timed out", message) from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            said = str(error) or type(error).__name__
            raise self._failure("UNAVAILABLE", said, message) from error
        if status != 200:
            raise self._failure(code_of_status(status), rest_said(body), message)
        return body

    async def _request(self, message: Message) -> tuple[int, bytes]:
        if self._idle:
            # The server may have closed it while it was idle; a new one will tell.
            with contextlib.suppress(ConnectionError, EOFError):
                return await self._exchange(self._idle.pop(), message)
        connection = await asyncio.open_connection(
            self._endpoint.host, self._endpoint.port, ssl=self._tls
        )
        return await self._exchange(connection, message)

    async def _exchange(
        self, connection: _Connection, message: Message
    ) -> tuple[int, bytes]:
        """Sends and reads; the connection goes back to the others if all went well."""
        reader, writer = connection
        kept = False
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
            kept = headers.get("connection", "").lower() != "close" and bool(
                {"content-length", "transfer-encoding"} & headers.keys()
            )
        finally:
            if kept:
                self._idle.append(connection)
            else:
                writer.close()
        return status, answer

    def _failure(self, code: str, said: str, message: Message) -> Exception:
        return error_of(code, said, message.what, self._endpoint.url)

    async def close(self) -> None:
        """Closes the connections that carry no call."""
        while self._idle:
            _, writer = self._idle.pop()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers of a response, header names in lower case."""
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
            await reader.readexactly(2)  # The end of a chunk.
        while (await reader.readline()).strip():  # What may follow the last one.
            pass
        return b"".join(pieces)
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read()
