"""http_bodies: lengths, chunks and gzip."""

import gzip
import io

import pytest

from recdistill.serving.server.http_bodies import read_http_body
from recdistill.serving.server.request_errors import RequestError

LIMIT = 100
CHUNKED = ["Transfer-Encoding: chunked"]
GZIP = "Content-Encoding: gzip"


def read(data, *headers, limit=LIMIT, reserve=lambda size: None):
    values = {}
    for name, _, value in (each.partition(":") for each in headers):
        values.setdefault(name.lower(), []).append(value.strip())
    return read_http_body(values, io.BytesIO(data), limit, reserve)


def refused(data, *headers, **more):
    with pytest.raises(RequestError) as caught:
        read(data, *headers, **more)
    return caught.value.http_status, caught.value.message


def test_a_body_has_the_announced_length():
    assert read(b"abcdef", "Content-Length: 3") == b"abc"
    assert read(b"abcdef") == b""


def test_chunks_are_joined():
    data = b"3;name=value\r\nabc\r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nnext"
    assert read(data, *CHUNKED) == b"abc0123456789"


def test_compressed_bodies_of_several_members_are_decompressed():
    data = gzip.compress(b"abc") + gzip.compress(b"def")
    assert read(data, f"Content-Length: {len(data)}", GZIP) == b"abcdef"
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    assert read(chunked, *CHUNKED, GZIP) == b"abcdef"


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 3", "Content-Length: 3"],
        ["Content-Length: 3", "Content-Length: 4"],
        ["Content-Length: 3", *CHUNKED],
        [*CHUNKED, *CHUNKED],
        ["Content-Length: 3, 3"],
        ["Content-Length: +3"],
        ["Content-Length: -3"],
        ["Content-Length: 1e3"],
        ["Content-Length: 0x3"],
        ["Content-Length: ٣"],
        ["Content-Length: " + 30 * "1"],
        ["Content-Length:"],
    ],
)
def test_an_invalid_or_ambiguous_length_is_a_400(headers):
    assert refused(b"abc", *headers)[0] == 400


def test_other_encodings_are_a_501():
    for coding in ("gzip", "gzip, chunked", "identity"):
        assert refused(b"", f"Transfer-Encoding: {coding}")[0] == 501


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"-1\r\n\r\n",
        b"\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3" + 2_000 * b" ",
        b"0\r\n" + 101 * b"A: b\r\n",
    ],
)
def test_invalid_chunks_are_a_400(data):
    assert refused(data, *CHUNKED)[0] == 400


def test_a_body_above_the_limit_is_a_413_before_it_is_read():
    status, message = refused(b"", "Content-Length: 101")
    assert (status, "at most 100 bytes" in message) == (413, True)
    data = b"60\r\n" + 96 * b"x" + b"\r\n5\r\n"
    assert refused(data, *CHUNKED)[0] == 413
    bomb = gzip.compress(10_000_000 * b"a", 9)
    status, _ = refused(bomb, f"Content-Length: {len(bomb)}", GZIP, limit=2**20)
    assert status == 413


def test_invalid_gzip_is_a_400():
    data = gzip.compress(b"abc")
    for broken in (b"abc", data[:-9], data + b"x", data[:-6] + b"xxxxxx"):
        assert refused(broken, f"Content-Length: {len(broken)}", GZIP)[0] == 400
    assert read(b"", "Content-Length: 0", GZIP) == b""


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (b"ab", ["Content-Length: 3"]),
        (b"", CHUNKED),
        (b"3\r\nab", CHUNKED),
        (b"3\r\nabc\r\n", CHUNKED),
        (b"0\r\n", CHUNKED),
    ],
)
def test_a_connection_that_ends_early_is_told_apart(data, headers):
    with pytest.raises(EOFError):
        read(data, *headers)


def test_memory_is_reserved_before_bytes_are_read():
    sizes = []
    read(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", *CHUNKED, reserve=sizes.append)
    assert sizes == [3, 2]
