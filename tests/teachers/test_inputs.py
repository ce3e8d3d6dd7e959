"""inputs: raw values are converted to a model's inputs, or the error names both."""

import numpy as np
import pytest

from recdistill.errors import TeacherError
from recdistill.teachers.inputs import InputSpec, as_input

TEXT = np.array(["7", "1260759144", "-2"], object)
HISTORY = np.array([["7", "8", "9"], ["5", "", ""], ["", "", ""]], object)
NUMBERS = np.array([1.0, 2.0, -3.0], "float32")


def convert(values, dtype, shape=(None,)):
    return as_input(values, InputSpec(dtype, shape), "feature `f`", "the input `i`")


@pytest.mark.parametrize(
    ("values", "dtype", "shape", "want"),
    [
        (TEXT, "int64", (None,), [7, 1260759144, -2]),
        (TEXT, "float32", (None,), [7.0, float(np.float32(1260759144)), -2.0]),
        (TEXT, "string", (None,), ["7", "1260759144", "-2"]),
        (TEXT, "int64", (None, 1), [[7], [1260759144], [-2]]),
        (NUMBERS, "int32", (None,), [1, 2, -3]),
        (NUMBERS, "float64", (None, 1), [[1.0], [2.0], [-3.0]]),
        (NUMBERS[:, None], "float32", (None,), [1.0, 2.0, -3.0]),
        (HISTORY, "int64", (None, None), [[7, 8, 9], [5, 0, 0], [0, 0, 0]]),
        (HISTORY, "int32", (None, 2), [[8, 9], [5, 0], [0, 0]]),
        (
            HISTORY,
            "string",
            (None, 4),
            [["7", "8", "9", ""], ["5", *[""] * 3], [""] * 4],
        ),
        (np.array([[True], [False]]), "bool", (None, 1), [[True], [False]]),
    ],
)
def test_values_get_the_type_and_shape_of_the_input(values, dtype, shape, want):
    got = convert(values, dtype, shape)
    assert got.dtype == (object if dtype == "string" else dtype)
    assert got.tolist() == want


def test_an_id_of_zero_in_a_history_is_not_padding():
    history = np.array([["0", "4", "0"]], object)
    assert convert(history, "int64", (None, 2)).tolist() == [[4, 0]]


def test_large_integers_are_exact():
    text = np.array([str(2**53 + 1), str(-(2**62))], object)
    assert convert(text, "int64").tolist() == [2**53 + 1, -(2**62)]


def test_hashes_of_64_bits_fit_unsigned_integers():
    text = np.array([str(2**64 - 1), "0"], object)
    assert convert(text, "uint64").tolist() == [2**64 - 1, 0]
    with pytest.raises(TeacherError, match="must fit uint64"):
        convert(np.array(["-1"], object), "uint64")


def test_missing_text_is_nan_in_a_float_input():
    got = convert(np.array(["", "0.5"], object), "float32")
    np.testing.assert_array_equal(got, np.array([np.nan, 0.5], "float32"))


def test_text_and_numbers_become_booleans():
    for values in (
        np.array(["true", "0", "FALSE", "1"], object),
        np.array([1.0, 0, 0, 1]),
    ):
        got = as_input(values, InputSpec("bool", (None,)), "", "")
        assert got.dtype == bool
        assert got.tolist() == [True, False, False, True]
    with pytest.raises(TeacherError, match=r"true, false, 1 or 0 .* Received: 'yes'"):
        convert(np.array(["yes"], object), "bool")
    with pytest.raises(TeacherError, match=r"takes bool. Received: 2.0"):
        convert(np.array([2.0]), "bool")


def test_ragged_rows_have_no_padding():
    history = np.array([["7", "8", ""], ["", "", ""]], object)
    spec = InputSpec("int64", (None, None), ragged=True)
    got = as_input(history, spec, "", "")
    assert [row.tolist() for row in got] == [[7, 8], []]
    one = as_input(
        np.array([0.5, np.nan], "float32"), InputSpec("float32", None, True), "", ""
    )
    assert [row.tolist() for row in one] == [[0.5], []]
    assert as_input(history[:0], spec, "", "").shape == (0,)


def test_without_a_specification_values_are_unchanged():
    assert as_input(TEXT, None, "", "") is TEXT
    spec = InputSpec("string", None)
    assert as_input(HISTORY, spec, "", "").tolist() == HISTORY.tolist()


@pytest.mark.parametrize(
    ("values", "dtype", "shape", "message"),
    [
        (["a", "7"], "int64", (None,), "must be numbers .* int64. Received: 'a'"),
        (["1.5"], "int64", (None,), "must be numbers .* int64. Received: '1.5'"),
        (
            ["", "7", ""],
            "int32",
            (None,),
            "must not have missing values .* Received: 2 missing",
        ),
        (["4000000000"], "int32", (None,), "must fit int32 .* Received: 4000000000"),
        (["9" * 30], "int64", (None,), "must fit int64 .* Received: 9999"),
        ([1.5], "int64", (None,), "whole numbers .* int64. Received: 1.5"),
        ([np.nan], "int64", (None,), "whole numbers .* int64. Received: nan"),
        ([1.0], "string", (None,), "must be text .* Received: float32"),
        ([[1.0, 2.0]], "float32", (None, 3), r"shape of the input `i`, \(rows, 3\)"),
        ([[1.0, 2.0]], "float32", (None,), r"Received: \(rows, 2\)"),
        (["a"], "string", (None, 5), r"\(rows, 5\). Received: \(rows\)"),
        ([2.0**31], "int32", (None,), "must fit int32 .* Received: 2147483648.0"),
        ([2.0**63], "int64", (None,), "must fit int64 .* Received: 9.2"),
        ([-1.0], "uint8", (None,), "must fit uint8 .* Received: -1.0"),
        (["1e50"], "float32", (None,), r"must fit float32 .* Received: 1e\+50"),
        ([1e6], "float16", (None,), "must fit float16 .* Received: 1000000.0"),
        ([1.0], "float32", (), "must not be a single value for all rows, as the inp"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_naming_feature_and_input(
    values, dtype, shape, message
):
    kind = object if isinstance(np.ravel(values)[0], str) else "float32"
    with pytest.raises(TeacherError, match=message) as caught:
        convert(np.array(values, kind), dtype, shape)
    assert str(caught.value).startswith("The feature `f` must ")
    assert "the input `i`" in str(caught.value)
