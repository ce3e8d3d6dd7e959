"""list_inputs: towers never see the padding of a server or client."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.errors import ConfigError
from recdistill.export.list_inputs import (
    accepting_padding,
    check_lists,
    check_padding,
    with_empty_column,
    without_padding,
)


def spec(dtype, *shape):
    return tf.TensorSpec([None, *shape], dtype)


CODES = {"codes": spec("int32", None)}
MEASURED = {"codes": spec("int32", None), "codes_length": spec("int64")}


def test_the_first_entry_of_a_list_is_dropped_only_where_it_is_empty():
    specs = {"tags": spec("string", None), "taste": spec("float32", 2)}
    raw = {
        "tags": tf.constant([["", "a", ""], ["b", "", ""], ["", "", "c"]]),
        "taste": tf.constant([[0.0, 1.0]] * 3),
    }
    got = without_padding(raw, specs)
    want = [[b"a", b"", b""], [b"b", b"", b""], [b"", b"c", b""]]
    assert got["tags"].numpy().tolist() == want
    assert got["taste"] is raw["taste"]


def test_the_empty_entry_of_numbers_is_zero():
    raw = {"codes": tf.constant([[0, 3, 0], [3, 0, 4]])}
    got = without_padding(raw, CODES)["codes"]
    assert got.numpy().tolist() == [[3, 0, 0], [3, 0, 4]]


def test_a_list_of_vectors_starts_empty_if_its_first_vector_is_zero():
    raw = {"seen": tf.constant([[[0.0, 0.0], [1.0, 2.0]], [[0.0, 1.0], [2.0, 2.0]]])}
    got = without_padding(raw, {"seen": spec("float32", None, 2)})["seen"]
    assert got.numpy()[0].tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert got.numpy()[1].tolist() == [[0.0, 1.0], [2.0, 2.0]]


def test_entries_beyond_the_length_are_emptied_and_wrong_lengths_are_clamped():
    raw = {
        "codes": tf.constant([[0, 5, 6], [7, 8, 9], [1, 2, 3]]),
        "codes_length": tf.constant([2, -4, 99], tf.int64),
    }
    got = without_padding(raw, MEASURED)
    assert got["codes"].numpy().tolist() == [[0, 5, 0], [0, 0, 0], [1, 2, 3]]
    assert got["codes_length"].numpy().tolist() == [2, 0, 3]
    assert got["codes_length"].dtype == tf.int64


def test_a_length_that_is_too_large_ends_with_the_last_text():
    specs = {"past": spec("string", None), "past_length": spec("int32")}
    raw = {"past": tf.constant([["a", "", "b", "", ""]]), "past_length": [5]}
    raw["past_length"] = tf.constant(raw["past_length"])
    assert without_padding(raw, specs)["past_length"].numpy() == [3]
    padded = {"past": tf.constant([["a", "", "x"]]), "past_length": tf.constant([2])}
    assert without_padding(padded, specs)["past_length"].numpy() == [1]
    nothing = {"past": tf.zeros([1, 0], tf.string), "past_length": tf.constant([2])}
    assert without_padding(nothing, specs)["past_length"].numpy() == [0]


def test_example_rows_get_an_empty_column_unless_a_length_comes_with_them():
    rows = {"codes": np.int32([[3, 4]]), "tags": np.array([["a"]], object)}
    specs = {**CODES, "tags": spec("string", None)}
    got = with_empty_column(rows, specs)
    assert got["codes"].tolist() == [[0, 3, 4]]
    assert got["tags"].tolist() == [["", "a"]]
    rows = {"codes": np.int32([[3, 4]]), "codes_length": np.int64([2])}
    assert with_empty_column(rows, MEASURED)["codes"].tolist() == [[3, 4]]


def mean_of_codes(inputs):
    return tf.reduce_mean(tf.cast(inputs["codes"], tf.float32), axis=1, keepdims=True)


def mean_of_measured(inputs):
    total = tf.reduce_sum(inputs["codes"], axis=1)
    return tf.cast(total / tf.cast(inputs["codes_length"], tf.int32), tf.float32)[
        :, None
    ]


def test_a_tower_must_ignore_empty_entries_at_the_end():
    rows = {"codes": np.int32([[3, 5], [1, 0]])}
    # The mean of 3 and 5 is 4, and 1.6 with three zeros: 2.4 / 4 = 0.6 of the value.
    with pytest.raises(ConfigError, match=r"\(0\) at the end of `codes`.* by 0\.6\b"):
        check_padding(accepting_padding(mean_of_codes, CODES), rows, CODES)
    rows["codes_length"] = np.int64([2, 1])
    check_padding(accepting_padding(mean_of_measured, MEASURED), rows, MEASURED)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ({"grid": spec("float32", 2, None)}, r"'grid' of shape \(None, 2, None\)"),
        (
            {"tags": spec("string", None), "tags_length": spec("float32")},
            r"`tags_length` must be the number .* float32 of shape \(None,\)",
        ),
    ],
)
def test_inputs_that_cannot_be_padded_are_refused(specs, message):
    with pytest.raises(ConfigError, match=message):
        check_lists(specs)
