"""Errors of requests, and the HTTP status of each gRPC code."""

from __future__ import annotations

import tensorflow as tf
from grpc import StatusCode

__all__ = [
    "HTTP_STATUS",
    "RequestError",
    "from_tensorflow",
    "invalid",
    "overloaded",
    "too_large",
]

HTTP_STATUS = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}
"""HTTP status of each code in TensorFlow Serving."""

_CODES = {code.value[0]: code for code in StatusCode}
"""TensorFlow's error codes have the numbers of gRPC's status codes."""


class RequestError(Exception):
    """A request that fails with a code and a message.

    Attributes:
        code: gRPC status code.
        message: Message to the client.
        http_status: Status for REST; by default that of the code in `HTTP_STATUS`.
    """

    def __init__(
        self, code: StatusCode, message: str, http_status: int | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.http_status = http_status or HTTP_STATUS[code]


def invalid(message: str) -> RequestError:
    """Creates the error of an invalid request."""
    return RequestError(StatusCode.INVALID_ARGUMENT, message)


def overloaded(message: str) -> RequestError:
    """Creates the error of a request that the server has no capacity for."""
    return RequestError(StatusCode.RESOURCE_EXHAUSTED, message, http_status=503)


def too_large(message: str) -> RequestError:
    """Creates the error of a request that is too large at any time."""
    return RequestError(StatusCode.RESOURCE_EXHAUSTED, message, http_status=413)


def from_tensorflow(error: tf.errors.OpError) -> RequestError:
    """Converts an error of a TensorFlow session.

    Args:
        error: The error raised by the session.

    Examples:
        >>> from_tensorflow(tf.errors.InvalidArgumentError(None, None, "no")).code.name
        'INVALID_ARGUMENT'
    """
    return RequestError(_CODES[error.error_code], str(error.message))
