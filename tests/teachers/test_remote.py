"""remote: the right answer, a pause where it helps, and an end to patience."""

import time

import grpc
import numpy as np
import pytest

from recdistill.errors import TeacherError
from recdistill.teachers import GrpcModel, InputSpec, RestModel, remote
from tests.pipeline import outside

UNAVAILABLE, INVALID = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(params=["rest", "grpc"])
def server(request):
    """A server of each protocol, how to reach it, and what it says when it is away."""
    opened = {"rest": outside.rest_server, "grpc": outside.grpc_server}
    with opened[request.param]() as running:
        if request.param == "rest":
            away, broken = (503, {"error": "away"}), (400, {"error": "bad request"})
            yield running, RestModel, away, broken
        else:
            yield running, GrpcModel, UNAVAILABLE, INVALID


def inputs(number=3):
    text = {"segment": ["s01", "s02", "s07"], "category": ["c01", "c05", "c07"]}
    arrays = {name: np.array(values, object) for name, values in text.items()}
    return {**arrays, "q": np.array([0.5, -1.0, 2.0], "float32")}


WANT = [2.0, -2.0, 5.0]


def test_it_tells_its_inputs_and_scores(server):
    running, kind, _, _ = server
    model = kind(running.address, "ranker", 3)
    assert model.inputs == {
        "segment": InputSpec("string", (None,)),
        "category": InputSpec("string", (None,)),
        "q": InputSpec("float32", (None,)),
    }
    np.testing.assert_allclose(np.ravel(model.predict(inputs())), WANT)


def test_an_unavailable_server_is_asked_again(server, monkeypatch):
    running, kind, away, _ = server
    pauses = []
    monkeypatch.setattr(remote.time, "sleep", pauses.append)
    monkeypatch.setattr(remote.random, "uniform", lambda low, high: (low + high) / 2)
    model = kind(running.address, "ranker", 3)
    running.failures += [away] * 3
    np.testing.assert_allclose(np.ravel(model.predict(inputs())), WANT)
    assert running.requests == 4
    # Half of 0.1, 0.2 and 0.4 seconds.
    assert pauses == pytest.approx([0.05, 0.1, 0.2])


def test_patience_ends_after_so_many_retries(server, monkeypatch):
    running, kind, away, _ = server
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    model = kind(running.address, "ranker", 3, retries=2)
    running.failures += [away] * 9
    with pytest.raises(TeacherError, match=r"not available after 3 request\(s\)"):
        model.predict(inputs())
    assert running.requests == 3


def test_patience_ends_with_the_deadline(server, monkeypatch):
    running, kind, away, _ = server
    monkeypatch.setattr(remote.random, "uniform", lambda low, high: high)
    model = kind(running.address, "ranker", 3, deadline_s=5.0)
    model._deadline_s = 0.25  # 0.1 s fits in, 0.2 s more do not
    running.failures += [away] * 9
    start = time.monotonic()
    with pytest.raises(TeacherError, match=r"not available after 2 .* within 0.25 s"):
        model.predict(inputs())
    assert time.monotonic() - start < 2


def test_any_other_failure_is_final(server):
    running, kind, _, broken = server
    model = kind(running.address, "ranker", 3)
    running.failures += [broken]
    with pytest.raises(TeacherError, match=r"failed. Received: .*(400|INVALID)"):
        model.predict(inputs())
    assert running.requests == 1


def test_what_the_server_lacks_is_named_with_what_it_has(server):
    running, kind, _, _ = server
    with pytest.raises(TeacherError, match=r"serving_default. Received: 'rank'"):
        kind(running.address, "ranker", 3, "rank")
    with pytest.raises(TeacherError, match=r"`teacher.output` .* score. Received: 'x'"):
        kind(running.address, "ranker", 3, output="x")


@pytest.mark.parametrize(
    ("kind", "address"),
    [(RestModel, "http://127.0.0.1:9"), (GrpcModel, "127.0.0.1:9")],
)
def test_a_server_that_is_not_there_is_told(kind, address):
    with pytest.raises(TeacherError, match=r"ranker at .* is not available after 2"):
        kind(address, "ranker", retries=1, deadline_s=5.0)


def test_types_are_read_from_what_the_server_says():
    def spec(dtype, *sizes):
        dims = [{"size": str(size)} for size in sizes]
        return remote._spec_of_json({"dtype": dtype, "tensor_shape": {"dim": dims}})

    assert spec("DT_DOUBLE", -1, 4) == InputSpec("float64", (None, 4))
    assert spec("DT_INT64", -1) == InputSpec("int64", (None,))
    assert spec("DT_HALF") == InputSpec("float16", ())
    unknown = {"dtype": "DT_BOOL", "tensor_shape": {"unknown_rank": True}}
    assert remote._spec_of_json(unknown) == InputSpec("bool")
