"""Heads of HTTP requests: the request line and the headers, with limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BufferedIOBase

from grpc import StatusCode

from recdistill.serving.server.request_errors import RequestError, invalid

__all__ = ["LONGEST_LINE", "HttpHead", "read_http_head"]

LONGEST_LINE = 2**16
"""Maximum number of bytes of a line."""

_MOST_HEADERS = 100
_VERSION = re.compile(r"HTTP/([0-9]{1,3})\.([0-9]{1,3})")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class HttpHead:
    """Request line and headers.

    Attributes:
        method: Such as "POST".
        path: Path and query as sent.
        headers: Values of the headers by name in lower case.
        keep_alive: Whether the client may send another request.
    """

    method: str
    path: str
    headers: dict[str, list[str]]
    keep_alive: bool


def read_http_head(line: bytes, stream: BufferedIOBase) -> HttpHead:
    """Reads the head of a request.

    Args:
        line: The first line.
        stream: The connection after this line.

    Raises:
        RequestError: If it is not the head of an HTTP request, or too long.
        EOFError: If the connection ends before the end of the head.
    """
    _check_line(line, 414)
    words = line.decode("latin-1").split()
    version = _VERSION.fullmatch(words[2]) if len(words) == 3 else None
    if version is None:
        raise invalid(
            "The first line of a request must have a method, a path and the version of "
            "HTTP."
        )
    if int(version[1]) != 1:
        raise RequestError(
            StatusCode.UNIMPLEMENTED, "The server supports HTTP/1.1.", http_status=505
        )
    headers: dict[str, list[str]] = {}
    for _ in range(_MOST_HEADERS + 1):
        line = stream.readline(LONGEST_LINE + 1)
        _check_line(line, 431)
        line = line.rstrip(b"\r\n")
        if not line:
            break
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise invalid("The headers are invalid.")
        headers.setdefault(name.lower(), []).append(value.strip(" \t"))
    else:
        raise _too_long(431, f"A request must have at most {_MOST_HEADERS} headers.")
    wishes = ",".join(headers.get("connection", ())).lower()
    keep = "keep-alive" in wishes if version[2] == "0" else "close" not in wishes
    return HttpHead(words[0], words[1], headers, keep)


def _check_line(line: bytes, status: int) -> None:
    if len(line) > LONGEST_LINE:
        raise _too_long(status, "A line of the request's head is too long.")
    if not line.endswith(b"\n"):
        raise EOFError


def _too_long(status: int, message: str) -> RequestError:
    return RequestError(StatusCode.INVALID_ARGUMENT, message, http_status=status)
