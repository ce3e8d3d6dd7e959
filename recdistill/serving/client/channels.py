"""Blocking connections to a server, over gRPC and REST.

A channel sends a message and returns the answer, or raises an error of
`recdistill.serving.client.serving_errors` by the deadline. It connects on first use and
keeps its connections, because connecting costs more than a request.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import ssl
import threading
import weakref
from typing import TypeAlias

from recdistill.serving.client.async_channels import (
    AsyncRestChannel,
    grpc_channel,
)
from recdistill.serving.client.endpoints import Endpoint
from recdistill.serving.client.protocols import Message

__all__ = ["Channel", "open_channel"]


class GrpcChannel:
    """gRPC channel; one HTTP/2 connection carries all concurrent calls."""

    def __init__(self, endpoint: Endpoint) -> None:
        import grpc

        self._endpoint, self._error, self._closed = endpoint, grpc.RpcError, False
        self._channel = grpc_channel(endpoint, grpc)
        # Without serializers, a call takes and returns bytes.
        self._call = functools.cache(self._channel.unary_unary)

    def send(self, message: Message, timeout_s: float) -> bytes:
        """Sends a message and returns the answer.

        Raises:
            ServingError: If no answer arrives within `timeout_s` seconds.
        """
        try:
            answer: bytes = self._call(message.path)(message.body, timeout=timeout_s)
        except (self._error, ValueError) as error:
            if self._closed:
                raise self._endpoint.closed(message) from error
            if isinstance(error, ValueError):
                raise self._endpoint.failure("INTERNAL", error, message) from error
            code, detail = error.code().name, error.details() or ""
            raise self._endpoint.failure(code, detail, message) from error
        return answer

    def close(self) -> None:
        """Closes the connection; running calls fail."""
        self._closed = True
        self._channel.close()


class RestChannel:
    """REST channel, for the event loop of this process's background thread.

    Only an event loop can end a call at its deadline wherever it waits: for the name
    server, one of several addresses, or the next byte. Proxy settings of the
    environment are ignored.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._closed = endpoint, False
        # Read here, because it takes longer than some deadlines.
        self._tls = ssl.create_default_context() if endpoint.encrypted else None
        self._channels: dict[asyncio.AbstractEventLoop, AsyncRestChannel] = {}

    def send(self, message: Message, timeout_s: float) -> bytes:
        """Sends a message and returns the answer.

        Raises:
            ServingError: If no answer arrives within `timeout_s` seconds.
        """
        if self._closed:
            raise self._endpoint.closed(message)
        loop = _background_loop()
        sending = self._channel(loop).send(message, timeout_s)
        answer = asyncio.run_coroutine_threadsafe(sending, loop)
        try:
            return answer.result()
        except concurrent.futures.CancelledError as error:
            raise self._endpoint.closed(message) from error
        finally:
            answer.cancel()  # If this thread was interrupted while it waited.

    def _channel(self, loop: asyncio.AbstractEventLoop) -> AsyncRestChannel:
        """The channel of the event loop; a forked process has a loop of its own."""
        with _lock:
            if loop not in self._channels:
                made = AsyncRestChannel(self._endpoint, tls=self._tls)
                self._channels[loop] = made
                weakref.finalize(self, _close_soon, made, loop).atexit = False
            return self._channels[loop]

    def close(self) -> None:
        """Closes the connections; running calls fail."""
        self._closed = True
        loop = _background_loop()
        if loop in self._channels:
            closing = self._channels[loop].close()
            asyncio.run_coroutine_threadsafe(closing, loop).result()


_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _background_loop() -> asyncio.AbstractEventLoop:
    """The event loop in this process's background thread, started on first use."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(
                target=_loop.run_forever, name="recdistill-client", daemon=True
            ).start()
        return _loop


def _forget_loop() -> None:
    """Forgets the event loop in a forked process, which does not have its thread."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loop)


def _close_soon(channel: AsyncRestChannel, loop: asyncio.AbstractEventLoop) -> None:
    """Closes the connections of a client that was deleted without `close`."""
    if loop is _loop:
        asyncio.run_coroutine_threadsafe(channel.close(), loop)


Channel: TypeAlias = GrpcChannel | RestChannel
"""Connection to a server."""


def open_channel(endpoint: Endpoint) -> Channel:
    """Creates the channel of an endpoint. It connects on first use."""
    return RestChannel(endpoint) if endpoint.rest else GrpcChannel(endpoint)
