"""candidate_table: rows by index, no weights, and a copy in every `.keras` file."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.models.candidate_table import CandidateTable

FEATURES = {
    "item_id": np.array([2, 3, 4], "int32"),
    "file": np.array([[0.5, 0.0], [1.5, 0.0], [0.0, 1.0]], "float32"),
    "genres/größe": np.array([[2, 0], [0, 0], [2, 3]], "int32"),
}


def assert_same(table, other):
    index = tf.constant([[2, 0], [1, 1]])
    got, want = table(index), other(index)
    assert list(got) == list(want)
    for name in want:
        assert got[name].dtype == want[name].dtype
        np.testing.assert_array_equal(got[name], want[name])


def test_a_row_is_the_features_of_one_candidate():
    rows = CandidateTable(FEATURES)(tf.constant([2, 0]))
    assert rows["item_id"].numpy().tolist() == [4, 2]
    assert rows["file"].numpy().tolist() == [[0.0, 1.0], [0.5, 0.0]]
    assert rows["genres/größe"].numpy().tolist() == [[2, 3], [2, 0]]


def test_the_features_are_not_weights():
    table = CandidateTable(FEATURES)
    assert table.count_params() == 0
    assert table.get_weights() == []


def test_the_config_has_a_checksum_and_no_features():
    config = CandidateTable(FEATURES).get_config()
    assert len(config["checksum"]) == 32
    assert "item_id" not in str(config)
    other = {**FEATURES, "item_id": FEATURES["item_id"][::-1]}
    assert CandidateTable(other).get_config()["checksum"] != config["checksum"]
    same = {name: value.copy() for name, value in FEATURES.items()}
    assert CandidateTable(same).get_config()["checksum"] == config["checksum"]


def test_assets_restore_all_features_in_their_order(tmp_path):
    table, copy = CandidateTable(FEATURES), CandidateTable()
    table.save_assets(str(tmp_path))
    copy.load_assets(str(tmp_path))
    assert_same(copy, table)
    assert copy.get_config() == table.get_config()


def test_assets_restore_a_table_without_features(tmp_path):
    CandidateTable({}).save_assets(str(tmp_path))
    copy = CandidateTable()
    copy.load_assets(str(tmp_path))
    assert copy(tf.constant([0])) == {}


def test_a_table_from_a_config_shares_the_arrays_of_a_live_one():
    features = {"item_id": np.arange(1_234)}
    table = CandidateTable(features)
    config = keras.saving.serialize_keras_object(table)
    copy = keras.saving.deserialize_keras_object(config)
    assert_same(copy, table)
    del table, copy
    gc.collect()
    empty = keras.saving.deserialize_keras_object(config)
    with pytest.raises(ValueError, match=r"candidate table is empty.*`.keras` file"):
        empty(tf.constant([0]))
