"""item_vectors: vectors of catalogue rows and of the items of a history."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.features.model_inputs import FeatureSize, ModelInputs
from recdistill.models import item_vectors
from recdistill.models.candidate_table import CandidateTable
from recdistill.models.item_vectors import ItemVectors

INPUTS = ModelInputs(
    query={},
    candidate={
        "item_id": FeatureSize(indices=5),
        "colour": FeatureSize(indices=4),
        "price": FeatureSize(width=1),
    },
    item_id="item_id",
)
TABLE = {
    "item_id": np.array([3, 1, 2], "int32"),
    "colour": np.array([2, 3, 0], "int32"),
    "price": np.array([[10.0], [20.0], [30.0]], "float32"),
}
"""The second row has an id outside the vocabulary; index 4 is not in the catalogue."""


def set_values(layer, values):
    layer.set_weights([np.array(values, "float32")])


@pytest.fixture
def items():
    layer = ItemVectors(INPUTS, CandidateTable(TABLE), 2)
    layer.build()
    ids = [[9, 9], [1, 1], [0, 2], [3, 0], [5, 5]]
    colours = [[7, 7], [7, 7], [1, 0], [0, 1]]
    # The first entry is the sum of the colour's entries, the second a tenth of a price.
    projection = [[1, 0], [1, 0], [0, 0.1]]
    set_values(layer.ids, ids)
    set_values(layer.features.tables["colour"], colours)
    set_values(layer.projection, projection)
    return layer


def test_the_vector_of_a_row_by_hand(items):
    want = [[3 + 1, 0 + 1], [1 + 1, 1 + 2], [0, 2 + 3]]
    np.testing.assert_allclose(items.of_rows(tf.range(3)), want, rtol=1e-6)
    twice = items.of_rows(tf.constant([[2, 0], [0, 2]]))
    want = np.array([[want[2], want[0]], [want[0], want[2]]])
    np.testing.assert_allclose(twice, want, rtol=1e-6)


BY_ID = [[9, 9], [1, 1], [0, 5], [4, 1], [5, 5]]
"""Padding, unknown ids and an item outside the catalogue have their own vector only."""


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("limit", [0, 5_000])
def test_an_item_of_a_history_has_the_vector_of_its_row(
    items, training, limit, monkeypatch
):
    monkeypatch.setattr(item_vectors, "WHOLE_TABLE", limit)
    history = tf.constant([[3, 2, 0], [4, 1, 3]])
    got = items.of_ids(history, training=training)
    np.testing.assert_allclose(got, np.array(BY_ID)[history], rtol=1e-6)
    np.testing.assert_allclose(items.all(), BY_ID, rtol=1e-6)


def test_a_stored_table_is_read_within_its_context_and_not_in_training(items):
    index = tf.range(5)
    with items.stored():
        items.ids.set_weights([np.zeros((5, 2))])
        np.testing.assert_allclose(items.of_ids(index), BY_ID, rtol=1e-6)
        assert items.of_ids(index, training=True)[4].numpy().tolist() == [0, 0]
    assert items.of_ids(index)[4].numpy().tolist() == [0, 0]
    assert not [w for w in items.weights if "stored" in w.path]


def test_a_graph_of_stored_vectors_has_no_features_of_the_catalogue(items):
    with items.stored():
        function = tf.function(items.of_ids).get_concrete_function(tf.range(2))
        stored = {n.name for n in function.graph.as_graph_def().node if n.op == "Const"}
        assert len(function.graph.variables) == 1
    plain = tf.function(items.of_ids).get_concrete_function(tf.range(2))
    constants = {n.name for n in plain.graph.as_graph_def().node if n.op == "Const"}
    assert len(stored) < len(constants)


def test_items_without_other_features_have_the_embedding_of_their_id():
    ids = ModelInputs({}, {"item_id": FeatureSize(indices=5)}, "item_id")
    layer = ItemVectors(ids, CandidateTable({"item_id": TABLE["item_id"]}), 2)
    layer.build()
    table = layer.ids.get_weights()[0]
    assert len(layer.weights) == 1
    np.testing.assert_array_equal(layer.of_ids(tf.constant([[4, 0]]))[0], table[[4, 0]])
    np.testing.assert_array_equal(layer.of_rows(tf.constant([2, 0])), table[[2, 3]])
    with layer.stored():
        np.testing.assert_array_equal(layer.of_ids(tf.constant([2])), table[[2]])


def test_embeddings_can_be_shared_with_other_layers(items):
    other = ItemVectors(
        INPUTS, CandidateTable(TABLE), 2, items.ids, items.features.tables
    )
    other.build()
    assert len(other.trainable_weights) == 3
    other.projection.set_weights(items.projection.get_weights())
    np.testing.assert_array_equal(other.all(), items.all())
