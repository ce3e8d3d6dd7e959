"""encoders: each lookup by hand, the same everywhere it runs, and the embed half."""

import math

import keras
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
    FeatureEmbedding,
    HistoryEncoder,
    Schema,
    build_encoder,
)
from recdistill.features.specs import (
    AffinitySpec,
    CategoriesSpec,
    CategorySpec,
    HistorySpec,
    IdSpec,
    NumberSpec,
    TextSpec,
    VectorSpec,
)
from tests import small

VOCABULARY = ["b", "größe", "映画"]


def looked_up(encoder, *values):
    inputs = dict(zip(encoder.raw_inputs(), values, strict=True))
    return encoder.lookup({k: tf.constant(v) for k, v in inputs.items()}).numpy()


def items():
    return build_encoder("item", IdSpec(), {"vocabulary": VOCABULARY})


def newest_first(ids, lengths, length=3):
    encoder = build_encoder("history", HistorySpec(length=length), {}, items())
    return looked_up(encoder, ids, np.array(lengths, "int32"))


@pytest.mark.parametrize("spec", [IdSpec(), CategorySpec()])
def test_values_are_numbered_in_the_order_of_the_vocabulary(spec):
    encoder = build_encoder("f", spec, {"vocabulary": VOCABULARY})
    got = looked_up(encoder, ["b", "größe", "映画", "B", "b ", ""])
    assert got.dtype == np.int32
    assert got.tolist() == [FIRST, FIRST + 1, FIRST + 2, UNKNOWN, UNKNOWN, MISSING]
    assert encoder.size == len(VOCABULARY) + 2


def test_a_vocabulary_may_be_empty():
    encoder = build_encoder("f", IdSpec(), {"vocabulary": []})
    assert looked_up(encoder, ["a", ""]).tolist() == [UNKNOWN, MISSING]


def test_categories_keep_their_places():
    encoder = build_encoder("f", CategoriesSpec(), {"vocabulary": VOCABULARY})
    got = looked_up(encoder, [["映画", "?", ""], ["", "", ""]])
    assert got.tolist() == [[FIRST + 2, UNKNOWN, MISSING], [MISSING] * 3]


def test_numbers_are_standardised_and_the_missing_are_marked():
    encoder = build_encoder("f", NumberSpec(), {"mean": 40.0, "deviation": 10.0})
    got = looked_up(encoder, [40.0, 55.0, 0.0, math.nan, math.inf, -math.inf])
    assert got.dtype == np.float32
    zero = [0.0, 1.0]
    assert got.tolist() == [[0.0, 0.0], [1.5, 0.0], [-4.0, 0.0], zero, zero, zero]


def test_a_number_too_large_to_be_standardised_is_missing():
    encoder = build_encoder("f", NumberSpec(), {"mean": 0.0, "deviation": 0.01})
    assert looked_up(encoder, [3e38]).tolist() == [[0.0, 1.0]]


def test_vectors_pass_and_what_is_not_finite_becomes_zero():
    encoder = build_encoder("f", VectorSpec(size=2), {})
    got = looked_up(encoder, [[1.5, -2.0], [math.nan, math.inf]])
    assert got.tolist() == [[1.5, -2.0], [0.0, 0.0]]


class TestText:
    def words(self, *texts, buckets=1000, length=3):
        return looked_up(
            build_encoder("f", TextSpec(buckets=buckets, length=length), {}), texts
        )

    def test_is_cut_and_padded_to_its_length(self):
        got = self.words("one", "one two three four", "", " ,;! ")
        one, two, three = got[1]
        assert got.shape == (4, 3) and got.dtype == np.int32
        assert len({one, two, three, 0}) == 4
        assert got[[0, 2, 3]].tolist() == [[one, 0, 0], [0, 0, 0], [0, 0, 0]]

    def test_does_not_depend_on_case_or_punctuation(self):
        got = self.words("Größe: the FILM", "(größe) -- The film!", "GRÖSSE the film")
        assert got[0].tolist() == got[1].tolist()
        assert got[0][0] != got[2][0] and got[0][1:].tolist() == got[2][1:].tolist()

    @pytest.mark.parametrize(
        "word", ["映画", "новинка", "हिन्दी", "e\u0301te\u0301", "7"]
    )
    def test_a_word_of_any_script_is_one_word(self, word):
        got = self.words(word, f"the {word}")
        assert got[0, 0] > 0 and got[0, 1:].tolist() == [0, 0]
        assert got[1, 1] == got[0, 0]

    def test_buckets_are_all_used_and_none_is_the_padding(self):
        got = self.words(" ".join(map(str, range(200))), buckets=4, length=200)
        assert set(got[0].tolist()) == {1, 2, 3, 4}
        assert build_encoder("f", TextSpec(buckets=4), {}).size == 5

    def test_hashes_are_the_same_in_every_process(self):
        # Fingerprint64 of the word, modulo the buckets, plus 1. Models in use depend on
        # it, so these numbers must never change.
        assert self.words("the film", buckets=4096, length=2).tolist() == [[3947, 1369]]


