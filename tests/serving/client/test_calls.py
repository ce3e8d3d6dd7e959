"""calls: a client outlives the release of a version with other inputs or outputs."""

import asyncio
import json

import pytest

from recdistill.serving.client import calls
from recdistill.serving.client.calls import Calls
from recdistill.serving.client.endpoints import Endpoint
from recdistill.serving.client.protocols import Target
from recdistill.serving.client.serving_errors import (
    QueryError,
    ServingError,
    UnavailableError,
)


def tensor(dtype, *shape):
    dims = [{"size": str(size)} for size in shape]
    return {"dtype": f"DT_{dtype}", "tensor_shape": {"dim": dims}}


class Server:
    """A model behind a label, over REST; a test changes its signature."""

    def __init__(self):
        self.inputs = {
            "user": tensor("STRING", -1),
            "k": tensor("INT32", -1),
            "exclude_ids": tensor("STRING", -1, -1),
        }
        self.outputs = {
            "item_ids": tensor("STRING", -1, -1),
            "scores": tensor("FLOAT", -1, -1),
        }
        self.described, self.broken, self.overloaded = 0, False, False

    async def send(self, message, timeout_s):
        if message.body is None:
            self.described += 1
            await asyncio.sleep(0)
            if self.overloaded:
                raise UnavailableError("UNAVAILABLE", "overloaded", "`a`", "http://x")
            signature = {"inputs": self.inputs, "outputs": self.outputs}
            found = {"signature_def": {"signature_def": {"recommend": signature}}}
            return json.dumps({"metadata": found}).encode()
        if self.broken:
            return b"{}"
        answer = {"item_ids": [["a"]], "scores": [[1.0]], "titles": [["t"]]}
        outputs = {name: answer[name] for name in self.outputs}
        return json.dumps({"outputs": outputs}).encode()


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def client(server):
    async def sleep(seconds):
        pass

    target = Target("films", label="stable")
    return Calls(Endpoint.parse("http://x"), target, server.send, sleep, 5.0, 0)


@pytest.fixture
def recommend(client):
    def call(**query):
        allow = query.pop("allow", None)
        answers = client.recommend([{"user": "ann", **query}], allow=allow)
        return [each.item_ids for each in asyncio.run(answers)]

    assert call() == [["a"]]
    return call


def test_a_version_with_another_output_is_understood(server, recommend):
    server.outputs["titles"] = tensor("STRING", -1, -1)
    assert recommend() == [["a"]]
    assert recommend() == [["a"]]
    assert server.described == 2


def test_a_feature_of_a_newer_version_can_be_sent(server, recommend):
    with pytest.raises(QueryError, match="'age'"):
        recommend(age=3.0)
    assert server.described == 2  # It is asked once whether the model has changed.
    server.inputs["age"] = tensor("FLOAT", -1)
    assert recommend(age=3.0) == [["a"]]
    assert server.described == 3


def test_a_limit_is_not_lost_when_the_version_before_has_none(
    server, recommend, monkeypatch
):
    server.inputs["allow_ids"] = tensor("STRING", -1, -1)
    assert recommend(allow=[["a"]]) == [["a"]]
    del server.inputs["allow_ids"]
    monkeypatch.setattr(calls, "ALLOWED_S", -1.0)  # As if a second had passed.
    with pytest.raises(QueryError, match="allow"):
        recommend(allow=[["a"]])


def test_concurrent_calls_ask_once_when_the_contract_is_old(server, client, recommend):
    async def many():
        one = [{"user": "ann"}]
        return await asyncio.gather(*(client.recommend(one) for _ in range(9)))

    client._asked -= calls.CONTRACT_S + 1
    assert len(asyncio.run(many())) == 9
    assert server.described == 2


def test_an_answer_that_stays_unreadable_is_an_error(server, recommend):
    server.broken = True
    with pytest.raises(ServingError, match="the answer cannot be read"):
        recommend()
    assert server.described == 2


def test_an_overloaded_server_is_called_with_the_known_contract(
    server, client, recommend
):
    server.overloaded = True
    client._asked -= calls.CONTRACT_S + 1
    assert recommend() == [["a"]]
    assert recommend() == [["a"]]
    assert server.described == 2  # It is not asked again by the next call.
    assert client.errors == {}


def test_a_limit_needs_a_contract_that_is_not_old(server, client, recommend):
    server.inputs["allow_ids"] = tensor("STRING", -1, -1)
    assert recommend(allow=[["a"]]) == [["a"]]
    server.overloaded = True
    client._asked -= calls.ALLOWED_S + 1
    with pytest.raises(UnavailableError):
        recommend(allow=[["a"]])


def test_a_call_whose_contract_cannot_be_asked_for_is_a_failed_call(server, client):
    server.overloaded = True
    for count in (1, 2):
        with pytest.raises(UnavailableError):
            asyncio.run(client.recommend([{"user": "ann"}]))
        assert client.errors == {("recommend", "UNAVAILABLE"): count}


def test_a_call_is_counted_once_if_its_answer_stays_unreadable(
    server, client, recommend
):
    server.broken = True
    with pytest.raises(ServingError):
        recommend()
    assert client.errors == {("recommend", "INTERNAL"): 1}
