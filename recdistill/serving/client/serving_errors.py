"""What can go wrong between a client and a server, the same over gRPC and REST.

The codes are gRPC's names; a REST status is translated to the name that the same server
gives the same mishap over gRPC.
"""

from __future__ import annotations

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


class QueryError(ValueError):
    """A query that the client refuses to send; nothing reached the server."""


class ServingError(RuntimeError):
    """A request that got no answer.

    Attributes:
        code: gRPC's name of the status, such as `"INTERNAL"`.
        said: What the server said, word for word; where there was no server, what the
            connection said.
        endpoint: The server, as the client was given it.
    """

    def __init__(self, code: str, said: str, what: str, endpoint: str) -> None:
        super().__init__(f"{what} at {endpoint} failed with {code}: {said}")
        self.code, self.said, self.endpoint = code, said, endpoint
        self._what = what

    def __reduce__(self) -> tuple[type[ServingError], tuple[str, str, str, str]]:
        return type(self), (self.code, self.said, self._what, self.endpoint)


class InvalidRequestError(ServingError):
    """The server read the request and refused it: another try would fail alike."""


class NotFoundError(ServingError):
    """The server has no such model, version or label."""


class UnavailableError(ServingError):
    """Nobody took the request: no connection, a server that drains, a full queue."""


class DeadlineError(ServingError):
    """No answer came in time; whether the server worked on it is not known."""


_KINDS: dict[str, type[ServingError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "FAILED_PRECONDITION": InvalidRequestError,
    "OUT_OF_RANGE": InvalidRequestError,
    "NOT_FOUND": NotFoundError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineError,
}

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
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def code_of_status(status: int) -> str:
    """The code of an HTTP status.

    Example:
        >>> code_of_status(503), code_of_status(418)
        ('UNAVAILABLE', 'UNKNOWN')
    """
    return _STATUS.get(status, "UNKNOWN")


def error_of(code: str, said: str, what: str, endpoint: str) -> ServingError:
    """The error of a code, of the class that callers can act on.

    Args:
        code: gRPC's name of the status.
        said: What the server said.
        what: What was asked of it, the subject of the sentence.
        endpoint: The server.

    Example:
        >>> error_of("NOT_FOUND", "no films", "`rank`", "grpc://a:8500")
        NotFoundError('`rank` at grpc://a:8500 failed with NOT_FOUND: no films')
    """
    return _KINDS.get(code, ServingError)(code, said, what, endpoint)
