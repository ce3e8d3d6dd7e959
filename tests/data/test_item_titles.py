"""item_titles: the column with the titles is found, and read with the features."""

import pyarrow as pa
import pytest

from recdistill.data import Columns, read_tables
from recdistill.data.item_titles import item_titles, title_column
from recdistill.data.reading_options import ReadingOptions


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


def test_the_titles_are_read_even_if_no_feature_reads_them(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    (tmp_path / "items.csv").write_text("item_id,Title,price\na,Heat,3\n")
    options = ReadingOptions(frozenset(), frozenset())
    items = read_tables(tmp_path, Columns(), options=options).items
    assert items.to_pylist() == [{"item_id": "a", "Title": "Heat"}]
