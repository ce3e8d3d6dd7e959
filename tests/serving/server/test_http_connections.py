"""http_connections: limits of connections, and errors as JSON."""

import contextlib
import fcntl
import json
import resource
import socket
from types import SimpleNamespace

import pytest

from recdistill.serving.server import http_connections
from tests.serving.waiting import LONG_S, wait_until

pytestmark = pytest.mark.slow

URL = b"/v1/models/toy:predict"
GOOD = b'{"inputs": [1.0]}'


@contextlib.contextmanager
def connected(serving):
    address = "127.0.0.1", serving.client.rest_port
    with socket.create_connection(address, timeout=LONG_S) as connection:
        yield connection


def send(serving, data):
    """Sends bytes, and returns status, headers and body until the connection ends."""
    with connected(serving) as connection:
        connection.sendall(data)
        got = b"".join(iter(lambda: connection.recv(2**16), b""))
    head, _, page = got.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), head.lower(), page


def post(*headers, body=GOOD, url=URL):
    lines = [b"POST %b HTTP/1.1" % url, b"Host: here", *headers, b"", body]
    return b"\r\n".join(lines)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post(b"Content-Length: 17", b"Content-Length: 17"), 400),
        (post(b"Content-Length: 17", b"Content-Length: 3"), 400),
        (post(b"Content-Length: 17", b"Transfer-Encoding: chunked"), 400),
        (post(b"Content-Length: 1e3"), 400),
        (post(b"Content-Length: 999999999"), 413),
        (post(b"Transfer-Encoding: gzip"), 501),
        (post(b"no header", b"Content-Length: 17"), 400),
        (b"POST\r\n\r\n", 400),
        (b"nonsense of a client\r\n\r\n", 400),
        (b"GET / HTTP/7\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET /" + 70_000 * b"x" + b" HTTP/1.1\r\n\r\n", 414),
        (post(b"A: " + 70_000 * b"x"), 431),
        (post(*(b"A: b" for _ in range(200))), 431),
    ],
)
def test_an_invalid_request_is_answered_with_json(shared, request_bytes, status):
    got, head, page = send(shared, request_bytes)
    assert got == status
    assert b"content-type: application/json" in head
    assert list(json.loads(page)) == ["error"]


@pytest.mark.parametrize("method", [b"BREW", b"TRACE", b"CONNECT", b"OPTIONS"])
def test_every_other_method_is_a_400(shared, method):
    data = post(b"Connection: close", b"Content-Length: 0", body=b"")
    status, _, page = send(shared, data.replace(b"POST", method))
    assert (status, list(json.loads(page))) == (400, ["error"])


def test_an_answer_to_head_has_no_body(shared):
    data = post(b"Connection: close", b"Content-Length: 0", body=b"")
    status, head, page = send(shared, data.replace(b"POST", b"HEAD"))
    assert (status, page) == (400, b"")
    assert b"content-length: 0" not in head


def test_a_client_that_expects_it_is_told_to_continue(shared):
    head = post(
        b"Expect: 100-continue",
        b"Connection: close",
        b"Content-Length: %d" % len(GOOD),
        body=b"",
    )
    with connected(shared) as connection:
        connection.sendall(head)
        assert connection.recv(2**16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD)
        got = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert got.startswith(b"HTTP/1.1 200 ")
    # A body that is too large is not asked for.
    assert send(shared, head.replace(b" %d" % len(GOOD), b" 9999999"))[0] == 413


def test_a_request_that_is_not_sent_in_time_is_a_408(serve):
    serving = serve(rest_timeout_s=0.2)
    memory = serving.server._rest._listener.memory
    for data in (
        post(b"Content-Length: 9999"),
        post(b"Transfer-Encoding: chunked", body=b"100\r\nabc"),
    ):
        status, _, page = send(serving, data)
        assert (status, list(json.loads(page))) == (408, ["error"])
    wait_until(lambda: memory.used == 0)


def test_bodies_that_are_being_read_share_the_memory(serve):
    serving = serve(max_message_bytes=2**24)
    memory = serving.server._rest._listener.memory
    large = post(b"Content-Length: %d" % 2**24)
    with contextlib.ExitStack() as stack:
        fits = memory.limit // 2**24
        for _ in range(fits):
            stack.enter_context(connected(serving)).sendall(large)
        wait_until(lambda: memory.used == fits * 2**24)
        assert send(serving, large)[0] == 503
    wait_until(lambda: memory.used == 0)
    assert serving.client.rest({"inputs": [1.0]}) == (200, {"outputs": [2.0]})


@pytest.mark.parametrize("part", [b"[],", b"{},", b'"",', b"1,"])
def test_a_body_whose_values_need_too_much_memory_is_a_413(serve, part):
    serving = serve(max_message_bytes=2**24)
    body = b'{"inputs": [' + part * (2**24 // len(part) - 10) + b"1]}"
    status, text = serving.client.http("POST", URL.decode(), body)
    assert status == 413
    assert "MiB of memory when it is decoded" in json.loads(text)["error"]


def test_a_client_is_asked_for_at_any_descriptor_and_without_waiting():
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 1_100:
        pytest.skip("The system allows fewer than 1,100 open files.")
    one, other = socket.socketpair()
    high = socket.socket(fileno=fcntl.fcntl(one, fcntl.F_DUPFD, 1_100))
    high.settimeout(3_600.0)
    handler = SimpleNamespace(connection=high)
    with one, high:
        assert http_connections._Handler._is_connected(handler)
        other.sendall(b"more")
        assert http_connections._Handler._is_connected(handler)
        assert high.recv(4) == b"more"
        other.close()
        assert not http_connections._Handler._is_connected(handler)
