"""source_files: files that change while a data set is in use are noticed."""

import os

import pytest

from recdistill.data import read_tables
from recdistill.errors import DataError
from tests.data.table_files import RATINGS, write


@pytest.fixture
def data(tmp_path):
    return read_tables(write(tmp_path, interactions=RATINGS, items="item_id\n7\n8\n"))


def test_files_that_did_not_change_are_fine(data):
    data.verify()
    assert list(data.interactions())
    data.verify()


@pytest.mark.parametrize("table", ["interactions", "items"])
def test_a_changed_file_is_named(data, tmp_path, table):
    path = tmp_path / f"{table}.csv"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match=rf"{table}\.csv changed while it was read"):
        data.verify()


def test_other_bytes_with_the_same_size_and_time_are_noticed(data, tmp_path):
    path = tmp_path / "interactions.csv"
    before = path.stat()
    with path.open("r+b") as file:
        file.write(RATINGS.replace("tv", "TV").encode())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match="changed while it was read"):
        data.verify()


def test_a_file_that_was_replaced_and_came_back_is_noticed(data, tmp_path):
    path, other = tmp_path / "interactions.csv", tmp_path / "other.csv"
    other.write_text(RATINGS)
    other.replace(path)
    with pytest.raises(DataError, match="changed while it was read"):
        data.verify()


def test_a_removed_file_is_noticed(data, tmp_path):
    (tmp_path / "interactions.csv").unlink()
    with pytest.raises(DataError, match="Run the command again"):
        data.verify()
