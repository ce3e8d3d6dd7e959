"""title_file: titles of a version by item id."""

import pyarrow as pa

from recdistill.export.title_file import titles_of, write_titles


def test_titles_are_read_for_the_items_that_are_asked_for(tmp_path):
    items = pa.table({"id": ["a", "b", "c"], "title": ["Heat", None, "Alien"]})
    write_titles(tmp_path, ["a", "b", "c"], items)
    assert titles_of(tmp_path, ["c", "b", "x"]) == {"c": "Alien"}


def test_items_without_titles_leave_no_file(tmp_path):
    write_titles(tmp_path, ["a"], pa.table({"id": ["a"]}))
    assert titles_of(tmp_path, ["a"]) == {}
    assert not [*tmp_path.iterdir()]
