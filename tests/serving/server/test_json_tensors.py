"""json_tensors: bodies in row and columnar format, with the types of a signature."""

import contextlib
import json
import timeit

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.protobuf import meta_graph_pb2

from recdistill.serving.server.json_tensors import (
    _MAY_OVERFLOW,
    columns_as_json,
    read_body,
    rows_as_json,
)
from recdistill.serving.server.loaded_model import LoadedSignature
from recdistill.serving.server.request_errors import RequestError


def signature(**dtypes):
    infos = {
        name: meta_graph_pb2.TensorInfo(dtype=tf.as_dtype(dtype).as_datatype_enum)
        for name, dtype in sorted(dtypes.items())
    }
    return LoadedSignature("it", infos, {}, {})


def read(body, **dtypes):
    known = signature(**dtypes)
    values = read_body(json.dumps(body).encode()).values(known)
    return dict(zip(known.inputs, values, strict=True))


def refused(body, **dtypes):
    with pytest.raises(RequestError) as caught:
        read(body, **dtypes)
    assert caught.value.code.name == "INVALID_ARGUMENT"
    return caught.value.message


class TestReading:
    def test_rows_and_columns_are_equivalent(self):
        rows = {"instances": [{"a": 1, "b": ["x"]}, {"b": ["größe"], "a": 2}]}
        columns = {"inputs": {"a": [1, 2], "b": [["x"], ["größe"]]}}
        for body in (rows, columns):
            got = read(body, a="int32", b="string")
            assert got["a"].dtype == np.int32
            assert got["a"].tolist() == [1, 2]
            assert got["b"].tolist() == [[b"x"], ["größe".encode()]]

    def test_a_single_input_needs_no_name(self):
        assert read({"instances": [1, 2]}, a="float")["a"].tolist() == [1.0, 2.0]
        assert read({"inputs": [[1], [2]]}, a="float")["a"].shape == (2, 1)
        assert read({"instances": [{"a": 1}]}, a="float")["a"].tolist() == [1.0]
        assert read({"inputs": {"b64": "YQ=="}}, a="string")["a"] == b"a"
        assert read({"instances": [{"b64": "YQ=="}]}, a="string")["a"][0] == b"a"
        for body in ({"instances": [1]}, {"inputs": [1]}):
            assert "plain" in refused(body, a="float", b="float")

    def test_scalars_need_the_columnar_format(self):
        assert read({"inputs": {"a": 3}}, a="int32")["a"].shape == ()
        assert read({"instances": [{"a": 3}]}, a="int32")["a"].shape == (1,)

    def test_unknown_inputs_are_ignored_in_columns_and_rejected_in_rows(self):
        assert read({"inputs": {"a": [1], "z": "?"}}, a="float")["a"].tolist() == [1.0]
        assert "'z' is not an input" in refused(
            {"instances": [{"a": 1, "z": 2}]}, a="float"
        )

    def test_every_input_is_required(self):
        assert refused({"inputs": {"a": [1]}}, a="float", b="float") == (
            "Missing named input: b in 'inputs' object."
        )
        message = refused({"instances": [{"a": 1}]}, a="float", b="float")
        assert message.endswith("keys must be equal to: a,b")

    def test_a_signature_without_inputs_cannot_be_called(self):
        assert "Failed to get input map" in refused({"inputs": {}})

    @pytest.mark.parametrize(
        ("value", "dtype"),
        [
            (2.0, "int32"),
            ("2", "int32"),
            (True, "int32"),
            (2**31, "int32"),
            (-1, "uint8"),
            (None, "float"),
            ("1.5", "float"),
            (False, "float"),
            (1, "string"),
            (["x"], "string"),
            ({"b65": "YQ=="}, "string"),
            ({"b64": "not base64!"}, "string"),
            ({"b64": "YQ=="}, "float"),
            (1, "bool"),
            (2**24 + 1, "float"),
            (2**53 + 1, "double"),
            (1.0, "half"),
        ],
    )
    def test_nothing_is_converted(self, value, dtype):
        values = [value, value] if value != ["x"] else [value, "y"]
        refused({"inputs": {"a": values}}, a=dtype)

    @pytest.mark.parametrize(
        ("value", "dtype"),
        [
            (2, "float"),
            (2**24 - 1, "float"),
            (1e-50, "float"),
            (2**53 - 1, "double"),
            (-(2**63), "int64"),
            (2**64 - 1, "uint64"),
            (True, "bool"),
            (1e39, "float"),
            (-1e39, "float"),
        ],
    )
    def test_values_in_range_are_accepted(self, value, dtype):
        [got] = read({"inputs": {"a": [value]}}, a=dtype)["a"]
        with np.errstate(over="ignore"):
            assert got == np.array(value, tf.as_dtype(dtype).as_numpy_dtype)

    @pytest.mark.parametrize(
        "number",
        [
            *("1e400", "-1E+400", "1e0000400", 400 * "9.", 309 * "9" + ".0"),
            *("1" + 250 * "0" + "e99", "9" * 199 + "e111", "0." + 400 * "0" + "1e750"),
        ],
    )
    def test_a_number_that_overflows_a_double_is_rejected(self, number):
        with pytest.raises(RequestError, match="Parse error"):
            read_body(b'{"inputs": [%b]}' % number.encode())

    def test_long_numbers_are_searched_once(self):
        """A search that begins again at each digit takes 25 times as long."""

        def seconds(word):
            text = ",".join([word] * 500)
            return min(timeit.repeat(lambda: _MAY_OVERFLOW.search(text), number=1))

        assert seconds("9" * 199) < 8 * seconds("x" * 199)

    def test_a_small_number_with_a_long_exponent_is_accepted(self):
        [values] = (read_body(b'{"inputs": [1e-400, "1e400"]}').content,)
        assert values == [0.0, "1e400"]

    def test_the_first_of_duplicate_keys_counts(self):
        body = read_body(b'{"inputs": {"a": [1], "a": [2]}, "inputs": 3}')
        assert body.values(signature(a="float"))[0].tolist() == [1.0]
        body = read_body(b'{"instances": [{"a": 1, "a": 2}, {"a": 3}]}')
        assert body.values(signature(a="float"))[0].tolist() == [1.0, 3.0]

    def test_base64_needs_no_padding(self):
        for text in ("Z3I=", "Z3I", " Z3\nI "):
            got = read({"inputs": {"a": [{"b64": text}]}}, a="string")
            assert got["a"].tolist() == [b"gr"]
        assert "base64" in refused({"inputs": {"a": [{"b64": "Z"}]}}, a="string")

    def test_text_may_have_bytes_that_are_not_utf8(self):
        body = read_body(b'\xef\xbb\xbf{"inputs": {"a": ["\xff\x80", "\xed\xa0\x80"]}}')
        [values] = body.values(signature(a="string"))
        assert values.tolist() == [b"\xff\x80", b"\xed\xa0\x80"]

    def test_text_may_have_pairs_of_surrogates_and_no_halves(self):
        body = read_body(rb'{"inputs": {"a": ["\ud83d\ude00", "\\udc80"]}}')
        [values] = body.values(signature(a="string"))
        assert values.tolist() == ["😀".encode(), rb"\udc80"]
        for half in (rb"\ud83d", rb"\udc80", rb"\ude00\ud83d", rb"\ud83d\\ude00"):
            with pytest.raises(RequestError, match="Parse error"):
                read_body(b'{"inputs": {"a": ["%b"]}}' % half)

    def test_nan_and_infinity_are_read(self):
        body = read_body(b'{"inputs": [NaN, Infinity, -Infinity]}')
        [values] = body.values(signature(a="float"))
        np.testing.assert_array_equal(values, [np.nan, np.inf, -np.inf])

    def test_ragged_lists_are_rejected(self):
        for ragged in ([[1, 2], [3]], [[1], 2], [1, [2]], [1, [2], 3], [[], [1]]):
            assert "unexpected level" in refused({"inputs": ragged}, a="float")

    def test_empty_lists_have_no_rows(self):
        assert read({"inputs": {"a": []}}, a="float")["a"].shape == (0,)
        assert read({"inputs": {"a": [[], []]}}, a="string")["a"].shape == (2, 0)

    def test_deeply_nested_lists_are_rejected(self):
        deep: list = []
        for _ in range(40):
            deep = [deep]
        assert "at most 8 axes" in refused({"inputs": deep}, a="float")
        with pytest.raises(RequestError, match="Parse error"):
            read_body(b'{"inputs": ' + b"[" * 100_000)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "JSON Parse error"),
            (b"{", "JSON Parse error"),
            (b"\xff", "JSON Parse error"),
            (b"[]", "Is not object"),
            (b"{}", "Missing 'inputs' or 'instances' key"),
            (b'{"inputs": [], "instances": [1]}', "only one of"),
            (b'{"instances": {}}', "to be a list/array"),
            (b'{"instances": []}', "No values in 'instances'"),
            (b'{"inputs": [], "signature_name": 1}', "must be a string value"),
        ],
    )
    def test_invalid_bodies_are_rejected(self, body, message):
        with pytest.raises(RequestError, match=message):
            read_body(body)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "b64", "é"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(["inputs", "instances"]), ANY_JSON)
