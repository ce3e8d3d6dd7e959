"""HTTP connections: reading requests within limits, and writing answers.

A thread reads each connection. The number of connections, the time to send a request
and the memory for bodies are limited, and predictions wait for a slot. All errors are
JSON objects with the key "error".
"""

from __future__ import annotations

import _thread  # noqa: PLC2701 (the documented module of low-level threads)
import contextlib
import json
import math
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http.client import responses
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

from recdistill.serving.server.admission import HeldMemory, RequestMemory
from recdistill.serving.server.http_bodies import read_http_body
from recdistill.serving.server.http_heads import (
    LONGEST_LINE,
    HttpHead,
    read_http_head,
)
from recdistill.serving.server.options import ServerOptions
from recdistill.serving.server.request_errors import RequestError

__all__ = ["JSON", "HttpAnswer", "HttpListener", "HttpRequest", "json_error"]

JSON = "application/json"

HttpAnswer = tuple[int, str, bytes]
"""Status, content type and body."""

_IDLE_S = 60.0
"""Seconds until an idle connection is closed."""

_REST_S, _REST_BYTES = 2.0, 2**27
"""A client that still sends the rest of a rejected body would miss the answer, so the
server reads this much more before it closes the connection."""


_GRACE_S = 0.5
"""A request that waits for a slot or a batch times out by itself. One that still runs
after this time is answered by the listener."""


@dataclass(frozen=True)
class HttpRequest:
    """A request after its body was read.

    Attributes:
        method: Such as "POST".
        path: Path and query as sent.
        body: The body, decompressed.
        due: Time on the monotonic clock at which it times out.
        held: Memory of this request.
        is_connected: Whether the client still waits for the answer.
    """

    method: str
    path: str
    body: bytes
    due: float
    held: HeldMemory
    is_connected: Callable[[], bool]

    def time_left(self) -> float:
        """Seconds until the request times out."""
        return max(0.0, self.due - time.monotonic())


@dataclass
class _Time:
    """Time limit of a connection.

    Attributes:
        due: When it must have sent its request, or when its answer is due.
        answering: Whether it waits for its answer.
        over: Whether it was answered because the limit has passed.
    """

    due: float
    answering: bool = False
    over: bool = False


def json_error(message: str) -> bytes:
    """Body of an error."""
    text = json.dumps({"error": message}, ensure_ascii=False)
    return text.encode("utf-8", "replace")


class HttpListener(ThreadingTCPServer):
    """Listener that answers the requests of its connections.

    Args:
        answer: Answers a request.
        options: Address, port and limits.
        memory: Memory for the requests of all protocols.

    Attributes:
        draining: Whether connections are closed after their next answer.
        working: Number of requests in progress; `changed` is notified of changes.

    Raises:
        OSError: If the port is not available.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        answer: Callable[[HttpRequest], HttpAnswer],
        options: ServerOptions,
        memory: RequestMemory,
    ) -> None:
        if ":" in options.address:
            self.address_family = socket.AF_INET6
        self.answer, self.options, self.memory = answer, options, memory
        self.draining, self.working = False, 0
        self.changed = threading.Condition()
        self._connections: dict[socket.socket, _Time] = {}
        super().__init__((options.address, options.rest_port or 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a new connection unless there are too many."""
        with self.changed:
            full = len(self._connections) >= self.options.rest_connections
            if not full:
                self._connections[request] = _Time(math.inf)
        if not full:
            # `Thread.start` would wait until the thread runs, so that a busy server
            # would accept few connections.
            arguments = request, client_address
            _thread.start_new_thread(self.process_request_thread, arguments)
            return
        _send(request, 503, "The server has too many connections. Try again later.")
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection."""
        with self.changed:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def set_time(
        self, connection: socket.socket, seconds: float, answering: bool = False
    ) -> None:
        """Limits the time to send the rest of a request, or to answer it."""
        with self.changed:
            due = time.monotonic() + seconds
            self._connections[connection] = _Time(due, answering)

    def may_answer(self, connection: socket.socket) -> bool:
        """Ends the time limit of a request; False if it was answered by the limit."""
        with self.changed:
            limit = self._connections[connection]
            limit.due = math.inf
            return not limit.over

    def service_actions(self) -> None:
        """Answers requests whose time limit has passed, or ends the reading of them.

        TensorFlow cannot stop a run, so its thread and slot remain busy.
        """
        now = time.monotonic()
        with self.changed:
            late = [
                (connection, limit)
                for connection, limit in self._connections.items()
                if limit.due < now
            ]
            for _, limit in late:
                limit.over, limit.due = limit.answering, math.inf
        for connection, limit in late:
            if limit.answering:
                _send(connection, 504, "The request timed out.")
            # A thread that reads finds the end of the data, and answers.
            how = socket.SHUT_RDWR if limit.answering else socket.SHUT_RD
            with contextlib.suppress(OSError):
                connection.shutdown(how)

    def close_connections(self) -> None:
        """Closes all connections."""
        with self.changed:
            left = list(self._connections)
        for connection in left:
            with contextlib.suppress(OSError):  # The client may have closed it.
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that disconnect."""


