"""contract: queries become inputs, and errors name query and feature."""

import numpy as np
import pytest

from recdistill.serving.client.contract import (
    SignatureContract,
    TensorContract,
    batch_of,
    ids_of,
)
from recdistill.serving.client.recommendations import recommend_inputs
from recdistill.serving.client.serving_errors import QueryError

CONTRACT = SignatureContract(
    {
        "user_id": TensorContract("string", (None,)),
        "age": TensorContract("float32", (None,)),
        "visits": TensorContract("int32", (None,)),
        "taste": TensorContract("float32", (None, 2)),
        "jobs": TensorContract("string", (None, None)),
        "history": TensorContract("string", (None, None)),
        "history_length": TensorContract("int32", (None,)),
        "walk_length": TensorContract("float32", (None,)),
        "k": TensorContract("int32", (None,)),
        "exclude_ids": TensorContract("string", (None, None)),
    },
    {},
)


def query(**changes):
    plain = {
        "user_id": "ann",
        "age": 30,
        "visits": 2,
        "taste": [0.5, 1.5],
        "jobs": [],
        "history": ["größe", "b"],
        "walk_length": 3.5,
    }
    return {**plain, **changes}


def test_lists_are_padded_and_the_length_of_a_history_is_sent():
    queries = [query(), query(history=[]), query(history=("c", "d", "e"))]
    batch = batch_of(CONTRACT, queries)
    assert batch["history"].tolist() == [
        ["größe", "b", ""],
        ["", "", ""],
        ["c", "d", "e"],
    ]
    assert batch["history_length"].tolist() == [2, 0, 3]
    assert batch["history_length"].dtype == "int32"
    assert batch["jobs"].tolist() == [[""]] * 3
    assert "k" not in batch and "exclude_ids" not in batch


def test_a_list_without_length_begins_with_an_empty_entry():
    contract = SignatureContract(
        {
            "codes": TensorContract("int64", (None, None)),
            "tags": TensorContract("string", (None, None)),
            "steps": TensorContract("float32", (None, None)),
            "steps_length": TensorContract("int64", (None,)),
        },
        {},
    )
    queries = [
        {"codes": [3], "tags": ["new", "old"], "steps": [0.5]},
        {"codes": [4, 5], "tags": [], "steps": [1.5, 2.5]},
    ]
    batch = batch_of(contract, queries)
    assert batch["codes"].tolist() == [[0, 3, 0], [0, 4, 5]]
    assert batch["tags"].tolist() == [["", "new", "old"], ["", "", ""]]
    assert batch["steps"].tolist() == [[0.5, 0.0], [1.5, 2.5]]
    assert batch["steps_length"].tolist() == [1, 2]
    types = {name: value.dtype.name for name, value in batch.items()}
    assert types["codes"] == types["steps_length"] == "int64"
    assert types["steps"] == "float32"


def test_a_list_that_is_empty_in_all_queries_becomes_one_empty_string():
    batch = batch_of(CONTRACT, [query(history=[], jobs=None)])
    assert batch["history"].tolist() == [[""]]
    assert batch["jobs"].tolist() == [[""]]
    assert batch["history_length"].tolist() == [0]


def test_a_number_whose_name_ends_in_length_is_a_feature():
    assert batch_of(CONTRACT, [query()])["walk_length"].tolist() == [3.5]


def test_inputs_have_the_types_of_the_signature():
    batch = batch_of(CONTRACT, [query(age=np.float64(2.5), visits=np.int64(4))])
    assert {name: value.dtype.name for name, value in batch.items()} == {
        "user_id": "object",
        "age": "float32",
        "visits": "int32",
        "taste": "float32",
        "jobs": "object",
        "history": "object",
        "history_length": "int32",
        "walk_length": "float32",
    }
    assert batch["taste"].shape == (1, 2)


def test_none_is_an_unknown_value():
    batch = batch_of(CONTRACT, [query(user_id=None, age=None, history=None)])
    assert batch["user_id"].tolist() == [""]
    assert np.isnan(batch["age"]).tolist() == [True]
    assert batch["history_length"].tolist() == [0]


def test_a_history_is_cut_to_its_length():
    padded = query(history=np.array(["a", "", ""]), history_length=np.int32(1))
    batch = batch_of(CONTRACT, [padded])
    assert batch["history"].tolist() == [["a"]]
    assert batch["history_length"].tolist() == [1]


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([], r"`queries` must have at least one query, .* Received: none"),
        (query(), r"at least one query, a mapping .* Received: one dict"),
        (None, r"at least one query, a mapping .* Received: one NoneType"),
        ([None], r"must hold mappings .* Received: NoneType as query 0"),
        ([query(), "a"], r"must hold mappings .* Received: str as query 1"),
        ([query(age=10**400)], r"`age` must have numbers in the range of float64"),
        (
            [query(), {k: v for k, v in query().items() if k != "age"}],
            r"must have the feature 'age', None if its value is unknown.*in query 1",
        ),
        (
            [query(agee=3)],
            r"must have only the features \[.*Received: 'agee' in query 0",
        ),
        ([query(k=3)], r"Received: 'k' in query 0"),
        ([query(user_id=42)], r"`user_id` must be text\. Received: 42.*send '42'"),
        ([query(age="30")], r"`age` must be a number\. Received: '30' in query 0"),
        ([query(visits=2.5)], r"`visits` must have whole numbers"),
        ([query(visits=None)], r"`visits` must have whole numbers"),
        ([query(visits=2**40)], r"`visits` must have whole numbers"),
        ([query(history="abc")], r"`history` must be a list\. Received: 'abc'"),
        ([query(history=[3])], r"`history` must be text\. Received: 3"),
        ([query(user_id="\ud800")], r"must be valid Unicode text"),
        (
            [query(), query(taste=[1.0])],
            r"`taste` must have 2 values\. Received: 1 in query 1",
        ),
        ([query(history_length=3)], r"`history_length` must be from 0 to 2"),
    ],
)
def test_an_invalid_query_is_an_error_with_feature_and_query(queries, message):
    with pytest.raises(QueryError, match=message):
        batch_of(CONTRACT, queries)


def test_ids_have_one_list_for_each_query():
    lists = [["a"], ["b", "c"]]
    want = [["", "a", ""], ["", "b", "c"]]
    assert ids_of("exclude", lists, 2).tolist() == want
    assert ids_of("candidates", lists, 2, led=False).tolist() == [["a", ""], ["b", "c"]]
    with pytest.raises(QueryError, match=r"one list for each of the 2.*Received: 1"):
        ids_of("exclude", [["a"]], 2)
    with pytest.raises(
        QueryError, match=r"`exclude` must have one list.*Received: 'ab'"
    ):
        ids_of("exclude", "ab", 2)
    with pytest.raises(QueryError, match=r"`exclude` must be text"):
        ids_of("exclude", [[3]], 1)


def test_an_allow_list_is_an_error_if_the_model_has_no_such_input():
    assert "allow_ids" not in recommend_inputs(CONTRACT, [query()], 3, (), None)
    with pytest.raises(
        QueryError, match="`allow` must be None: this version of the model"
    ):
        recommend_inputs(CONTRACT, [query()], 3, (), [["a"]])
