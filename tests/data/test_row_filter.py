"""row_filter: conditions on the columns of interactions."""

import re

import pyarrow as pa
import pytest

from recdistill.data import read_tables
from recdistill.data.reading_options import ReadingOptions
from recdistill.data.row_filter import RowFilter
from recdistill.errors import DataError
from tests.data.table_files import everything, log, write

LOG = (
    "user_id,item_id,timestamp,rating,event,my col\n"
    "1,a,1,4.5,view,x\n"
    "1,b,2,3,purchase,y\n"
    "2,c,3,,purchase,x\n"
    "2,d,4,10,and,x\n"
)


def kept(folder, text, columns=None):
    options = ReadingOptions(keep=RowFilter.parse(text))
    return read_tables(folder, columns, options=options)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("rating >= 4", "ad"),
        ("rating < 4", "b"),
        ("rating != 3", "ad"),
        ("event == 'purchase'", "bc"),
        ('event != "purchase"', "ad"),
        ("event == 'and' and rating > 4.5", "d"),
        ("`my col` == 'x' and rating <= 4.5", "a"),
        ("rating == '3'", "b"),
    ],
)
def test_rows_that_fulfil_all_conditions_are_kept(tmp_path, text, items):
    data = kept(write(tmp_path, interactions=LOG), text)
    assert everything(data)["item_id"].to_pylist() == list(items)


def test_columns_of_conditions_are_read_although_no_feature_uses_them(tmp_path):
    options = ReadingOptions(
        frozenset(), frozenset(), keep=RowFilter.parse("rating >= 4")
    )
    data = read_tables(write(tmp_path, interactions=LOG), options=options)
    assert everything(data)["item_id"].to_pylist() == ["a", "d"]


def test_typed_columns_are_compared_by_the_rule_of_raw_values(tmp_path):
    folder = write(tmp_path, interactions=log(paid=[True, False], stars=[5.0, 4.0]))
    data = kept(folder, "paid == 'true' and stars == 5")
    assert everything(data)["item_id"].to_pylist() == ["7"]


def test_large_whole_numbers_are_compared_exactly():
    batch = pa.record_batch(
        {
            "id": pa.array([2**53 + 1, 2**53, None]),
            "hash": pa.array([2**64 - 1, 3, 4], pa.uint64()),
            "text": pa.array([str(2**53 + 1), str(2**53), "-1"]),
            "real": pa.array([1.5, 1e18, None]),
            "mixed": pa.array(["1.5", "1e18", None]),
            "blank": pa.array([str(2**53 + 1), str(2**53), " "]),
        }
    )
    for text, want in (
        (f"id == {2**53 + 1}", [True, False, False]),
        (f"id != {2**53 + 1}", [False, True, False]),
        (f"id < {2**53 + 1}", [False, True, False]),
        ("hash > 9223372036854775807", [True, False, False]),
        ("hash >= 3.5", [True, False, True]),
        (f"text == {2**53 + 1}", [True, False, False]),
        (f"blank == {2**53 + 1}", [True, False, False]),
        (f"real >= {2**53 + 1}", [False, True, False]),
        (f"mixed < {2**53 + 1}", [True, False, False]),
    ):
        assert RowFilter.parse(text).holds(batch, "log", 1).to_pylist() == want


def test_errors_after_the_filter_name_the_row_of_the_file(tmp_path):
    folder = write(tmp_path, interactions=LOG + "3,,9,5,view,x\n")
    with pytest.raises(DataError, match="`item_id`, row 5: an id must not be empty"):
        kept(folder, "rating >= 5")


def test_rows_that_are_not_kept_need_no_relevance(tmp_path):
    folder = write(tmp_path, interactions=LOG)
    data = kept(folder, "rating > 0", {"relevance": "rating"})
    assert everything(data)["rating"].to_pylist() == [4.5, 3.0, 10.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rating",
        "rating = 4",
        "rating >= four",
        "rating >= 4 or rating < 2",
        "rating >= 4 and",
        "4 <= rating",
        "__import__('os') == 1",
        "rating >= 4andevent == 'x'",
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(DataError, match=re.escape(f"Received: {text!r}")):
        RowFilter.parse(text)


def test_a_missing_column_and_a_text_column_are_named(tmp_path):
    folder = write(tmp_path, interactions=LOG)
    with pytest.raises(DataError, match="no column 'stars'"):
        kept(folder, "stars >= 4")
    with pytest.raises(DataError, match="`event`, row 1: must be a number"):
        kept(folder, "event >= 4")
