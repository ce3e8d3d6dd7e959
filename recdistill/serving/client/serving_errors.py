"""Errors of the clients, the same over gRPC and REST.

The codes are the names of gRPC's status codes. An HTTP status is mapped to the code
that the same server returns over gRPC.
"""

from __future__ import annotations

import re

from recdistill.errors import RecdistillError

__all__ = [
    "DeadlineError",
    "InvalidRequestError",
    "NotFoundError",
    "QueryError",
    "ServingError",
    "UnavailableError",
    "code_of_status",
    "error_of",
]


class QueryError(RecdistillError, ValueError):
    """A query that does not fit the model. The client did not send it."""


class ServingError(RecdistillError, RuntimeError):
    """A request that failed.

    Attributes:
        code: Name of the gRPC status code, such as `"INTERNAL"`.
        detail: Message of the server, or of the connection if no server was reached.
        endpoint: URL of the server.
    """

    def __init__(self, code: str, detail: str, what: str, endpoint: str) -> None:
        super().__init__(f"{what} at {endpoint} failed with {code}: {detail}")
        self.code, self.detail, self.endpoint = code, detail, endpoint
        self._what = what

    def __reduce__(self) -> tuple[type[ServingError], tuple[str, str, str, str]]:
        return type(self), (self.code, self.detail, self._what, self.endpoint)


class InvalidRequestError(ServingError):
    """The server rejected the request as invalid; it would do so again."""


class NotFoundError(ServingError):
    """The server does not have the model, version or label."""


class UnavailableError(ServingError):
    """The server did not accept the request: no connection, overload, or shutdown.

    The code is "UNAVAILABLE", "CANCELLED" if the server was about to stop, or
    "RESOURCE_EXHAUSTED" if all its threads or its queue were in use.
    """


class DeadlineError(ServingError):
    """The answer did not arrive by the deadline. The server may have processed it."""


_KINDS: dict[str, type[ServingError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "FAILED_PRECONDITION": InvalidRequestError,
    "OUT_OF_RANGE": InvalidRequestError,
    "NOT_FOUND": NotFoundError,
    "UNAVAILABLE": UnavailableError,
    "CANCELLED": UnavailableError,
    "RESOURCE_EXHAUSTED": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineError,
}

_NO_CAPACITY = re.compile(
    "Threadpool Exhausted|Concurrent RPC limit exceeded|overloaded|Too Many Requests",
    re.IGNORECASE,
)
"""Exhausted by all requests together, as opposed to a request that is too large.

The messages are those of gRPC in C++ and in Python, and of the embedded server.
"""

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    412: "FAILED_PRECONDITION",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def code_of_status(status: int) -> str:
    """Name of the gRPC status code for an HTTP status.

    Examples:
        >>> code_of_status(503), code_of_status(418)
        ('UNAVAILABLE', 'UNKNOWN')
    """
    return _STATUS.get(status, "UNKNOWN")


def error_of(code: str, detail: str, what: str, endpoint: str) -> ServingError:
    """Creates the error of a gRPC status code, of the matching class.

    Args:
        code: Name of the gRPC status code.
        detail: Message of the server.
        what: Description of the request, the subject of the sentence.
        endpoint: URL of the server.

    Examples:
        >>> error_of("NOT_FOUND", "no films", "`rank`", "grpc://a:8500")
        NotFoundError('`rank` at grpc://a:8500 failed with NOT_FOUND: no films')
    """
    kind = _KINDS.get(code, ServingError)
    if code == "RESOURCE_EXHAUSTED" and not _NO_CAPACITY.search(detail):
        kind = ServingError
    return kind(code, detail, what, endpoint)
