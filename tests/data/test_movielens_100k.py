"""MovieLens 100K: lines, genre flags and the conversion to atomic files."""

import pytest

from recdistill.data import read_recbole
from recdistill.data.movielens_100k import (
    GENRES,
    genres_of,
    split_lines,
    write_atomic_files,
)
from recdistill.errors import DataError

NO_GENRE = "0|" * 18 + "0"


def flags(*genres):
    return "|".join("1" if name in genres else "0" for name in GENRES)


def test_flags_become_genres_in_their_order():
    row = flags("War", "Action").split("|")
    assert len(row) == 19
    assert genres_of(row) == ["Action", "War"]


def test_lines_are_latin_1_and_blank_lines_are_skipped(tmp_path):
    (tmp_path / "f").write_bytes(b"1|caf\xe9\r\n\n2|b\n")
    assert split_lines(tmp_path / "f", "|", 2) == [["1", "café"], ["2", "b"]]


def test_a_line_of_another_width_is_named(tmp_path):
    (tmp_path / "f").write_text("1|a\n2\n")
    with pytest.raises(DataError, match=r"line 2: must have 2 values .* 1 in '2'"):
        split_lines(tmp_path / "f", "|", 2)


def test_the_atomic_files_are_read_by_read_recbole(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "u.data").write_text("1\t5\t3\t881250949\n")
    films = f"5|Copycat (1995)|01-Jan-1995|||{flags('Crime', 'Drama')}\n"
    films += f"6|unknown||||{NO_GENRE}\n"
    (source / "u.item").write_text(films)
    (source / "u.user").write_text("1|24|M|technician|85711\n")
    folder = write_atomic_files(source, tmp_path / "ml-100k")
    assert folder == tmp_path / "ml-100k"
    data = read_recbole(folder)
    assert data.items.to_pylist() == [
        {
            "item_id": "5",
            "movie_title": ["Copycat"],
            "release_year": "1995",
            "class": ["Crime", "Drama"],
        },
        {
            "item_id": "6",
            "movie_title": ["unkonwn"],
            "release_year": "unkonwn",
            "class": [],
        },
    ]
    (batch,) = data.interactions()
    assert batch["timestamp"].to_pylist() == [881250949]
