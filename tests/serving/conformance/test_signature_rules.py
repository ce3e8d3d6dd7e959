"""Conformance with TensorFlow Serving's rules for signatures, with the toy model.

It has signatures that exports of recdistill do not have.
"""

import json
import re

import numpy as np
import pytest

from tests.serving.calls import refused

pytestmark = pytest.mark.slow


def test_defaults_work_over_grpc_only(toy):
    outputs, _ = toy.predict("optional", a=[1.0, 2.0])
    assert outputs["sum"].tolist() == [11.0, 12.0]
    both, _ = toy.predict("optional", a=[1.0], b=[2.0])
    assert both["sum"].tolist() == [3.0]
    with refused("INVALID_ARGUMENT") as error:
        toy.predict("optional", b=[2.0])
    assert error["details"] == (
        "input size does not match signature: 1!=2. Sent extra: {}. "
        "Missing but required: {a}."
    )
    body = {"signature_name": "optional", "inputs": {"a": [1.0]}}
    assert toy.rest(body)[0] == 400


def test_outputs_of_different_lengths_need_the_columnar_format(toy):
    body = {"signature_name": "uneven"}
    status, document = toy.rest({**body, "inputs": [1.0, 2.0]})
    assert (status, document["outputs"]["sum"]) == (200, [3.0])
    status, document = toy.rest({**body, "instances": [1.0, 2.0]})
    assert (status, "inconsistent batch size" in document["error"]) == (400, True)


def test_scalars_need_the_columnar_format(toy):
    body = {"signature_name": "scalar"}
    assert toy.rest({**body, "inputs": 3}) == (200, {"outputs": 6})
    status, document = toy.rest({**body, "instances": [3]})
    assert status == 200  # A row makes a list of the scalar, which the graph accepts.
    assert document == {"predictions": [6]}


def test_a_signature_without_inputs_needs_grpc(toy):
    assert toy.predict("constant")[0]["seven"].tolist() == [7]
    body = {"signature_name": "constant", "inputs": {}}
    status, document = toy.rest(body)
    assert (status, "Failed to get input map" in document["error"]) == (400, True)


def test_scores_that_are_not_finite_are_invalid_json(toy):
    body = {"signature_name": "extreme", "instances": [1.0]}
    status, text = toy.http("POST", "/v1/models/toy:predict", body)
    assert status == 200
    for value in ("Infinity", "-Infinity", "NaN"):
        assert re.search(rf"[\[ ,]{value}[\], ]", text), text
    [[*_, tenth, one, tiny]] = json.loads(text)["predictions"]
    assert [tenth, one, tiny] == pytest.approx([0.1, 1.0, 1e-9])


@pytest.mark.parametrize("name", ["half", "brain"])
def test_small_floats_need_grpc(toy, name):
    outputs, _ = toy.predict(name, x=[1.5])
    assert outputs[name].astype("float32").tolist() == [1.5]
    body = {"signature_name": name, "inputs": [1.5]}
    assert toy.rest(body)[0] == 400


def test_strings_are_base64_if_the_name_ends_in_bytes(toy):
    body = {"signature_name": "described"}
    body["instances"] = [{"ids": ["größe", {"b64": "/w=="}], "scale": 2}]
    status, text = toy.http("POST", "/v1/models/toy:predict", body)
    row = json.loads(text)["predictions"][0]
    assert status == 200
    assert row["ids"] == ["größe", "\udcff"]
    assert row["raw_bytes"] == [{"b64": "Z3LDtsOfZQ=="}, {"b64": "/w=="}]
    assert row["wide"] == [14.0, 2.0]


def test_types_are_unchanged(toy):
    values = {
        "i": np.array([2**40], "int64"),
        "b": np.array([True]),
        "d": np.array([0.1], "float64"),
    }
    outputs, _ = toy.predict("typed", **values)
    assert all(outputs[name].dtype == v.dtype for name, v in values.items())
    columns = {name: value.tolist() for name, value in values.items()}
    body = {"signature_name": "typed", "inputs": columns}
    assert toy.rest(body) == (200, {"outputs": columns})


def test_errors_of_the_graph_have_its_message(toy):
    with refused("INVALID_ARGUMENT") as error:
        toy.predict("checked", n=[1, -1])
    assert "`n` must be at least 0" in error["details"]
    body = {"signature_name": "checked", "inputs": [-1]}
    status, document = toy.rest(body)
    assert (status, "`n` must be" in document["error"]) == (400, True)


def test_an_output_filter_selects_outputs(toy):
    ids = [["a"]]
    outputs, _ = toy.predict(
        "described", output_filter=["wide", "ids"], ids=ids, scale=[1.0]
    )
    assert set(outputs) == {"wide", "ids"}


def test_a_string_without_axes_is_answered(toy):
    outputs, _ = toy.predict("described", ids="größe", scale=[1.0])
    assert outputs["ids"].item() == "größe".encode()
    body = {"signature_name": "described", "inputs": {"ids": "größe", "scale": [1.0]}}
    status, document = toy.rest(body)
    assert (status, document["outputs"]["ids"]) == (200, "größe")
