"""raw_teacher: each candidate gets its own score in every layout."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.errors import TeacherError
from recdistill.pipeline.preparation.unknown_features import unknown_to_teacher
from recdistill.teachers import ExternalTeacher, InputSpec

ITEMS = 5
CANDIDATES = {
    "item_id": np.array([f"i{k}" for k in range(ITEMS)], object),
    "price": np.arange(ITEMS, dtype="float32") / 2,
}
QUERY = ["user_id", "age", "past", "past_length"]


class Model:
    """Scores age times price, and records its inputs."""

    label, parameters, size_bytes = "test model", 3, 40

    def __init__(self, inputs=None, change=lambda scores: scores):
        self.inputs, self.change, self.calls = inputs, change, []

    def predict(self, inputs):
        self.calls.append(inputs)
        age = inputs["age"]
        if inputs["price"].ndim == 2:
            age = age[:, None]
        return self.change(age * inputs["price"])


def batch(shared=False, seed=3):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, ITEMS, (4, 3)).astype("int32")
    mask = rng.random((4, 3)) < 0.7
    mask[2] = False
    return {
        "raw": {
            "user_id": np.array(["ann", "bob", "cleo", "dan"], object),
            "age": np.array([1.0, 20.0, 300.0, 4000.0], "float32"),
            "past": np.array([["a", "b"], ["c", ""], ["", ""], ["d", ""]], object),
            "past_length": np.array([2, 1, 0, 1], "int32"),
        },
        "candidate_index": index[0] if shared else index,
        "mask": mask,
    }


def teacher(model, **settings):
    return ExternalTeacher(model, QUERY, CANDIDATES, **settings)


def expected(x):
    index = np.broadcast_to(x["candidate_index"], x["mask"].shape)
    want = np.zeros(x["mask"].shape)
    for row, column in zip(*np.nonzero(x["mask"]), strict=True):
        age = x["raw"]["age"][row]
        want[row, column] = age * CANDIDATES["price"][index[row, column]]
    return want


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
@pytest.mark.parametrize("layout", ["pairs", "lists"])
def test_scores_are_those_of_a_plain_loop(layout, batch_size, shared):
    model, x = Model(), batch(shared)
    got = teacher(model, layout=layout, batch_size=batch_size)(x, training=False)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected(x), rtol=1e-6)


def test_only_real_pairs_are_scored_in_chunks_of_bounded_size():
    model, x = Model(), batch()
    teacher(model, batch_size=4)(x)
    sizes = [len(inputs["age"]) for inputs in model.calls]
    assert sum(sizes) == x["mask"].sum()
    assert max(sizes) == 4


def test_whole_lists_are_scored_in_chunks_of_lists():
    model = Model()
    teacher(model, layout="lists", batch_size=6)(batch())
    assert [inputs["price"].shape for inputs in model.calls] == [(2, 3), (2, 3)]
    assert [inputs["user_id"].shape for inputs in model.calls] == [(2,), (2,)]


def test_a_batch_of_padding_needs_no_call():
    model, x = Model(), batch()
    x["mask"][:] = False
    np.testing.assert_array_equal(teacher(model)(x), np.zeros((4, 3)))
    assert model.calls == []


def test_a_model_without_declared_inputs_gets_all_features():
    model = Model()
    teacher(model)(batch())
    assert set(model.calls[0]) == {*QUERY, *CANDIDATES}


def test_a_model_gets_its_declared_inputs_under_its_own_names():
    specs = {
        "age": InputSpec("float64", (None,)),
        "price": InputSpec("float32", (None, 1)),
        "who": InputSpec("string", (None, 1)),
        "recent": InputSpec("string", (None, 3)),
    }
    names = {"age": "age", "price": "price", "who": "user_id", "recent": "past"}
    model = Model(specs, lambda scores: scores[:, :1])
    x = batch()
    x["mask"][:] = True
    model.predict = lambda inputs: (model.calls.append(inputs), inputs["age"])[1]
    teacher(model, inputs=names)(x)
    (inputs,) = model.calls
    assert set(inputs) == set(specs)
    assert inputs["age"].dtype == np.float64
    assert inputs["price"].shape == (12, 1)
    assert inputs["who"][:4].tolist() == [["ann"]] * 3 + [["bob"]]
    assert inputs["recent"][0].tolist() == ["a", "b", ""]


def test_with_layout_lists_a_candidate_input_has_a_list_axis():
    specs = {
        "age": InputSpec("float32", (None,)),
        "price": InputSpec("float64", (None, None)),
    }
    model = Model(specs)
    got = teacher(model, layout="lists")(x := batch())
    np.testing.assert_allclose(got, expected(x), rtol=1e-6)
    assert model.calls[0]["price"].dtype == np.float64
    with pytest.raises(TeacherError, match="Is its layout 'pairs'"):
        teacher(Model(specs | {"price": InputSpec("float64", (None,))}), layout="lists")


def test_the_mask_is_a_feature_of_layout_lists_only():
    names = {"age": "age", "price": "price", "real": "mask"}
    model, x = Model(), batch()
    teacher(model, layout="lists", inputs=names)(x)
    np.testing.assert_array_equal(model.calls[0]["real"], x["mask"])
    with pytest.raises(TeacherError, match="Received: 'mask'"):
        teacher(model, inputs=names)


def test_scores_under_padding_are_ignored():
    def spoilt(scores):
        return np.where(x["mask"], scores, np.nan)

    x = batch()
    got = teacher(Model(change=spoilt), layout="lists")(x)
    np.testing.assert_allclose(got, expected(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: np.full(len(s), np.nan), "Received: 9 NaN and 0 infinite among 9"),
        (lambda s: np.where(s > 1, np.inf, s), "0 NaN and 8 infinite among 9 scores"),
        (lambda s: s.astype("float64") + 1e300, "0 NaN and 9 infinite among 9"),
        (lambda s: s[:-1], r"shape \(9,\) or \(9, 1\). Received: float32 of .* \(8,\)"),
        (lambda s: np.stack([s, s]), r"Received: float32 of shape \(2, 9\)"),
        (lambda s: s.astype(str), r"one number .* Received: <U"),
    ],
)
def test_an_answer_without_one_finite_score_per_candidate_is_an_error(change, message):
    x = batch(seed=4)
    x["raw"]["age"] += 10
    x["candidate_index"] = np.maximum(x["candidate_index"], 1)
    x["candidate_index"][0, 0] = 0
    x["mask"][:] = True
    x["mask"][2] = False
    with pytest.raises(TeacherError, match=message) as caught:
        teacher(Model(change=change))(x)
    assert "The teacher test model must" in str(caught.value)


def test_scores_that_are_too_close_for_float32_are_an_error():
    x = batch()
    x["raw"]["age"] = np.linspace(1.0, 2.0, 4, dtype="float32")
    many = {
        "candidate_index": np.tile(np.arange(1, ITEMS, dtype="int32"), (4, 30)),
        "mask": np.ones((4, 4 * 30), bool),
    }
    noise = np.random.default_rng(1).random(4 * 4 * 30)

    def shifted(scores):
        return 1.7e9 + noise[: len(scores)] + scores.astype("float64")

    said = r"480 different float64 scores between 17\d+\.\d+ and .* keeps \d\. Subtract"
    with pytest.raises(TeacherError, match=said):
        teacher(Model(change=shifted))({**x, **many})
    near = teacher(Model(change=lambda s: shifted(s) - 1.7e9))({**x, **many})
    assert len(np.unique(near)) > 450


@pytest.mark.parametrize("layout", ["pairs", "lists"])
def test_a_model_that_changes_its_inputs_does_not_change_the_batch(layout):
    class Careless(Model):
        def predict(self, inputs):
            inputs["age"][:] = 99.0
            inputs["price"][:] = 0.0
            return super().predict(inputs)

    x, other = batch(), teacher(Model())
    before = other(x)
    teacher(Careless(), layout=layout)(x)
    np.testing.assert_array_equal(other(x), before)


@pytest.mark.parametrize(
    ("declared", "inputs", "message"),
    [
        (["age", "cost"], None, "must be one of our features: .* Received: 'cost'"),
        (None, {"age": "agee"}, "Received: 'agee'. Did you mean 'age'"),
        (["age", "price"], {"age": "age"}, r"\(missing: price; not an input of it: n"),
        (
            ["age"],
            {"age": "age", "p": "price"},
            r"missing: none; not an input of it: p",
        ),
    ],
)
def test_unmatched_inputs_are_named_on_both_sides(declared, inputs, message):
    specs = None
    if declared:
        specs = {name: InputSpec("float32", (None,)) for name in declared}
    with pytest.raises(TeacherError, match=message):
        teacher(Model(specs), inputs=inputs)


def test_one_of_several_columns_is_chosen_by_its_number():
    x = batch()

    def doubled(scores):
        return np.stack([-scores, scores], axis=-1)

    for layout in ("pairs", "lists"):
        chosen = teacher(Model(change=doubled), layout=layout, output_column=1)(x)
        np.testing.assert_allclose(chosen, expected(x), rtol=1e-6)
    message = "`teacher.output_column` must be .* from 0 to 1: .* Received: "
    with pytest.raises(TeacherError, match=message + "None"):
        teacher(Model(change=doubled))(x)
    with pytest.raises(TeacherError, match=message + "2"):
        teacher(Model(change=doubled), output_column=2)(x)


def test_a_model_that_reads_no_candidate_feature_is_an_error():
    with pytest.raises(TeacherError, match=r"query features only \(age\). A retrieval"):
        teacher(Model({"age": InputSpec("float32", (None,))}))


def test_values_that_the_model_does_not_know_are_counted():
    model = Model(change=np.abs)
    model.vocabularies = {"item_id": {"i0", "i1"}, "user_id": {"ann", "eve"}}
    found = teacher(model)
    found(batch())
    assert found.check_known() == {"item_id": 0.6, "user_id": 0.75}
    model.vocabularies = {"item_id": {"0", "1.0"}}
    message = r"`item_id` .* such as '0', '1.0'. Received: 5 values, all unknown"
    found = teacher(model)
    found(batch())
    with pytest.raises(TeacherError, match=message):
        found.check_known()


def test_values_that_are_unknown_in_some_of_the_lists_only_are_no_error():
    model = Model(change=np.abs)
    model.vocabularies = {"item_id": {"i0"}, "user_id": {"somebody"}}
    found = teacher(model)
    found(batch())
    with pytest.raises(TeacherError, match="`user_id`"):
        unknown_to_teacher([found])
    some = unknown_to_teacher([found], whole=False)
    assert some["unknown"]["user_id"] == 1.0


def test_a_float_is_looked_up_as_the_whole_number_that_the_model_makes_of_it():
    model = Model(change=np.abs)
    model.vocabularies = {"age": {"1", "20"}}
    found = teacher(model)
    found(batch())
    assert found.unknown.shares() == {"age": 0.5}


def test_scores_in_bfloat16_are_numbers():
    model = Model(change=lambda scores: tf.cast(scores, tf.bfloat16))
    got = teacher(model)(batch())
    np.testing.assert_allclose(got, expected(batch()), rtol=1e-2)


def test_a_batch_without_raw_values_is_an_error():
    x = batch()
    del x["raw"]
    with pytest.raises(TeacherError, match="under 'raw' for the teacher test model"):
        teacher(Model())(x)


def test_parameters_and_size_are_those_of_the_model():
    wrapped = teacher(Model())
    assert (wrapped.parameters, wrapped.size_bytes) == (3, 40)
