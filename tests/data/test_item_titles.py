"""item_titles: the column with the titles is found, and read with the features."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.data import Columns, read_frames, read_tables
from recdistill.data.item_titles import item_titles, title_column
from recdistill.data.reading_options import ReadingOptions
from recdistill.errors import DataError

NO_FEATURES = ReadingOptions(frozenset(), frozenset())
NESTED = [
    {"item_id": "a", "Name": {"en": "Heat"}, "title": ["Heat", "wave"]},
    {"item_id": "b", "Name": {"en": "Ran"}, "title": ["Ran"]},
]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["id", "TITLE"], "TITLE"),
        (["name", "title"], "title"),
        (["Name", "name"], "Name"),
        (["movie_title", "Product_Name"], "movie_title"),
        (["movie_title", "name"], "name"),
        (["subtitle", "names"], None),
    ],
)
def test_the_column_is_called_title_or_else_name(names, found):
    assert title_column(names) == found


def test_titles_are_text_and_a_missing_one_is_empty():
    table = pa.table({"title": pa.chunked_array([[7], [None]], pa.int64())})
    assert item_titles(table).to_pylist() == ["7", ""]


def test_a_list_of_words_is_a_title_and_other_lists_are_none():
    words = pa.table({"title": [["Star", "Wars"], [], None]})
    assert item_titles(words).to_pylist() == ["Star Wars", "", ""]
    assert item_titles(pa.table({"title": [[1], [2]]})) is None


@pytest.fixture
def folder(tmp_path):
    """A folder with interactions; the items are missing."""
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    return tmp_path


@pytest.mark.parametrize("name", ["Title", "TITLE", "Product_Name", "movie_Title"])
def test_the_titles_are_read_even_if_no_feature_reads_them(folder, name):
    (folder / "items.csv").write_text(f"item_id,{name},price\na,Heat,3\n")
    items = read_tables(folder, Columns(), options=NO_FEATURES).items
    assert items.to_pylist() == [{"item_id": "a", name: "Heat"}]


def write_json(folder):
    lines = "".join(json.dumps(row) + "\n" for row in NESTED)
    (folder / "items.jsonl").write_text(lines)


def write_parquet(folder):
    pq.write_table(pa.Table.from_pylist(NESTED), folder / "items.parquet")


@pytest.mark.parametrize("write", [write_json, write_parquet])
def test_nested_titles_that_are_no_feature_are_not_read(folder, write):
    write(folder)
    items = read_tables(folder, Columns(), options=NO_FEATURES).items
    assert items.column_names == ["item_id", "title"]
    assert item_titles(items).to_pylist() == ["Heat wave", "Ran"]


@pytest.mark.parametrize("make", [pa.Table.from_pylist, pd.DataFrame])
def test_nested_titles_in_memory_are_not_read(make):
    log = pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": [1]})
    tables = {"interactions": log, "items": make(NESTED)}
    items = read_frames(tables, options=NO_FEATURES).items
    assert items.column_names == ["item_id", "title"]


def test_nested_titles_that_are_a_feature_are_an_error(folder):
    write_json(folder)
    options = ReadingOptions(frozenset(), frozenset({"Name"}))
    with pytest.raises(DataError, match="line 1: 'Name' must be text, a number, or"):
        read_tables(folder, Columns(), options=options)


def test_titles_of_mixed_types_in_json_are_not_read(folder):
    lines = ['{"item_id": "a", "title": "Heat"}', '{"item_id": "b", "title": ["x"]}']
    (folder / "items.jsonl").write_text("\n".join(lines))
    items = read_tables(folder, Columns(), options=NO_FEATURES).items
    assert items.to_pylist() == [{"item_id": "a"}, {"item_id": "b"}]


def test_a_nested_column_does_not_hide_the_titles():
    items = pa.table({"title": [{"en": "Heat"}], "name": ["heat"]})
    assert item_titles(items).to_pylist() == ["heat"]
