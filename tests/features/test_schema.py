"""schema: saving, loading, and equal lookups in Python, a function and an export."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recdistill.errors import DataError
from recdistill.features.encoders import (
    FIRST,
    MISSING,
    UNKNOWN,
    HistoryEncoder,
    build_encoder,
)
from recdistill.features.schema import Schema
from recdistill.features.specs import (
    AffinitySpec,
    CategoriesSpec,
    HistorySpec,
    IdSpec,
    NumberSpec,
    TextSpec,
    VectorSpec,
)
from tests.small_models import build_schema

RAW_QUERY = {
    "user": ["ann", "größe", "nobody", ""],
    "jobs": [["cook", "?"], ["", ""], ["cook", ""], ["?", "?"]],
    "age": [31.0, math.nan, math.inf, -3.0],
    "note": ["Hello, World!", "", "映画 映画 映画", "a b c d"],
    "taste": [[1.0, 2.0], [math.nan, 0.0], [-1.0, 3.0], [0.0, 0.0]],
    "past": [["b", "映画"], ["?", "b"], ["", ""], ["größe", "b"]],
    "past_length": [2, 1, 0, 9],
}
RAW_CANDIDATES = {"item": ["b", "new", ""], "clicks": [1.0, 2.0, math.nan]}


def full_schema():
    item = build_encoder("item", IdSpec(), {"vocabulary": ["b", "größe", "映画"]})
    hidden = NumberSpec(teacher_only=True, optional=True)
    return Schema(
        query=[
            build_encoder("user", IdSpec(), {"vocabulary": ["ann", "größe"]}),
            build_encoder("jobs", CategoriesSpec(), {"vocabulary": ["cook"]}),
            build_encoder("age", hidden, {"mean": 30.0, "deviation": 2.0}),
            build_encoder("note", TextSpec(buckets=50, length=3), {}),
            build_encoder("taste", VectorSpec(size=2), {}),
            build_encoder("past", HistorySpec(length=3), {}, item),
        ],
        candidate=[
            item,
            build_encoder("clicks", hidden, {"mean": 1.0, "deviation": 4.0}),
        ],
        affinity={"affinity": AffinitySpec(l2=7.0)},
        item_id="item",
    )


def assert_same_lookups(one, other):
    for method, raw in (
        ("lookup_query", RAW_QUERY),
        ("lookup_candidates", RAW_CANDIDATES),
    ):
        left, right = getattr(one, method)(raw), getattr(other, method)(raw)
        assert list(left) == list(right)
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)


class TestSchema:
    def test_finds_the_encoders_of_item_id_and_history(self):
        schema = full_schema()
        assert schema.items is schema.candidate[0]
        assert isinstance(schema.history, HistoryEncoder)
        assert schema.history.items is schema.items
        assert build_schema(query=["user_id"]).history is None

    def test_a_schema_without_its_item_id_is_an_error(self):
        schema = Schema([], full_schema().candidate[1:], {}, "item")
        with pytest.raises(ValueError, match=r"item id 'item'.*\['clicks'\]"):
            _ = schema.items

    def test_the_schema_of_a_student_has_no_teacher_only_feature(self):
        student = full_schema().for_student()
        assert [e.feature for e in student.query] == [
            "user",
            "jobs",
            "note",
            "taste",
            "past",
        ]
        assert [e.feature for e in student.candidate] == ["item"]
        assert student.affinity == {}
        raw = {name: value for name, value in RAW_QUERY.items() if name != "age"}
        assert "age" not in student.lookup_query(raw)

    def test_a_saved_schema_has_the_same_lookups(self, tmp_path):
        schema = full_schema()
        schema.save(tmp_path)
        loaded = Schema.load(tmp_path)
        assert_same_lookups(loaded, schema)
        assert loaded.affinity == {"affinity": AffinitySpec(l2=7.0)}
        assert loaded.item_id == "item"
        assert loaded.history.items is loaded.items
        assert [e.spec for e in loaded.query] == [e.spec for e in schema.query]

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.text(min_size=1), unique=True, max_size=8), st.lists(st.text()))
    def test_any_vocabulary_can_be_saved(self, tmp_path_factory, vocabulary, values):
        folder = tmp_path_factory.mktemp("schema")
        item = build_encoder("item", IdSpec(), {"vocabulary": vocabulary})
        Schema([], [item], {}, "item").save(folder)
        loaded = Schema.load(folder)
        number = {"": MISSING, **{v: k + FIRST for k, v in enumerate(vocabulary)}}
        asked = [*vocabulary, *values, ""]
        got = loaded.lookup_candidates({"item": asked})["item"].numpy().tolist()
        assert got == [number.get(value, UNKNOWN) for value in asked]

    def test_files_stay_in_the_folder_for_any_feature_name(self, tmp_path):
        folder = tmp_path / "inner"
        folder.mkdir()
        names = ["../out", "..", "/tmp/out", "a b", "a_b", "a%20b", "größe", "映画"]
        encoders = [build_encoder(n, IdSpec(), {"vocabulary": [n]}) for n in names]
        schema = Schema(encoders, encoders, {}, "..")
        schema.save(folder)
        assert [path.name for path in tmp_path.iterdir()] == ["inner"]
        assert len(list(folder.iterdir())) == 1 + 2 * len(names)
        loaded = Schema.load(folder)
        assert [e.vocabulary for e in loaded.query] == [(name,) for name in names]

    def test_without_a_vocabulary_for_its_items_is_refused(self, tmp_path):
        number = build_encoder("clicks", NumberSpec(), {"mean": 0, "deviation": 1})
        for item_id in ("clicks", "absent"):
            Schema([], [number], {}, item_id).save(tmp_path)
            with pytest.raises(DataError, match=r"schema.json has no vocabulary"):
                Schema.load(tmp_path)

    @pytest.mark.parametrize("absent", ["user", "past", "past_length"])
    def test_names_an_input_that_is_absent(self, absent):
        raw = {name: value for name, value in RAW_QUERY.items() if name != absent}
        with pytest.raises(ValueError, match=f"must have the input '{absent}' of"):
            full_schema().lookup_query(raw)

    def test_names_an_input_of_the_wrong_type(self):
        with pytest.raises(ValueError, match=r"`raw` must have float32 .* for 'age'"):
            full_schema().lookup_query({**RAW_QUERY, "age": ["old"] * 4})

    @pytest.mark.parametrize(
        "name, value", [("user", [["ann"]]), ("jobs", ["cook"]), ("taste", [[1.0]])]
    )
    def test_names_an_input_of_the_wrong_shape(self, name, value):
        with pytest.raises(ValueError, match=f"shape .* for '{name}'. Received: sha"):
            full_schema().lookup_query({**RAW_QUERY, name: value})

    def test_looks_up_the_same_in_a_function_and_in_a_saved_model(self, tmp_path):
        schema = full_schema()
        inputs = {
            name: spec for e in schema.query for name, spec in e.raw_inputs().items()
        }
        assert set(inputs) == set(RAW_QUERY)
        module = tf.Module()
        module.schema = schema
        module.lookup = tf.function(schema.lookup_query, input_signature=[inputs])
        tf.saved_model.save(module, tmp_path)
        served = tf.saved_model.load(tmp_path)
        raw = {
            name: tf.constant(RAW_QUERY[name], s.dtype) for name, s in inputs.items()
        }
        want = schema.lookup_query(RAW_QUERY)
        for got in (module.lookup(raw), served.lookup(raw)):
            assert set(got) == set(want)
            for name, value in want.items():
                np.testing.assert_array_equal(got[name], value, err_msg=name)
                assert got[name].dtype == value.dtype
