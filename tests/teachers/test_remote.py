"""remote: a served model as a teacher, over both protocols."""

import time

import grpc
import numpy as np
import pytest

from recdistill.errors import TeacherError
from recdistill.pipeline.config.external_teacher_section import RemoteTeacherConfig
from recdistill.pipeline.models.teacher_opening import raw_model
from recdistill.serving.client.contract import SignatureContract, TensorContract
from recdistill.serving.client.protocols import Answer
from recdistill.serving.client.serving_errors import ServingError
from recdistill.teachers import InputSpec, RemoteModel
from tests.pipeline import outside

UNAVAILABLE, INVALID = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT

SCORES = [2.0, -2.0, 5.0]


def inputs():
    text = {"segment": ["s01", "s02", "s07"], "category": ["c01", "c05", "c07"]}
    arrays = {name: np.array(values, object) for name, values in text.items()}
    return {**arrays, "q": np.array([0.5, -1.0, 2.0], "float32")}


def opened(address, **settings):
    """The model of a configuration."""
    settings = {"address": address, "model": "ranker", "version": 3, **settings}
    return raw_model(RemoteTeacherConfig(**settings))


@pytest.fixture(params=["rest", "grpc"])
def server(request):
    """A server, its address, and its answers when it is unavailable and broken."""
    if request.param == "rest":
        with outside.rest_server() as running:
            unavailable, broken = (503, {"error": "away"}), (400, {"error": "bad"})
            yield running, running.address, unavailable, broken
    else:
        with outside.grpc_server() as running:
            yield running, f"grpc://{running.address}", UNAVAILABLE, INVALID


def test_inputs_and_scores_come_from_the_server(server):
    _, address, _, _ = server
    model = opened(address)
    assert model.label == f"ranker, version 3 at {address}"
    assert model.inputs == {
        "segment": InputSpec("string", (None,)),
        "category": InputSpec("string", (None,)),
        "q": InputSpec("float32", (None,)),
    }
    np.testing.assert_allclose(np.ravel(model.predict(inputs())), SCORES)


def test_a_request_to_an_unavailable_server_is_sent_again(server):
    running, address, unavailable, _ = server
    model = opened(address)
    running.failures += [unavailable] * 3
    np.testing.assert_allclose(np.ravel(model.predict(inputs())), SCORES)
    assert running.requests == 4


def test_every_chunk_has_its_full_number_of_retries(server, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    running, address, unavailable, _ = server
    model = opened(address, retries=7)
    for _ in range(3):
        running.failures += [unavailable] * 7
        model.predict(inputs())
    assert running.requests == 24


def test_retries_end(server):
    running, address, unavailable, _ = server
    model = opened(address, retries=2)
    running.failures += [unavailable] * 9
    with pytest.raises(TeacherError, match=r"ranker, version 3 .*UNAVAILABLE"):
        model.predict(inputs())
    assert running.requests == 3


def test_other_failures_are_final(server):
    running, address, _, broken = server
    model = opened(address)
    running.failures += [broken]
    with pytest.raises(TeacherError, match=r"failed: .*INVALID_ARGUMENT"):
        model.predict(inputs())
    assert running.requests == 1


def test_a_missing_signature_or_output_is_named_with_those_that_exist(server):
    _, address, _, _ = server
    with pytest.raises(TeacherError, match=r"serving_default. Received: 'rank'"):
        opened(address, signature="rank")
    with pytest.raises(TeacherError, match=r"`teacher.output` .* score. Received: 'x'"):
        opened(address, output="x")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_an_address_without_a_server_is_an_error(scheme):
    with pytest.raises(TeacherError, match=r"ranker, version 3 at .* UNAVAILABLE"):
        opened(f"{scheme}://127.0.0.1:9", retries=1)


def test_a_bad_address_is_an_error():
    with pytest.raises(TeacherError, match=r"`teacher.address`.*host:8500"):
        opened("http://host:8501/path")


class TestClients:
    """The model uses any client with the two methods."""

    class Client:
        def __init__(self, **outputs):
            self.outputs = outputs

        def signatures(self):
            shape = {"q": TensorContract("float16", (None, 4))}
            outputs = {name: TensorContract("float32", None) for name in ("a", "b")}
            return {"serving_default": SignatureContract(shape, outputs)}

        def predict(self, signature, inputs):
            return Answer(self.outputs, None)

    def test_the_output_is_chosen_by_name(self):
        client = self.Client(a=np.array([1.0]), b=np.array([2.0]))
        model = RemoteModel(client, "m", output="b")
        assert model.predict({}).tolist() == [2.0]
        assert model.inputs == {"q": InputSpec("float16", (None, 4))}
        with pytest.raises(TeacherError, match=r"`teacher.output` .* a, b"):
            RemoteModel(client, "m")

    def test_an_answer_without_the_output_is_an_error(self):
        model = RemoteModel(self.Client(a=np.array([1.0])), "m", output="b")
        with pytest.raises(TeacherError, match=r"outputs \['a'\], not 'b'"):
            model.predict({})

    def test_a_client_error_becomes_a_teacher_error(self):
        client = self.Client()
        model = RemoteModel(client, "m", output="a")

        def fail(*_):
            raise ServingError("INTERNAL", "broken", "`x`", "grpc://a")

        client.predict = fail
        with pytest.raises(TeacherError, match=r"The teacher m failed: .*broken"):
            model.predict({})