def _send(connection: socket.socket, status: int, message: str) -> None:
    """Sends an error without waiting for the client."""
    page = _page(status, JSON, json_error(message), True)
    with contextlib.suppress(OSError):  # The client may have closed it.
        connection.send(page, socket.MSG_DONTWAIT)


def _page(status: int, kind: str, answer: bytes, last: bool) -> bytes:
    """Head and body of an answer; `last` closes the connection."""
    head = (
        f"HTTP/1.1 {status} {responses.get(status, '')}\r\n"
        f"Date: {formatdate(usegmt=True)}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(answer)}\r\n"
    )
    close = "Connection: close\r\n" if last else ""
    return f"{head}{close}\r\n".encode() + answer


class _Handler(StreamRequestHandler):
    server: HttpListener
    connection: socket.socket
    timeout = _IDLE_S
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            # The client may close the connection at any time.
            while self._serve():
                pass

    def _serve(self) -> bool:
        """Serves one request; False if the connection must be closed."""
        server = self.server
        server.set_time(self.connection, _IDLE_S)
        line = self.rfile.readline(LONGEST_LINE + 1)
        if line in (b"\r\n", b"\n"):  # Some clients send it after a body.
            line = self.rfile.readline(LONGEST_LINE + 1)
        if not line:
            return False
        server.set_time(self.connection, server.options.rest_timeout_s)
        with server.changed:
            server.working += 1
        try:
            with server.memory.held() as held:
                return self._answered(line, held)
        finally:
            with server.changed:
                server.working -= 1
                server.changed.notify_all()

    def _answered(self, line: bytes, held: HeldMemory) -> bool:
        server, seconds = self.server, self.server.options.rest_timeout_s
        try:
            head = read_http_head(line, self.rfile)
            body = self._body(head, held)
        except EOFError:
            return self._reject(408, "The request was not received in time.")
        except RequestError as error:
            return self._reject(error.http_status, error.message)
        server.set_time(self.connection, seconds + _GRACE_S, answering=True)
        due = time.monotonic() + seconds
        answer = server.answer(
            HttpRequest(head.method, head.path, body, due, held, self._is_connected)
        )
        if not server.may_answer(self.connection):
            return False
        last = server.draining or not head.keep_alive
        self._write(*answer, last=last, has_body=head.method != "HEAD")
        return not last

    def _body(self, head: HttpHead, held: HeldMemory) -> bytes:
        wishes = head.headers.get("expect", ())
        expects = any(each.lower() == "100-continue" for each in wishes)

        def admit(size: int) -> None:
            nonlocal expects
            held.add(size)
            if expects:
                expects = False
                self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

        limit = self.server.options.max_message_bytes
        return read_http_body(head.headers, self.rfile, limit, admit)

    def _reject(self, status: int, message: str) -> bool:
        self._write(status, JSON, json_error(message), last=True)
        self.connection.shutdown(socket.SHUT_WR)
        self.server.set_time(self.connection, _REST_S)
        left = _REST_BYTES
        while left > 0 and (data := self.rfile.read1(2**16)):
            left -= len(data)
        return False

    def _is_connected(self) -> bool:
        """Whether the client has not closed the connection."""
        # Not `select.select`, which cannot have descriptors from 1,024 on.
        readable = select.poll()
        readable.register(self.connection, select.POLLIN)
        if not readable.poll(0):
            return True
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _write(
        self, status: int, kind: str, answer: bytes, last: bool, has_body: bool = True
    ) -> None:
        page = _page(status, kind, answer, last)
        self.connection.sendall(page if has_body else page[: len(page) - len(answer)])
