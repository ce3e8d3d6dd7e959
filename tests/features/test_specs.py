"""specs: valid and invalid specifications, and raw values from table columns."""

import math
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from recdistill.errors import DataError
from recdistill.features import specs
from recdistill.features.raw_numbers import as_doubles
from recdistill.features.raw_text import BadValueError
from recdistill.features.specs import (
    AffinitySpec,
    CandidateSpec,
    CategoriesSpec,
    CategorySpec,
    HistorySpec,
    IdSpec,
    NumberSpec,
    QuerySpec,
    TextSpec,
    VectorSpec,
    pad_strings,
    raw_column,
    raw_values,
)

NEEDED = {"vector": {"size": 3}}


def column(*values, kind=None):
    return pa.chunked_array([pa.array(list(values), kind)])


def raw(values, spec):
    return raw_values(values, spec, table="items", name="year")


@pytest.mark.parametrize("kind", sorted(specs.SPECS))
class TestEverySpec:
    def test_has_its_kind_and_defaults(self, kind):
        spec = specs.SPECS[kind](**NEEDED.get(kind, {}))
        assert spec.kind == kind
        assert spec.teacher_only is (kind == "affinity")
        assert spec.column is None and spec.optional is False

    def test_refuses_an_unknown_key(self, kind):
        with pytest.raises(ValidationError, match="colunm"):
            specs.SPECS[kind](**NEEDED.get(kind, {}), colunm="year")

    def test_refuses_another_kind(self, kind):
        with pytest.raises(ValidationError, match="kind"):
            specs.SPECS[kind](**NEEDED.get(kind, {}), kind="other")

    def test_is_frozen(self, kind):
        spec = specs.SPECS[kind](**NEEDED.get(kind, {}))
        with pytest.raises(ValidationError, match="frozen"):
            spec.optional = True

    def test_can_be_dumped_and_validated_again(self, kind):
        spec = specs.SPECS[kind](**NEEDED.get(kind, {}), teacher_only=True)
        assert specs.SPECS[kind].model_validate(spec.model_dump()) == spec


@pytest.mark.parametrize(
    "spec_cls, values",
    [
        (CategoriesSpec, {"separator": ""}),
        (TextSpec, {"buckets": 0}),
        (TextSpec, {"length": 0}),
        (VectorSpec, {}),
        (VectorSpec, {"size": 0}),
        (HistorySpec, {"length": 0}),
        (AffinitySpec, {"l2": 0}),
        (AffinitySpec, {"decay": 0}),
        (AffinitySpec, {"decay": 1.1}),
        (AffinitySpec, {"floor": -0.1}),
        (AffinitySpec, {"floor": 1.1}),
        (AffinitySpec, {"max_items": 0}),
        (AffinitySpec, {"teacher_only": False}),
    ],
)
def test_a_bad_value_is_refused_by_its_name(spec_cls, values):
    with pytest.raises(ValidationError, match=next(iter(values), "size")):
        spec_cls(**values)


def test_a_candidate_cannot_have_a_history_nor_a_query_an_affinity():
    history, affinity = {"kind": "history"}, {"kind": "affinity"}
    assert isinstance(TypeAdapter(QuerySpec).validate_python(history), HistorySpec)
    assert isinstance(
        TypeAdapter(CandidateSpec).validate_python(affinity), AffinitySpec
    )
    with pytest.raises(ValidationError, match="history"):
        TypeAdapter(CandidateSpec).validate_python(history)
    with pytest.raises(ValidationError, match="affinity"):
        TypeAdapter(QuerySpec).validate_python(affinity)


@pytest.mark.parametrize("spec", [IdSpec(), CategorySpec(), TextSpec()])
def test_strings_are_unchanged_and_numbers_become_their_digits(spec):
    got = raw(column("a", "größe", " b "), spec)
    assert got.dtype == object and got.tolist() == ["a", "größe", " b "]
    assert raw(column(7, 12), spec).tolist() == ["7", "12"]


@pytest.mark.parametrize("spec", [IdSpec(), CategorySpec(), TextSpec()])
def test_numbers_become_text_by_one_rule(spec):
    assert raw(column(7.0, 6.5), spec).tolist() == ["7", "6.5"]
    assert raw(column(7.0, 6.1, kind=pa.float32()), spec).tolist() == ["7", "6.1"]
    assert raw(column(True, False), spec).tolist() == ["true", "false"]
    prices = column(Decimal("12.50"), Decimal("3.00"), kind=pa.decimal128(10, 2))
    assert raw(prices, spec).tolist() == ["12.5", "3"]
    large = column(2**64 - 1, 0, kind=pa.uint64())
    assert raw(large, spec).tolist() == ["18446744073709551615", "0"]


