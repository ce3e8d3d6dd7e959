"""Bodies of HTTP requests: length, chunks and compression, with a limit on the size.

As in TensorFlow Serving, a body may be sent in chunks and may be compressed with gzip.
A request whose length is ambiguous is rejected, because a proxy in front of the server
could see another end of it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from io import BufferedIOBase

from grpc import StatusCode

from recdistill.serving.server.request_errors import RequestError, invalid, too_large

__all__ = ["read_http_body"]

Headers = Mapping[str, Sequence[str]]
"""Values of the headers by name in lower case."""

Reserve = Callable[[int], None]
"""Called with each number of bytes before they are read."""

_BLOCK = 2**20
_LONGEST_LINE = 1_024
_MOST_TRAILERS = 100
_GZIP = zlib.MAX_WBITS + 16


def read_http_body(
    headers: Headers, stream: BufferedIOBase, limit: int, reserve: Reserve
) -> bytes:
    """Reads the body of a request.

    Args:
        headers: Headers of the request.
        stream: The connection, after the headers.
        limit: Maximum number of bytes, before and after decompression.
        reserve: Called with each number of bytes before they are read.

    Raises:
        RequestError: If the length is invalid, ambiguous or above the limit, the
            compressed data is invalid, or `reserve` raises it. The connection must be
            closed after the answer.
        EOFError: If the connection ends before the body.
    """
    lengths = headers.get("content-length", ())
    codings = headers.get("transfer-encoding", ())
    if len(lengths) + len(codings) > 1:
        raise invalid(
            "A request must have one Content-Length or one Transfer-Encoding header. "
            f"Received: {len(lengths)} and {len(codings)}"
        )
    if codings:
        if codings[0].lower() != "chunked":
            raise RequestError(
                StatusCode.UNIMPLEMENTED,
                f"Transfer-Encoding must be chunked. Received: {codings[0]}",
            )
        body = _chunks(stream, limit, reserve)
    else:
        [length] = lengths or ["0"]
        if not re.fullmatch("[0-9]{1,18}", length):
            raise invalid(f"Content-Length must be a number. Received: {length}")
        body = _exactly(stream, _allowed(int(length), limit), reserve)
    if any("gzip" in each.lower() for each in headers.get("content-encoding", ())):
        return _decompressed(body, limit, reserve)
    return body


def _allowed(size: int, limit: int) -> int:
    if size > limit:
        raise too_large(f"Bodies must have at most {limit} bytes. Received: {size}")
    return size


def _exactly(stream: BufferedIOBase, size: int, reserve: Reserve) -> bytes:
    reserve(size)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _line(stream: BufferedIOBase) -> bytes:
    line = stream.readline(_LONGEST_LINE)
    if not line:
        raise EOFError
    if not line.endswith(b"\n"):
        raise invalid("A line of a chunked body is too long.")
    return line.rstrip(b"\r\n")


def _chunks(stream: BufferedIOBase, limit: int, reserve: Reserve) -> bytes:
    body = bytearray()
    while True:
        text = _line(stream).partition(b";")[0].strip()
        if not re.fullmatch(b"[0-9a-fA-F]{1,15}", text):
            raise invalid("The size of a chunk must be a hexadecimal number.")
        size = int(text, 16)
        if not size:
            break
        _allowed(len(body) + size, limit)
        body += _exactly(stream, size, reserve)
        if _line(stream):
            raise invalid("A chunk must end after the announced number of bytes.")
    for _ in range(_MOST_TRAILERS):
        if not _line(stream):
            return bytes(body)
    raise invalid(f"A chunked body must have at most {_MOST_TRAILERS} trailers.")


def _decompressed(body: bytes, limit: int, reserve: Reserve) -> bytes:
    blocks, size, left = [], 0, body
    try:
        while left:
            # A file in gzip format may have several members.
            member = zlib.decompressobj(_GZIP)
            while not member.eof:
                reserve(_BLOCK)
                block = member.decompress(left, _BLOCK)
                left = member.unconsumed_tail
                size = _allowed(size + len(block), limit)
                blocks.append(block)
                if not block and not left and not member.eof:
                    raise invalid("The body is incomplete data in gzip format.")
            left = member.unused_data
    except zlib.error as error:
        raise invalid(f"The body must be in gzip format: {error}") from error
    return b"".join(blocks)