class TestHistory:
    def test_is_turned_so_that_the_newest_comes_first(self):
        got = newest_first([["b", "größe", "?"]], [3])
        assert got.dtype == np.int32
        assert got.tolist() == [[UNKNOWN, FIRST + 1, FIRST]]

    def test_longer_than_the_model_reads_loses_the_oldest(self):
        got = newest_first([["?", "?", "b", "größe", "映画"]], [5])
        assert got.tolist() == [[FIRST + 2, FIRST + 1, FIRST]]

    def test_shorter_than_the_model_reads_is_padded(self):
        got = newest_first([["b", "größe"], ["b", "größe"]], [2, 1])
        assert got.tolist() == [[FIRST + 1, FIRST, 0], [FIRST, 0, 0]]

    def test_nothing_behind_its_length_is_read(self):
        clean = newest_first([["b", "größe", "", ""], ["", "", "", ""]], [2, 0])
        dirty = newest_first([["b", "größe", "映画", "?"], ["b", "?", "", "b"]], [2, 0])
        assert dirty.tolist() == clean.tolist()

    def test_a_length_outside_of_the_array_is_brought_inside(self):
        ids = [["b", "größe"]] * 3
        got = newest_first(ids, [99, -1, np.iinfo("int32").min])
        assert got.tolist() == [[FIRST + 1, FIRST, 0], [0, 0, 0], [0, 0, 0]]

    def test_an_empty_id_inside_is_missing(self):
        assert newest_first([["b", "", "映画"]], [3]).tolist() == [[4, MISSING, 2]]

    def test_without_any_column_is_empty(self):
        got = newest_first(np.zeros((2, 0), object).astype(str), [0, 5])
        assert got.tolist() == [[0, 0, 0], [0, 0, 0]]

    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(st.lists(st.sampled_from([*VOCABULARY, "?"]), max_size=6), min_size=1),
        st.integers(0, 3),
    )
    def test_is_the_list_backwards_whatever_pads_it(self, histories, extra):
        width = max(map(len, histories)) + extra
        padded = [h + ["b"] * (width - len(h)) for h in histories]
        got = newest_first(
            np.array(padded, object).reshape(len(histories), width).astype(str),
            [len(h) for h in histories],
            length=4,
        )
        number = {value: k + FIRST for k, value in enumerate(VOCABULARY)}
        want = [[number.get(i, UNKNOWN) for i in h[::-1]][:4] for h in histories]
        assert got.tolist() == [row + [0] * (4 - len(row)) for row in want]

    def test_needs_the_encoder_of_the_items(self):
        with pytest.raises(
            ValueError, match=r"`items`.*HistorySpec for feature 'past'"
        ):
            build_encoder("past", HistorySpec(), {})


