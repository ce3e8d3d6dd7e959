"""Requests that share a batch: no answer, error or crash depends on another request.

Requests are built from the signatures that the server reports, so any export works.
"""

import itertools
import json
import os
import re
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from recdistill.export.layout import lists_without_length
from tests.server_batches import assert_same_answer
from tests.serving.calls import predict_request

pytestmark = pytest.mark.slow

SIGNATURES = "serving_default recommend rank encode_query encode_candidates".split()
CALLERS, REQUESTS = 16, 48


class Requests:
    """Random valid requests to a server, one to three rows with lists of any width."""

    def __init__(self, endpoint, seed):
        self.endpoint, self.rng = endpoint, np.random.default_rng(seed)
        known = ask(endpoint, "serving_default", self.inputs("serving_default", ["a"]))
        self.ids = [name.decode() for name in known["item_ids"].ravel() if name]

    def inputs(self, signature, ids=None):
        infos = self.endpoint.signatures[signature].inputs
        shapes = {
            name: [d.size if d.size >= 0 else None for d in info.tensor_shape.dim]
            for name, info in infos.items()
        }
        rows = int(self.rng.integers(1, 4))
        inputs = {
            name: self.values(info.dtype, [rows, *shapes[name][1:]], ids or self.ids)
            for name, info in infos.items()
        }
        for name in lists_without_length(shapes):
            inputs[name][:, 0] = "" if inputs[name].dtype == object else 0
        for name in inputs:
            entries = inputs.get(name.removesuffix("_length"))
            if name.endswith("_length") and entries is not None:
                width = entries.shape[1]
                inputs[name] = self.rng.integers(0, width + 1, rows).astype("int32")
        if "k" in inputs:
            inputs["k"] = self.rng.choice([1, 2, 5, 20], rows).astype("int32")
            inputs["allow_ids"][self.rng.random(rows) < 0.5] = ""
        return inputs

    def values(self, dtype, shape, ids):
        wide = [int(self.rng.integers(2, 12)) if n is None else n for n in shape]
        if dtype == types_pb2.DT_STRING:
            return self.rng.choice([*ids, "новинка", ""], wide).astype(object)
        kind = tf.as_dtype(dtype).as_numpy_dtype
        return (3 * self.rng.random(wide)).astype(kind)


def ask(endpoint, signature, inputs):
    """Outputs of a request over gRPC, as arrays by name."""
    request = predict_request(signature, endpoint.model, **inputs)
    response = endpoint.client.send(request)
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def at_once(jobs):
    """Results of functions that run concurrently."""
    with futures.ThreadPoolExecutor(CALLERS) as pool:
        return [each.result() for each in [pool.submit(job) for job in jobs]]


def batches(endpoint):
    """Number of batches that the server has run."""
    _, page = endpoint.client.http("GET", "/monitoring/prometheus/metrics")
    found = re.search(r"batching_session:wrapped_run_count\{\} (\d+)", page)
    return int(found[1])


@pytest.mark.parametrize("signature", SIGNATURES)
def test_an_answer_in_company_is_the_answer_alone(company, signature):
    made = Requests(company, seed=3)
    requests = [made.inputs(signature) for _ in range(REQUESTS)]
    alone = [ask(company, signature, each) for each in requests]
    before = batches(company) if company.engine == "embedded" else 0
    together = at_once([lambda e=e: ask(company, signature, e) for e in requests])
    if company.engine == "embedded":
        assert batches(company) - before < REQUESTS / 2
    for want, got in zip(alone, together, strict=True):
        assert_same_answer(want, got)


def wrong_requests(made):
    """Requests with one mistake each: signature and inputs."""
    good = {name: made.inputs(name) for name in SIGNATURES}
    lists = [
        (signature, name)
        for signature, inputs in good.items()
        for name, value in inputs.items()
        if value.dtype == object and value.ndim == 2
    ]
    yield "recommend", good["recommend"] | {"k": good["recommend"]["k"] * 0}
    yield "recommend", good["recommend"] | {"k": -good["recommend"]["k"]}
    yield "recommend", good["recommend"] | {"k": good["recommend"]["k"][:, None]}
    for signature, name in lists:
        value = good[signature][name]
        yield signature, good[signature] | {name: value[..., None]}
        yield signature, good[signature] | {name: value[:, 0]}
        yield signature, good[signature] | {name: value[:, :0]}
        yield signature, good[signature] | {name: np.repeat(value, 2, axis=0)}
        if f"{name}_length" in good[signature]:
            for wrong in (-1, 99, 2**31 - 1):
                length = np.full(len(value), wrong, "int32")
                yield signature, good[signature] | {f"{name}_length": length}
    for signature, inputs in good.items():
        yield signature, {name: value[:0] for name, value in inputs.items()}
        numbers = [n for n, v in inputs.items() if v.dtype.kind == "f"]
        for name in numbers:
            yield signature, inputs | {name: inputs[name] * np.nan}
            yield signature, inputs | {name: inputs[name][..., None]}


def test_a_wrong_request_does_not_fail_or_change_another(company):
    if os.environ.get("RECDISTILL_SERVING_CLIENTS") == "trusted":
        pytest.skip("The given server is for trusted clients only")
    made = Requests(company, seed=4)
    wrong = list(wrong_requests(made))
    assert len(wrong) > 30
    secrets = [made.inputs("recommend") for _ in wrong]
    for number, each in enumerate(secrets):
        each["exclude_ids"][:, -1] = f"secret {number}"
    alone = [ask(company, "recommend", each) for each in secrets]

    def attempt(signature, inputs):
        try:
            ask(company, signature, inputs)
        except grpc.RpcError as error:
            assert error.code().name in ("INVALID_ARGUMENT", "FAILED_PRECONDITION")
            return error.details()
        return ""

    jobs = [
        job
        for bad, good in zip(wrong, secrets, strict=True)
        for job in (
            lambda bad=bad: attempt(*bad),
            lambda good=good: ask(company, "recommend", good),
        )
    ]
    results = at_once(jobs)
    for want, got in zip(alone, results[1::2], strict=True):
        assert_same_answer(want, got)
    assert not any("secret" in message for message in results[::2])
    assert "AVAILABLE" in company.client.status(company.model).values()


def test_an_empty_list_or_wrong_rank_in_json_does_not_fail_another(company):
    if os.environ.get("RECDISTILL_SERVING_CLIENTS") == "trusted":
        pytest.skip("The given server is for trusted clients only")
    made = Requests(company, seed=5)
    good = [made.inputs("recommend") for _ in range(24)]
    alone = [ask(company, "recommend", each) for each in good]
    columns = {name: value[:1].tolist() for name, value in good[0].items()}
    changes = [
        {"exclude_ids": [[]]},
        {"exclude_ids": [[["a"]]]},
        {"allow_ids": ["a"]},
        {"k": [0]},
        {"k": [[1]]},
        {"k": []},
    ]

    def attempt(change):
        body = {"signature_name": "recommend", "inputs": columns | change}
        path = f"/v1/models/{company.model}:predict"
        status, text = company.client.http("POST", path, body)
        assert status in (200, 400), text
        assert status == 200 or "error" in json.loads(text)

    jobs = [
        job
        for each, change in zip(good, itertools.cycle(changes), strict=False)
        for job in (
            lambda each=each: ask(company, "recommend", each),
            lambda change=change: attempt(change),
        )
    ]
    for want, got in zip(alone, at_once(jobs)[::2], strict=True):
        assert_same_answer(want, got)
