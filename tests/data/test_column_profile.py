"""Profiles of columns: what the values of a column are."""

import datetime

import pyarrow as pa
import pytest

from recdistill.data.column_profile import has_decimal_commas, profile_column


def profile(values, kind=None, name="column"):
    return profile_column(name, pa.chunked_array([pa.array(values, kind)]))


@pytest.mark.parametrize(
    ("values", "content"),
    [
        (["1", "2", ""], "integer"),
        (["1.0", "2.0"], "integer"),
        (["1.5", "nan"], "number"),
        (["$1,299.00", "$5.50"], "number"),
        (["01307", "1307"], "text"),
        (["7", "B12"], "text"),
        (["True", "False", None], "boolean"),
        (["", None], "empty"),
        (["2024-05-01 10:00:00 UTC", "2024-05-02 10:00:00 UTC"], "date"),
        (["07/05/2020 01:08:57 PM", "07/06/2020 06:55:04 AM"], "date"),
        (["20240501", "20240502"], "date"),
        (["20240501", "20249999"], "integer"),
        (["[27, 9]", "[9]"], "list"),
        (["['Action', 'Indie']", "[]"], "list"),
        (["Drama|War", "War", "Drama", "Drama|War"], "list"),
        (["0.1 0.2 0.3 0.5", "1 2 3 4.5"], "vector"),
        (["[0.1, 0.2, 0.3, 0.5]", "[1, 2, 3, 4.5]"], "vector"),
        (['[{"a": 1}]', "[]"], "unreadable"),
        (["a top, with narrow straps", "a lamp, black"], "text"),
        (["https://a/b", "https://a/c"], "text"),
        ([1, 2, None], "integer"),
        ([1.0, 2.0, float("nan")], "integer"),
        ([1e300, 2.5], "number"),
        ([float("inf"), 1.0], "unreadable"),
        ([True, False], "boolean"),
        ([datetime.date(2024, 5, 1)], "date"),
        ([[1, 2], [3]], "list"),
        ([[0.5, 1.0], [0.5, 2.0]], "vector"),
        ([[0.5, 1.0], [0.5]], "list"),
        ([{"a": 1}], "unreadable"),
        ([[["a"]]], "unreadable"),
        ([[], None], "empty"),
        ([None, None], "empty"),
    ],
)
def test_the_content_of_a_column(values, content):
    assert profile(values).content == content


def test_missing_and_different_values_are_counted():
    found = profile(["3", "", "null", "3", "4"])
    assert (found.rows, found.missing, found.distinct) == (5, 2, 2)
    assert found.range == (3, 4)
    assert found.examples() == ["3", "4"]
    assert found.most_frequent == [("3", 2), ("4", 1)]


def test_the_format_of_dates_is_found():
    assert profile(["31/12/2023 10:00", "1/2/2024 11:30"]).time_format == (
        "%d/%m/%Y %H:%M"
    )
    assert profile(["12/31/2023", "02/01/2024"]).time_format == "%m/%d/%Y"
    assert profile(["2024-05-01", "2024-05-02"]).time_format is None


def test_the_values_of_lists_are_counted_whatever_their_form():
    for values in (
        [["a", "b"], ["a"]],
        ["['a', 'b']", "['a']"],
        ["a|b", "a", "a|b", "a"],
    ):
        assert profile(values).vocabulary == 2
    assert profile(["a;b", "a;b", "b;a"]).separator == ";"
    assert profile([[0.5, 1.0, 3.0]] * 2).size == 3


@pytest.mark.parametrize(
    ("values", "commas"),
    [
        (["0,28", "4,5", "12,999"], True),
        (["4,0", "4,5", "NA", "", None], True),
        (["0,500", "0,229"], True),
        (["€ 12,99", "1.299,00 €", "12 EUR"], True),
        (["12,99", "7,50", "8"], True),
        (["1\u00a0299,5", "7"], True),
        (["4", "4,5", "NA"], False),
        (["1,250", "12,999", "7"], False),
        (["3,7", "3,7,9", "7"], False),
        (["52.1,13.4", "0.5,1.25"], False),
        (["12,99", "none left"], False),
        (["12.99", "7"], False),
        ([12.5, 7.25], False),
        ([None], False),
    ],
)
def test_numbers_with_a_decimal_comma_are_recognised(values, commas):
    column = pa.chunked_array([pa.array(values * 5)])
    assert has_decimal_commas(column) is commas


def test_a_quantity_has_decimal_commas_where_the_values_alone_do_not_tell():
    column = pa.chunked_array([["4", "4,5", "3,5"]])
    assert has_decimal_commas(column, quantity=True)
    assert not has_decimal_commas(column, quantity=False)
    assert not has_decimal_commas(pa.chunked_array([["4,5,6"]]), quantity=True)


def test_a_comma_may_separate_decimals_thousands_or_the_values_of_a_list():
    unclear = profile(["4", "4,5", "NA"] * 5)
    assert unclear.content == "unreadable"
    assert "'4,5' are lists of numbers, or numbers with a dec" in unclear.reason
    assert profile(["1,250", "12,999", "7"] * 5).content == "integer"
    assert profile(["3,7", "3,7,9", "7"] * 5).content == "list"


def test_consecutive_numbers_that_occur_once_number_the_rows():
    assert profile(["3", "1", "2"]).numbers_the_rows
    assert not profile(["3", "1", "4"]).numbers_the_rows
    assert not profile(["3", "1", "2", "2"]).numbers_the_rows
    assert not profile(["3", "1", "2", ""]).numbers_the_rows


@pytest.mark.parametrize("name", ["title", "Name", "product_name"])
def test_a_title_with_commas_is_no_list(name):
    titles = ["Knit cap, red, M", "Knit cap, blue, M", "Belt, red, M", "Belt, blue, L"]
    assert profile(titles).content == "list"
    assert profile(titles, name=name).content == "text"


def test_a_column_without_rows_is_empty():
    assert profile([], pa.string()).content == "empty"
    assert profile_column("a", pa.chunked_array([], pa.int64())).content == "empty"


@pytest.mark.parametrize(
    ("values", "content"),
    [
        (["nan", "0.1 0.2 0.3 0.4"] * 5, "text"),
        (["[inf, 1, 2, 3]", "[0.1, 0.2, 0.3, 0.4]"] * 5, "vector"),
        (["/"] * 10, "text"),
        (["|", "||"] * 5, "text"),
    ],
)
def test_values_without_content_do_not_stop_the_profile(values, content):
    assert profile_column("a", pa.chunked_array([values])).content == content