def test_an_affinity_has_no_encoder():
    with pytest.raises(ValueError, match="AffinitySpec for feature 'affinity'"):
        build_encoder("affinity", AffinitySpec(), {}, items())


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
    item = items()
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
    def test_knows_its_items_and_its_history(self):
        schema = full_schema()
        assert schema.items is schema.candidate[0]
        assert isinstance(schema.history, HistoryEncoder)
        assert schema.history.items is schema.items
        assert small.schema(query=["user_id"]).history is None

    def test_without_its_item_id_says_so(self):
        schema = Schema([], full_schema().candidate[1:], {}, "item")
        with pytest.raises(ValueError, match=r"item id 'item'.*\['clicks'\]"):
            _ = schema.items

    def test_of_the_student_has_no_privileged_feature(self):
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

    def test_comes_back_from_its_folder_with_the_same_lookups(self, tmp_path):
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
    def test_any_vocabulary_comes_back(self, tmp_path_factory, vocabulary, values):
        folder = tmp_path_factory.mktemp("schema")
        item = build_encoder("item", IdSpec(), {"vocabulary": vocabulary})
        Schema([], [item], {}, "item").save(folder)
        loaded = Schema.load(folder)
        number = {"": MISSING, **{v: k + FIRST for k, v in enumerate(vocabulary)}}
        asked = [*vocabulary, *values, ""]
        got = loaded.lookup_candidates({"item": asked})["item"].numpy().tolist()
        assert got == [number.get(value, UNKNOWN) for value in asked]

    def test_keeps_to_its_folder_whatever_its_features_are_called(self, tmp_path):
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
        with pytest.raises(ValueError, match=f"must hold the input '{absent}' of"):
            full_schema().lookup_query(raw)

    def test_names_an_input_of_the_wrong_type(self):
        with pytest.raises(ValueError, match=r"`raw` must hold float32.* under 'age'"):
            full_schema().lookup_query({**RAW_QUERY, "age": ["old"] * 4})

    @pytest.mark.parametrize(
        "name, value", [("user", [["ann"]]), ("jobs", ["cook"]), ("taste", [[1.0]])]
    )
    def test_names_an_input_of_the_wrong_shape(self, name, value):
        with pytest.raises(ValueError, match=f"shape .* under '{name}'. Received: sha"):
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


class TestFeatureEmbedding:
    def build(self, sizes, dim=2):
        layer = FeatureEmbedding(sizes, dim)
        layer.build()
        for number, table in enumerate(layer.tables.values()):
            size = table.input_dim
            # Row k of table t is (100 t + k, -k); row 0 holds what must not be seen.
            rows = np.stack([100 * number + np.arange(size), -np.arange(size)], 1)
            rows[0] = 1e6
            table.set_weights([rows.astype("float32")])
        return layer

    def test_joins_what_it_embeds_in_the_order_of_its_sizes(self):
        layer = self.build({"number": None, "a": 5, "b": 4})
        got = layer(
            {
                "b": np.array([[3, 1, 0], [2, 0, 0]]),
                "a": np.array([2, 4]),
                "number": np.array([[0.5, 0.0], [0.0, 1.0]], "float32"),
            }
        )
        first = [0.5, 0.0, 2.0, -2.0, 100 + (3 + 1) / 2, -(3 + 1) / 2]
        second = [0.0, 1.0, 4.0, -4.0, 100 + 2, -2]
        np.testing.assert_allclose(got, [first, second])

    def test_padding_leaves_no_trace(self):
        layer = self.build({"a": 5})
        want = layer({"a": np.array([[2, 3]])})
        for padded in ([[2, 3, 0, 0]], [[0, 2, 0, 3]]):
            np.testing.assert_array_equal(layer({"a": np.array(padded)}), want)

    def test_a_missing_value_is_the_zero_vector(self):
        layer = self.build({"a": 5, "b": 4})
        got = layer({"a": np.array([0]), "b": np.array([[0, 0, 0]])})
        np.testing.assert_array_equal(got, np.zeros((1, 4)))

    def test_a_missing_value_is_not_trained(self):
        layer = self.build({"a": 5})
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer({"a": np.array([[2, 0], [0, 0]])}))
        (gradient,) = tape.gradient(total, layer.trainable_weights)
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert gradient.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0], [0, 0]]

    def test_of_a_schema_leaves_its_history_out(self):
        layer = FeatureEmbedding.of(full_schema().query, 3, "query")
        assert layer.name == "query"
        assert layer.sizes == {
            "user": 2 + 2,
            "jobs": 1 + 2,
            "age": None,
            "note": 50 + 1,
            "taste": None,
        }
        looked_up = full_schema().lookup_query(RAW_QUERY)
        assert layer(looked_up).shape == (4, 3 + 3 + 2 + 3 + 2)

    def test_comes_back_from_its_config(self):
        layer = self.build({"number": None, "a": 5})
        config = keras.saving.serialize_keras_object(layer)
        copy = keras.saving.deserialize_keras_object(config)
        copy.build()
        copy.set_weights(layer.get_weights())
        features = {"a": np.array([1, 3]), "number": np.ones((2, 2), "float32")}
        np.testing.assert_array_equal(copy(features), layer(features))

    def test_needs_a_width(self):
        with pytest.raises(
            ValueError, match=r"`dim` must be positive. Received: dim=0"
        ):
            FeatureEmbedding({"a": 3}, 0)
