"""raw_inputs: columns of several forms become arrays in the inputs' dtypes."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from recdistill.export.raw_inputs import as_columns, as_inputs, item_ids


def one(values):
    array, varies = as_columns("rows", {"x": values})["x"]
    return array, varies


class TestColumns:
    def test_text_becomes_objects_with_an_empty_text_for_missing_values(self):
        for values in (
            ["a", None, "ü"],
            np.array([b"a", b"", "ü".encode()]),
            pd.Series(["a", pd.NA, "ü"], dtype="string"),
            pd.Series(["a", None, "ü"]),
        ):
            array, varies = one(values)
            assert array.dtype == object
            assert array.tolist() == ["a", "", "ü"]
            assert not varies

    def test_floats_become_float32_and_integers_keep_their_dtype(self):
        assert one([1.5, float("nan")])[0].dtype == "float32"
        assert one(np.array([1, 2], "int32"))[0].dtype == "int32"

    def test_lists_of_equal_lengths_are_one_array(self):
        array, varies = one([[1, 2], [3, 4]])
        assert (array.tolist(), varies) == ([[1, 2], [3, 4]], False)

    def test_lists_of_different_lengths_are_padded(self):
        array, varies = one([["a"], [], ["b", "c"]])
        assert (array.tolist(), varies) == ([["a", ""], ["", ""], ["b", "c"]], True)
        assert one(pd.Series([[1.5], [1.0, 2.0]]))[0].tolist() == [[1.5, 0], [1, 2]]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"x": []}, r"at least one row. Received: {'x': 0}"),
            ({}, r"at least one row. Received: {}"),
            ({"x": [1], "y": [1, 2]}, r"{'x': 1, 'y': 2}"),
            ({"x": ["a", 3]}, r"text in every row of 'x'.*Received: 3"),
            ({"x": [{"a": 1}]}, r"text in every row of 'x'.*Received: {'a': 1}"),
            ({"x": np.array([1j])}, r"text or numbers for the input 'x'.*complex128"),
        ],
    )
    def test_values_that_cannot_be_inputs_are_refused(self, columns, message):
        with pytest.raises(ValueError, match=message):
            as_columns("rows", columns)


class TestInputs:
    def fitted(self, values, shape, dtype):
        return as_inputs("rows", {"x": values}, {"x": tf.TensorSpec(shape, dtype)})["x"]

    def test_numbers_are_cast_if_no_value_changes(self):
        assert self.fitted([1, 2], [None], "int32").dtype == "int32"
        assert self.fitted([1, 2], [None], "float32").dtype == "float32"
        with pytest.raises(ValueError, match=r"int32 values for the input 'x'.*int64"):
            self.fitted([2**31], [None], "int32")
        with pytest.raises(ValueError, match=r"int32 values .*Received: float32"):
            self.fitted([1.0], [None], "int32")

    def test_text_and_numbers_are_not_converted_into_each_other(self):
        with pytest.raises(ValueError, match=r"string values .*Received: int64"):
            self.fitted([1], [None], "string")
        with pytest.raises(ValueError, match=r"float32 values .*text, such as '1'"):
            self.fitted(["1"], [None], "float32")

    def test_a_column_of_width_one_is_added_if_the_input_has_one(self):
        assert self.fitted(["a", "b"], [None, 1], "string").shape == (2, 1)

    def test_another_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"shape \(None, 3\). Received.*\(1, 2\)"):
            self.fitted([[1.0, 2.0]], [None, 3], "float32")

    def test_other_columns_are_ignored(self):
        spec = {"x": tf.TensorSpec([None], "int32")}
        assert list(as_inputs("rows", {"y": ["a", "b"], "x": [1]}, spec)) == ["x"]


class TestItemIds:
    def test_integers_become_their_digits(self):
        assert item_ids([7, 1_000_000]) == ["7", "1000000"]
        assert item_ids(pd.Series(["a", "b"])) == ["a", "b"]

    @pytest.mark.parametrize("ids", [[1.0], [], [["a"]], [{"a": 1}]])
    def test_other_values_are_refused(self, ids):
        with pytest.raises(ValueError, match="`ids` must"):
            item_ids(ids)