def test_numbers_in_lists_of_categories_become_text_by_the_same_rule():
    assert raw(column([7.0, 6.5], [1.0]), CategoriesSpec()).tolist() == [
        ["7", "6.5"],
        ["1", ""],
    ]
    assert raw(column([True], None), CategoriesSpec()).tolist() == [["true"], [""]]


def test_the_text_of_a_list_is_read_with_a_separator():
    texts = column("['Action', 'Indie']", "[27, 9]", '["a, b"]', "[]", "[x,y]")
    assert raw(texts, CategoriesSpec(separator=",")).tolist() == [
        ["Action", "Indie"],
        ["27", "9"],
        ["a, b", ""],
        ["", ""],
        ["[x", "y]"],
    ]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("$1,299.00", 1299.0),
        ("-$5", -5.0),
        ("1299.50 €", 1299.5),
        ("USD 12", 12.0),
        ("1,299", 1299.0),
        ("12.50", 12.5),
        (" 7 ", 7.0),
        ("1e3", 1000.0),
        ("true", 1.0),
        ("False", 0.0),
    ],
)
def test_numbers_are_read_from_text(text, number):
    assert raw(column(text, "0"), NumberSpec()).tolist() == [number, 0.0]


@pytest.mark.parametrize("text", ["0,500", "12,99 €", "1.299,00", "00,123", "1,25"])
def test_a_decimal_comma_is_refused(text):
    with pytest.raises(BadValueError, match="a number with a decimal point; a comma"):
        as_doubles(column("1,250", text))


@pytest.mark.parametrize("text", ["NA", "nan", "null", "N/A", " "])
def test_a_missing_number_may_be_written_in_words(text):
    got = raw(column("1", text), NumberSpec(optional=True))
    np.testing.assert_array_equal(got, np.array([1.0, np.nan], "float32"))


@pytest.mark.parametrize("text", ["[0.5, 2]", "0.5 2", "0.5,2", "(0.5; 2)"])
def test_vectors_are_read_from_text(text):
    assert raw(column(text), VectorSpec(size=2)).tolist() == [[0.5, 2.0]]


def test_numbers_become_float32():
    got = raw(column(1, 2, 3), NumberSpec())
    assert got.dtype == np.float32 and got.tolist() == [1.0, 2.0, 3.0]
    assert raw(column("1.5", "-2"), NumberSpec()).tolist() == [1.5, -2.0]
    assert raw(column(True, False), NumberSpec()).tolist() == [1.0, 0.0]


def test_vectors_become_rows_of_float32():
    got = raw(column([1, 2], [3, 4]), VectorSpec(size=2))
    assert got.dtype == np.float32 and got.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_categories_come_from_lists():
    got = raw(column(["a", "b"], [], ["c", None, ""]), CategoriesSpec())
    assert got.tolist() == [["a", "b"], ["", ""], ["c", ""]]


def test_categories_come_from_text_with_a_separator():
    texts = column(" a | b||", "c", "|", "")
    got = raw(texts, CategoriesSpec(separator="|"))
    assert got.tolist() == [["a", "b"], ["c", ""], ["", ""], ["", ""]]


def test_text_without_a_separator_is_one_category():
    got = raw(column("a|b", " "), CategoriesSpec())
    assert got.tolist() == [["a|b"], [""]]


def test_an_empty_set_of_categories_is_a_valid_value():
    assert raw(column(None, None, kind=pa.string()), CategoriesSpec()).tolist() == [
        [""],
        [""],
    ]


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_optional_string_is_empty(value):
    for spec in (IdSpec, CategorySpec, TextSpec):
        got = raw(column("a", value), spec(optional=True))
        assert got.tolist() == ["a", ""]


@pytest.mark.parametrize(
    "values", [column(1.0, None), column(1.0, math.nan), column("1", "")]
)
def test_a_missing_optional_number_is_nan(values):
    got = raw(values, NumberSpec(optional=True))
    np.testing.assert_array_equal(got, np.array([1.0, np.nan], "float32"))


