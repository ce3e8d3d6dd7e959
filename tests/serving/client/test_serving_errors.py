"""serving_errors: classes and codes of the clients' errors."""

import pickle

import pytest

from recdistill.errors import RecdistillError
from recdistill.serving import QueryError, ServingError, UnavailableError
from recdistill.serving.client.serving_errors import code_of_status, error_of


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARGUMENT"),
        (404, "NOT_FOUND"),
        (502, "UNAVAILABLE"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
        (418, "UNKNOWN"),
    ],
)
def test_an_http_status_has_a_grpc_code(status, code):
    assert code_of_status(status) == code


def test_an_unlisted_code_is_a_plain_serving_error():
    error = error_of("ABORTED", "stopped", "`rank`", "grpc://a:8500")
    assert type(error) is ServingError
    assert str(error) == "`rank` at grpc://a:8500 failed with ABORTED: stopped"


def test_errors_can_be_pickled():
    error = error_of("UNAVAILABLE", "full", "`rank`", "grpc://a:8500")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is UnavailableError
    assert (again.code, again.detail, again.endpoint) == (
        "UNAVAILABLE",
        "full",
        "grpc://a:8500",
    )


def test_all_errors_are_errors_that_a_user_can_fix():
    assert issubclass(QueryError, RecdistillError)
    assert issubclass(ServingError, RecdistillError)
    assert ServingError.exit_code == 2
