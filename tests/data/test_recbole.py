"""read_recbole: atomic files, their types and errors."""

from pathlib import Path

import pyarrow as pa
import pytest

from recdistill.data import Dataset, read_recbole
from recdistill.errors import DataError

INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "196\t242\t3\t881250949\n"
    "186\t302\t3.5\t891717742.0\n"
)
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "242\tKolya\t1996\tComedy\n"
    '302\tL.A. "Confidential\t1997\tCrime  Film-Noir Mystery \n'
    "9\tÁ köldum klaka\t\t\n"
)
USER = "user_id:token\tage:token\tscores:float_seq\n196\t49\t0.5 -1e3\n186\t39\t\n"


def write(folder: Path, name: str = "tiny", **files: str) -> Path:
    for suffix, text in files.items():
        (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    return folder


def everything(data: Dataset) -> pa.Table:
    return pa.Table.from_batches(data.interactions())


def test_types_are_removed_from_the_column_names_of_interactions(tmp_path):
    table = everything(read_recbole(write(tmp_path, inter=INTER)))
    assert table.to_pylist() == [
        {"user_id": "196", "item_id": "242", "rating": 3.0, "timestamp": 881250949},
        {"user_id": "186", "item_id": "302", "rating": 3.5, "timestamp": 891717742},
    ]
    assert table.schema.types == [pa.string(), pa.string(), pa.float64(), pa.int64()]


def test_items_and_users_have_the_types_of_their_header(tmp_path):
    data = read_recbole(write(tmp_path, inter=INTER, item=ITEM, user=USER))
    assert data.items.to_pydict() == {
        "item_id": ["242", "302", "9"],
        "movie_title": [["Kolya"], ["L.A.", '"Confidential'], ["Á", "köldum", "klaka"]],
        "release_year": ["1996", "1997", ""],
        "class": [["Comedy"], ["Crime", "Film-Noir", "Mystery"], []],
    }
    assert data.queries.to_pydict() == {
        "user_id": ["196", "186"],
        "age": ["49", "39"],
        "scores": [[0.5, -1000.0], []],
    }
    assert data.queries.schema.field("scores").type == pa.list_(pa.float64())


def test_without_item_and_user_files_there_are_no_tables(tmp_path):
    data = read_recbole(write(tmp_path, inter=INTER))
    assert data.items is None and data.queries is None
    assert data.name == "tiny"
    assert set(data.source) == {"tiny.inter"}


def test_roles_take_names_without_types(tmp_path):
    text = INTER.replace("user_id", "listener").replace("timestamp", "when")
    roles = {"query": "listener", "time": "when", "relevance": "rating"}
    table = everything(read_recbole(write(tmp_path, inter=text), roles))
    assert table["listener"].to_pylist() == ["196", "186"]
    assert table.schema.field("rating").type == pa.float32()


def test_sequences_of_the_interactions_are_context(tmp_path):
    text = (
        "user_id:token\titem_id:token\ttimestamp:float\tshown:token_seq\n1\t2\t3\ta b\n"
    )
    table = everything(read_recbole(write(tmp_path, inter=text)))
    assert table["shown"].to_pylist() == [["a", "b"]]


def test_the_file_with_the_name_of_the_folder_is_read(tmp_path):
    folder = tmp_path / "main"
    folder.mkdir()
    write(folder, "main", inter=INTER)
    write(folder, "other", inter="x:token\n1\n")
    assert read_recbole(folder).name == "main"


def test_several_files_without_the_name_of_the_folder_are_refused(tmp_path):
    write(tmp_path, "a", inter=INTER)
    write(tmp_path, "b", inter=INTER)
    with pytest.raises(DataError, match=r"Received: .*a.inter, b.inter"):
        read_recbole(tmp_path)


def test_no_inter_file(tmp_path):
    with pytest.raises(DataError, match=r"one .inter file.* files: none"):
        read_recbole(tmp_path)


@pytest.mark.parametrize("bad", ["item_id", "item_id:text", ":token", "user_id:token"])
def test_a_header_without_a_name_or_a_known_type(tmp_path, bad):
    text = INTER.replace("item_id:token", bad)
    with pytest.raises(DataError, match=f"header: each column .*Received: '{bad}'"):
        read_recbole(write(tmp_path, inter=text))


def test_a_missing_column_is_named(tmp_path):
    text = INTER.replace("timestamp", "time")
    with pytest.raises(DataError, match=r"no column 'timestamp'\. Did you mean 'time'"):
        read_recbole(write(tmp_path, inter=text))


def test_times_with_a_fraction_are_seconds_and_become_microseconds(tmp_path):
    text = INTER.replace("891717742.0", "891717742.5")
    data = read_recbole(write(tmp_path, inter=text))
    assert next(data.interactions())["timestamp"][1].as_py() == 891_717_742_500_000


def test_a_float_that_is_not_a_number(tmp_path):
    text = INTER.replace("3.5", "good")
    with pytest.raises(DataError, match=r"tiny.inter cannot be read: .*'good'"):
        read_recbole(write(tmp_path, inter=text))


def test_a_sequence_of_floats_that_are_not_numbers(tmp_path):
    folder = write(tmp_path, inter=INTER, user=USER.replace("-1e3", "much"))
    with pytest.raises(DataError, match=r"tiny.user cannot be read: .*'much'"):
        read_recbole(folder)


def test_a_repeated_item(tmp_path):
    with pytest.raises(DataError, match="'242' is in rows 1, 4"):
        read_recbole(write(tmp_path, inter=INTER, item=ITEM + "242\tK\t1\tC\n"))


def test_text_that_is_not_utf8(tmp_path):
    write(tmp_path, inter=INTER)
    (tmp_path / "tiny.item").write_bytes(ITEM.encode("latin-1"))
    with pytest.raises(
        DataError, match=r"tiny.item must be UTF-8. Received: byte 0xc1"
    ):
        read_recbole(tmp_path)