def test_a_missing_optional_vector_is_zero():
    got = raw(column([1, 2], None), VectorSpec(size=2, optional=True))
    assert got.tolist() == [[1.0, 2.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    "values, spec",
    [
        (column("a", None), IdSpec()),
        (column("a", ""), CategorySpec()),
        (column("a", ""), TextSpec()),
        (column(1.0, None), NumberSpec()),
        (column(1.0, math.nan), NumberSpec()),
        (column([1.0], None), VectorSpec(size=1)),
    ],
)
def test_the_error_for_a_missing_value_has_its_place_and_a_fix(values, spec):
    want = re.escape(
        "Table `items`, column `year`, row 2: the value is missing. Fill it in, or set "
        "`optional = true` for this feature."
    )
    with pytest.raises(DataError, match=want):
        raw(values, spec)


@pytest.mark.parametrize(
    "values, spec, reason",
    [
        (column("1", "tall"), NumberSpec(), r"'number'. Received: 'tall'"),
        (column(1.0, math.inf), NumberSpec(), "must be finite"),
        (column(1.0, -math.inf), NumberSpec(optional=True), "must be finite"),
        (column(1.0, 1e39), NumberSpec(), "must be finite, as a float32"),
        (column([2.0]), NumberSpec(), r"Received: \[2.0\]"),
        (column([1, 2], [1, 2, 3]), VectorSpec(size=2), "must hold 2 finite numbers"),
        (column([1, 2], []), VectorSpec(size=2), "must hold 2 finite numbers"),
        (column([1, 2], [1, math.nan]), VectorSpec(size=2), "2 finite numbers"),
        (column([1, 2], [1, 1e39]), VectorSpec(size=2), "2 finite numbers"),
        (column([1, 2], [1, None]), VectorSpec(size=2), "must hold 2 finite numbers"),
        (column("12"), VectorSpec(size=2), "must hold 2 finite numbers"),
        (column("[1, x]"), VectorSpec(size=2), "could not convert"),
        (column(12), VectorSpec(size=2), "'vector'. Received: 12"),
        (column(12), CategoriesSpec(), "'categories'. Received: 12"),
        (column(["a"]), IdSpec(), r"must be one value"),
        (column({"a": 1}), TextSpec(), "must be one value"),
        (column(b"\xff"), CategorySpec(), "must be UTF-8 text"),
        (column("1", "1,5"), NumberSpec(), "a comma separates thousands"),
        (column("a", "['b', 'c']"), CategoriesSpec(), "set `separator`"),
        (column("[[1], [2]]"), CategoriesSpec(separator=","), "list of lists"),
        (column([["b"]]), CategoriesSpec(), r"in a list: .* not list"),
        (column([{"a": 1}]), CategoriesSpec(), r"in a list: .* not struct"),
    ],
)
def test_the_error_for_a_wrong_type_has_the_place_of_the_value(values, spec, reason):
    place = f"Table `items`, column `year`, row {len(values)}: "
    with pytest.raises(DataError, match=re.escape(place) + f".*{reason}"):
        raw(values, spec)


def test_errors_for_selected_rows_have_their_row_in_the_table():
    with pytest.raises(DataError, match="row 41:"):
        raw_column(
            column(1.0, None, 2.0),
            NumberSpec(),
            table="items",
            name="year",
            rows=np.array([17, 41, 3]),
        )


@pytest.mark.parametrize(
    "spec, shape, dtype",
    [
        (IdSpec(), (0,), object),
        (NumberSpec(), (0,), np.float32),
        (VectorSpec(size=3), (0, 3), np.float32),
        (CategoriesSpec(), (0, 1), object),
    ],
)
def test_a_table_without_rows_has_no_values(spec, shape, dtype):
    got = raw(column(kind=pa.string()), spec)
    assert got.shape == shape and got.dtype == dtype


def test_a_column_in_several_chunks_is_one_column():
    chunks = pa.chunked_array([[1.0], [], [2.0, 3.0]])
    assert raw(chunks, NumberSpec()).tolist() == [1.0, 2.0, 3.0]


def test_strings_are_padded_to_the_longest_row_and_at_least_to_one_column():
    assert pad_strings([["a"], [], ["b", "c"]]).tolist() == [
        ["a", ""],
        ["", ""],
        ["b", "c"],
    ]
    assert pad_strings([[], []]).shape == (2, 1)
    assert pad_strings([]).shape == (0, 1)


def test_periods_are_no_category():
    months = pa.array(pd.period_range("2024-03", periods=2, freq="M"))
    with pytest.raises(DataError, match=r"row 1: .*\.dt\.to_timestamp\(\)"):
        raw(pa.chunked_array([months]), CategorySpec())