def test_any_content_is_read_or_rejected(key, content):
    body = json.dumps({key: content}).encode("utf-8", "surrogatepass")
    for dtypes in ({"a": "int32"}, {"a": "string", "b": "float"}, {"a": "bool"}):
        with contextlib.suppress(RequestError):
            known = signature(**dtypes)
            for array, dtype in zip(
                read_body(body).values(known), dtypes.values(), strict=True
            ):
                assert array.dtype == tf.as_dtype(dtype).as_numpy_dtype


class TestWriting:
    def test_rows_have_all_outputs(self):
        outputs = {"ids": strings([["a"], ["b"]]), "n": np.int32([1, 2])}
        assert rows_as_json(outputs) == (
            b'{"predictions": [{"ids": ["a"], "n": 1}, {"ids": ["b"], "n": 2}]}'
        )

    def test_a_single_output_has_no_name(self):
        assert rows_as_json({"n": np.int32([1, 2])}) == b'{"predictions": [1, 2]}'
        assert columns_as_json({"n": np.int32([[1]])}) == b'{"outputs": [[1]]}'

    def test_rows_need_equal_batch_sizes(self):
        with pytest.raises(RequestError, match="inconsistent batch size: 1 expecting"):
            rows_as_json({"a": np.zeros(2), "b": np.zeros(1)})
        with pytest.raises(RequestError, match="no shape information"):
            rows_as_json({"a": np.float32(1)})
        assert columns_as_json({"a": np.float32(1)}) == b'{"outputs": 1.0}'

    def test_nan_and_infinity_are_written(self):
        values = np.float32([-np.inf, np.inf, np.nan])
        want = b'{"outputs": [-Infinity, Infinity, NaN]}'
        assert columns_as_json({"a": values}) == want

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.1, "0.1"),
            (1.0, "1.0"),
            (100000.0, "100000.0"),
            (9e6, "9000000.0"),
            (1 / 3, "0.333333343"),
            (16777215.0, "16777215.0"),
            (-0.0, "-0.0"),
        ],
    )
    def test_numbers_have_as_few_digits_as_possible(self, value, text):
        written = columns_as_json({"a": np.float32([value])})
        assert written == f'{{"outputs": [{text}]}}'.encode()

    @given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
    def test_float32_round_trips(self, values):
        array = np.array(values, "float32")
        back = json.loads(columns_as_json({"a": array}))["outputs"]
        np.testing.assert_array_equal(np.array(back, "float32"), array)

    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
    def test_float64_round_trips(self, values):
        array = np.array(values, "float64")
        back = json.loads(columns_as_json({"a": array}))["outputs"]
        np.testing.assert_array_equal(np.array(back, "float64"), array)

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.complex64])
    def test_small_floats_are_rejected(self, dtype):
        for write in (rows_as_json, columns_as_json):
            with pytest.raises(RequestError, match="Failed to write JSON value"):
                write({"a": np.zeros(1, dtype)})

    def test_strings_are_text_unless_the_name_ends_in_bytes(self):
        outputs = {"ids": strings(['"ß"\n']), "raw_bytes": strings(["ß"])}
        document = json.loads(columns_as_json(outputs))
        assert document["outputs"] == {
            "ids": ['"ß"\n'],
            "raw_bytes": [{"b64": "w58="}],
        }
        broken = np.array([b"\xff\x00"], object)
        assert columns_as_json({"a": broken}) == b'{"outputs": ["\xff\\u0000"]}'


def strings(rows):
    array = np.array(rows, object)
    flat = np.empty(array.size, object)
    flat[:] = [each.encode() for each in array.ravel()]
    return flat.reshape(array.shape)
