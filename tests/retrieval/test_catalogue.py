"""catalogue: ids and rows of a served model, in variables that can be replaced."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.retrieval.catalogue import CHECKPOINT_KEY, Catalogue
from recdistill.retrieval.exact import ExactIndex

IDS = ["b", "größe", "映画"]


def catalogue(ids=IDS):
    return Catalogue(ids, ExactIndex(np.eye(3)))


def test_ids_and_rows_are_mapped_to_each_other():
    rows = catalogue().rows_of(tf.constant([["映画", "b"], ["", "new"]]))
    assert rows.dtype == tf.int32
    assert rows.numpy().tolist() == [[2, 0], [-1, -1]]
    ids = catalogue().ids_of(rows).numpy()
    assert [[each.decode() for each in row] for row in ids] == [["映画", "b"], ["", ""]]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a"], r"each id once.*Received: 'a'"),
        (["a", "", "b"], r"none may be empty.*Received: ''"),
        (["a", "b"], r"one id for each of the 3 rows.*Received: 2 ids"),
    ],
)
def test_invalid_ids_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        catalogue(ids)


def test_a_checkpoint_has_each_tensor_under_its_key(tmp_path):
    module = tf.Module()
    module.catalogue = catalogue()
    path = tf.train.Checkpoint(catalogue=module.catalogue).write(str(tmp_path / "c"))
    stored = tf.train.load_checkpoint(path)
    tensors = module.catalogue.tensors
    assert sorted(tensors) == ["index/embeddings", "item_ids"]
    for name, value in tensors.items():
        got = stored.get_tensor(CHECKPOINT_KEY.format(name))
        np.testing.assert_array_equal(got, value.numpy())


def test_a_saved_model_answers_for_new_items_after_their_variables_are_replaced(
    tmp_path,
):
    module = tf.Module()
    module.catalogue = catalogue()
    ids = tf.TensorSpec([None], tf.string)
    module.rows_of = tf.function(module.catalogue.rows_of, input_signature=[ids])
    tf.saved_model.save(module, str(tmp_path / "one"))
    other = Catalogue(["x", "y", "z", "b"], ExactIndex(np.ones((4, 3))))
    variables = tmp_path / "one/variables/variables"
    tf.train.Checkpoint(catalogue=other).write(str(variables))
    loaded = tf.saved_model.load(str(tmp_path / "one"))
    got = loaded.rows_of(tf.constant(["b", "größe", "z"]))
    assert got.numpy().tolist() == [3, -1, 2]
