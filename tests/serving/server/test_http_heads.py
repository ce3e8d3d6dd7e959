"""http_heads: request lines and headers."""

import io

import pytest

from recdistill.serving.server.http_heads import read_http_head
from recdistill.serving.server.request_errors import RequestError


def read(data):
    stream = io.BytesIO(data)
    return read_http_head(stream.readline(2**16 + 1), stream)


def test_names_of_headers_have_no_case_and_values_no_spaces_around():
    head = read(b"POST /v1/a?b=%20 HTTP/1.1\r\nA-b: 1 \r\na-B:\t2,3\r\nC:\r\n\r\nbody")
    assert (head.method, head.path) == ("POST", "/v1/a?b=%20")
    assert head.headers == {"a-b": ["1", "2,3"], "c": [""]}


def test_lines_may_end_without_a_carriage_return():
    assert read(b"GET / HTTP/1.1\nA: b\n\n").headers == {"a": ["b"]}


@pytest.mark.parametrize(
    ("version", "connection", "keep"),
    [
        ("1.1", None, True),
        ("1.1", "Close", False),
        ("1.1", "x, close", False),
        ("1.0", None, False),
        ("1.0", "Keep-Alive", True),
    ],
)
def test_a_connection_is_kept_as_the_client_wishes(version, connection, keep):
    header = f"Connection: {connection}\r\n" if connection else ""
    head = read(f"GET / HTTP/{version}\r\n{header}\r\n".encode())
    assert head.keep_alive is keep


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1 more\r\n\r\n", 400),
        (b"GET / HTTP/x.y\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"GET /" + b"x" * 2**16 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 2**16 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
    ],
)
def test_an_invalid_head_is_refused(data, status):
    with pytest.raises(RequestError) as caught:
        read(data)
    assert caught.value.http_status == status


@pytest.mark.parametrize(
    "data", [b"GET / HT", b"GET / HTTP/1.1\r\nA: b\r\n", b"\n"[:0]]
)
def test_an_incomplete_head_is_told_apart(data):
    with pytest.raises(EOFError):
        read(data)
