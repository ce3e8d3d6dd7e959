"""Samples of tables: small tables as a whole, large ones in bounded time and memory."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.data import table_sample
from recdistill.data.table_files import TableFile
from recdistill.data.table_sample import first_columns, sample_file, sample_table
from recdistill.errors import DataError

LINES = [f"u{k:05d},i{k % 40:05d}" for k in range(4_000)]
"""Lines of 14 bytes with the line break."""


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    monkeypatch.setattr(table_sample, "SAMPLE_BYTES", 14_000)
    monkeypatch.setattr(table_sample, "SAMPLE_ROWS", 500)


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_small_table_is_read_as_a_whole(tmp_path):
    path = write(tmp_path / "a.csv", ["user,item", *LINES[:900]])
    found = sample_table(path, tmp_path / "scratch")
    assert (found.count, found.estimated, found.complete) == (900, False, True)
    assert found.rows["user"][899].as_py() == "u00899"
    assert not (tmp_path / "scratch").exists()


def test_of_a_large_text_file_the_beginning_and_blocks_up_to_the_end_are_read(tmp_path):
    path = write(tmp_path / "a.csv", ["user,item", *LINES])
    found = sample_table(path, tmp_path / "scratch")
    # 14,000 bytes are 1,000 lines, less those that are cut.
    assert 985 <= len(found.rows) <= 1_000
    assert found.count == pytest.approx(4_000, rel=0.01)
    assert found.estimated and not found.complete
    users = found.rows["user"].to_pylist()
    assert (users[0], users[-1]) == ("u00000", "u03999")
    assert users == sorted(set(users))
    assert set(users) <= {line[:6] for line in LINES}


def test_lines_of_a_file_with_quotes_are_read_from_the_beginning_only(tmp_path):
    lines = [f'"{line[:6]}","a\nb"' for line in LINES]
    path = write(tmp_path / "a.csv", ["user,text", *lines])
    found = sample_table(path, tmp_path / "scratch")
    assert found.rows["text"].to_pylist() == ["a\nb"] * len(found.rows)
    assert found.rows["user"].to_pylist() == [
        line[:6] for line in LINES[: len(found.rows)]
    ]
    assert found.count == pytest.approx(4_000, rel=0.02)


def test_a_compressed_file_is_estimated_by_its_compressed_size(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress("\n".join(["user,item", *LINES]).encode()))
    found = sample_table(path, tmp_path / "scratch")
    assert found.estimated
    assert found.rows.column_names == ["user", "item"]
    # The stream reads compressed bytes ahead, so the estimate is rough.
    assert len(found.rows) < found.count < 8_000


def test_rows_of_parquet_files_are_counted_and_the_first_are_read(tmp_path):
    table = pa.table({"user": list(range(3_000))})
    pq.write_table(table, tmp_path / "a.parquet")
    found = sample_table(tmp_path / "a.parquet", tmp_path / "scratch")
    assert (found.count, found.estimated) == (3_000, False)
    assert found.rows.num_rows < 70_000


def test_of_many_files_some_from_the_first_to_the_last_are_read(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    for day in range(20):
        write(
            folder / f"{day:02d}.csv", ["user,item", *LINES[day * 10 : day * 10 + 10]]
        )
    found = sample_table(folder, tmp_path / "scratch")
    assert (found.files, found.count, found.estimated) == (20, 200, True)
    users = found.rows["user"].to_pylist()
    assert len(users) == 80
    assert (users[0], users[-1]) == ("u00000", "u00199")


@pytest.mark.parametrize(
    ("first", "names"),
    [
        ("1\t2\t3.5\t881250949", ["column_1", "column_2", "column_3", "column_4"]),
        ("a\t2024-05-01\tx\ty", ["column_1", "column_2", "column_3", "column_4"]),
        ("user\titem\trating\ttime", None),
        ("\tuser\titem\ttime", None),  # pandas writes an index without a name.
        ("0\t1\t2\t3", None),  # pandas names columns without names by their number.
        ("item_id\t0\t1\t2", None),  # An embedding.
        ("movieId\ttitle\t2023\t2024", None),
        ("david\tfilm1\t4\t881250949", [f"column_{k}" for k in (1, 2, 3, 4)]),
        ("users\titems\tratings\titems2", None),
    ],
)
def test_a_first_line_of_values_is_no_header(tmp_path, first, names):
    path = write(tmp_path / "a.tsv", [first, "7\t8\t1.5\t881250950"])
    found = sample_table(path, tmp_path / "scratch")
    assert found.rows.column_names == (names or first.split("\t"))
    assert len(found.rows) == (1 if names is None else 2)


def test_a_first_line_can_be_known_to_hold_values(tmp_path):
    path = write(tmp_path / "a.csv", ["ann,film1", "bob,film2"])
    assert sample_table(path, tmp_path / "one").names is None
    found = sample_table(path, tmp_path / "two", without_header=True)
    assert found.names == ("column_1", "column_2")
    assert len(found.rows) == 2


@pytest.mark.parametrize("percent", [90, 110, 140, 190, 210, 420])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_sample_of_any_size_of_file(tmp_path, monkeypatch, percent, suffix):
    monkeypatch.setattr(table_sample, "SAMPLE_BYTES", 4_000)
    line = '{"user": %d, "item": 7}' if suffix == "jsonl" else "%d,7"
    rows = [line % (100_000 + k) for k in range(4_000)]
    lines = ["user,item"] if suffix == "csv" else []
    size = 0
    while size < 40 * percent:
        size += len(rows[len(lines)]) + 1
        lines.append(rows[len(lines)])
    path = write(tmp_path / f"a.{suffix}", lines)
    found = sample_table(path, tmp_path / "scratch")
    count = len(lines) - (suffix == "csv")
    assert found.complete == (percent < 100)
    assert found.count == pytest.approx(count, rel=0.02)
    users = found.rows["user"].to_pylist()
    assert len(set(users)) == len(users)


def test_a_first_line_of_words_that_occur_below_is_no_header(tmp_path):
    path = write(tmp_path / "a.csv", ["ann,red", "bob,blue", "eve,red"])
    found = sample_table(path, tmp_path / "scratch")
    assert found.names == ("column_1", "column_2")
    assert len(found.rows) == 3


def test_columns_that_cannot_be_read_do_not_hide_the_others(tmp_path):
    lines = ['{"user": 1, "page": {"url": "x"}}', '{"user": 2, "page": {"url": "y"}}']
    path = write(tmp_path / "a.jsonl", 500 * lines)
    found = sample_table(path, tmp_path / "scratch")
    assert found.estimated
    assert found.rows.column_names == ["user"]
    reason = f"{path}, line 1: 'page' must be text, a number, or a list"
    assert found.unreadable["page"].startswith(reason)


def test_errors_name_the_file_of_the_user(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"user,item\nb\xe9,1\n" + "\n".join(LINES).encode())
    with pytest.raises(DataError, match=rf"^{path} must be UTF-8"):
        sample_table(path, tmp_path / "scratch")


def test_the_columns_of_a_file_are_read_from_its_beginning(tmp_path):
    path = write(tmp_path / "a.csv", ["user,item", *LINES])
    assert first_columns(TableFile(path)) == ("user", "item")


def test_a_file_is_copied_only_if_it_is_large(tmp_path):
    small = write(tmp_path / "small.txt", LINES[:10])
    large = write(tmp_path / "large.txt", LINES)
    assert sample_file(small, tmp_path / "scratch") == (small, 1.0)
    path, share = sample_file(large, tmp_path / "scratch")
    assert (path.name, path != large) == ("large.txt", True)
    assert path.stat().st_size == pytest.approx(share * large.stat().st_size, rel=1e-6)
