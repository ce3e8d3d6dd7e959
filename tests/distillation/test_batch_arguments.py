"""batch_arguments: masks, labels, sample weights and inputs of Functional models."""

import keras
import numpy as np
import pytest

from recdistill.distillation.batch_arguments import (
    array_weight,
    declared_inputs,
    labels_and_mask,
    mask_of,
    weight_like,
)
from recdistill.distillation.distiller import Distiller
from recdistill.losses import ListwiseKLDivergence

MASK = np.array([[True, False]])
LABELS = np.array([[1.0, 0.0]])
WEIGHT = np.array([2.0])


def functional():
    """A model whose inputs, in sorted order, are not the first entries of a batch."""
    user = keras.Input((), name="user")
    price = keras.Input((2,), name="price")
    scores = price * keras.ops.expand_dims(user, -1)
    return keras.Model({"query": {"user": user}, "price": price}, scores)


X = {
    "age": np.array([[7.0, 7.0]], "float32"),
    "mask": MASK,
    "price": np.array([[3.0, 5.0]], "float32"),
    "query": {"hour": np.array([9.0], "float32"), "user": np.array([2.0], "float32")},
}


def test_a_functional_model_receives_the_inputs_that_it_declares():
    got = declared_inputs(functional(), X)
    assert (set(got), set(got["query"])) == ({"price", "query"}, {"user"})
    np.testing.assert_array_equal(functional()(got), [[6.0, 10.0]])


@pytest.mark.parametrize("model", [len, keras.Sequential(), keras.layers.Dense(2)])
def test_other_models_receive_the_whole_batch(model):
    assert declared_inputs(model, X) is X


def test_a_missing_input_of_a_functional_model_is_named():
    x = {name: value for name, value in X.items() if name != "price"}
    message = r"the inputs of the model, .*'price'.*keys=\['age', 'mask', 'query'\]"
    with pytest.raises(ValueError, match=message):
        declared_inputs(functional(), x)


def test_functional_students_and_teachers_score_batches_with_other_features():
    distiller = Distiller(functional(), functional(), ListwiseKLDivergence(), None, 0.0)
    distiller.compile("sgd")
    x = {**X, "mask": np.array([[True, True]])}
    np.testing.assert_array_equal(distiller.predict(x, verbose=0), [[6.0, 10.0]])
    assert distiller.evaluate(x, verbose=0, return_dict=True)["loss"] == 0.0


def test_labels_get_the_mask_of_the_batch_unless_they_have_one():
    assert labels_and_mask(X, LABELS) == {"labels": LABELS, "mask": MASK}
    other = {"labels": LABELS, "mask": ~MASK}
    assert labels_and_mask(X, other) == other
    assert labels_and_mask(X, {"labels": LABELS})["mask"] is MASK
    labels_and_mask(X, other).pop("mask")
    assert "mask" in other
    with pytest.raises(ValueError, match="`y` must hold the relevance"):
        labels_and_mask(X, None)
    with pytest.raises(ValueError, match=r'the key "mask". Received: keys=\[\'a\'\]'):
        mask_of({"a": 1})


def test_weights_take_the_structure_of_the_labels():
    assert weight_like(LABELS, WEIGHT) is WEIGHT
    assert weight_like({"labels": LABELS, "mask": MASK}, None) is None
    for given in (WEIGHT, {"labels": WEIGHT}, {"labels": WEIGHT, "mask": -WEIGHT}):
        got = weight_like({"labels": LABELS, "mask": MASK}, given)
        assert got == {"labels": WEIGHT, "mask": WEIGHT}
        assert weight_like(LABELS, given) is WEIGHT
        assert array_weight(given) is WEIGHT
    with pytest.raises(ValueError, match=r"`sample_weight`.*keys=\['mask'\]"):
        array_weight({"mask": WEIGHT})


def test_labels_with_a_mask_of_their_own_have_weights_of_their_own():
    x = {**X, "item_weight": np.array([[1.0, 5.0]])}
    assert labels_and_mask(x, LABELS)["item_weight"] is x["item_weight"]
    own = {"labels": LABELS, "mask": MASK}
    assert "item_weight" not in labels_and_mask(x, own)
    own["item_weight"] = np.array([[2.0, 3.0]])
    assert labels_and_mask(x, own) == own
