"""Bad tables: a reader gives rows, or one paragraph that names the file; never both.

The values of the first class are wrong in a known way; Hypothesis makes files that are
damaged or are no tables at all.
"""

import gzip
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recdistill.data.tables import read_tables
from recdistill.errors import DataError

HEADER = b"user_id,item_id,timestamp\n"
ROWS = HEADER + b"".join(b"u%d,i%d,%d\n" % (k % 7, k % 5, 1000 + k) for k in range(40))
ROLES = {"relevance": "stars", "weight": "w"}


def read(folder, columns=None):
    """All rows, read twice like `prepare` does."""
    data = read_tables(folder, columns)
    first = [batch.num_rows for batch in data.interactions()]
    assert first == [batch.num_rows for batch in data.interactions()]
    return sum(first)


def refusal(folder, columns=None):
    with pytest.raises(DataError) as caught:
        read(folder, columns)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1_500
    assert caught.value.exit_code == 2
    return message


TIMES = [
    *("", "x", "1.5.2", "1e", "--1", "1_000", "nan", "inf", "-inf"),
    *("9223372036854775808", "-9223372036854775809", "1e30", "9" * 400),
    *("2024-13-01", "2024-02-30", "24-01-01", "2024-01-01T25:00", "yesterday"),
]
IDS = ["", '""']
NUMBERS = ["", "x", "nan", "inf", "-inf", "1e39", "-1e39", "1,5", "1e400", "--1"]


class TestOneBadValue:
    @pytest.mark.parametrize("time", TIMES)
    def test_a_time_is_named_with_file_column_and_row(self, tmp_path, time):
        rows = HEADER + b"a,b,5\n" * 3 + f"a,b,{time}\n".encode()
        (tmp_path / "interactions.csv").write_bytes(rows)
        message = refusal(tmp_path)
        assert "interactions.csv" in message
        assert "timestamp" in message

    @pytest.mark.parametrize("column", [0, 1])
    @pytest.mark.parametrize("value", IDS)
    def test_an_id_is_named_with_file_column_and_row(self, tmp_path, column, value):
        row = ["a", "b", "5"]
        row[column] = value
        rows = HEADER + b"a,b,5\n" + ",".join(row).encode() + b"\n"
        (tmp_path / "interactions.csv").write_bytes(rows)
        message = refusal(tmp_path)
        assert ("user_id", "item_id")[column] in message
        assert "row 2" in message

    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize("value", [*NUMBERS, "-1"])
    def test_a_relevance_or_weight_is_named_with_its_column(
        self, tmp_path, role, value
    ):
        header = HEADER.strip() + b"," + ROLES[role].encode() + b"\n"
        quoted = f'"{value}"' if "," in value else value
        rows = header + b"a,b,5,1\n" * 2 + f"a,b,5,{quoted}\n".encode()
        (tmp_path / "interactions.csv").write_bytes(rows)
        message = refusal(tmp_path, {role: ROLES[role]})
        assert "interactions.csv" in message
        assert ROLES[role] in message


NO_TABLES = {
    "empty": b"",
    "blank": b"\n\n\n",
    "no header": b"a,b,5\na,c,6\n",
    "another header": b"a;b;c\n1;2;3\n",
    "a repeated column": b"user_id,item_id,timestamp,item_id\na,b,5,c\n",
    "a short row": ROWS + b"a,b\n",
    "a long row": ROWS + b"a,b,5,6\n",
    "an unclosed quote": ROWS + b'"a,x",b,5\n"a,b,5\n',
    "binary": bytes(range(256)) * 4,
    "UTF-16": ROWS.decode().encode("utf-16"),
    "latin-1": HEADER + "ü,b,5\n".encode("latin-1"),
}


class TestFilesThatAreNoTables:
    @pytest.mark.parametrize("name", NO_TABLES)
    def test_a_text_file_is_named(self, tmp_path, name):
        (tmp_path / "interactions.csv").write_bytes(NO_TABLES[name])
        assert "interactions" in refusal(tmp_path)

    @pytest.mark.parametrize("suffix", ["csv.gz", "csv.zst", "parquet", "jsonl"])
    @pytest.mark.parametrize("content", [b"", b"no such thing", ROWS[:100]])
    def test_content_of_another_kind_is_named(self, tmp_path, suffix, content):
        (tmp_path / f"interactions.{suffix}").write_bytes(content)
        assert f"interactions.{suffix}" in refusal(tmp_path)

    def test_a_truncated_file_is_named(self, tmp_path):
        path = tmp_path / "interactions.csv.gz"
        path.write_bytes(gzip.compress(ROWS)[:-12])
        assert "interactions.csv.gz" in refusal(tmp_path)
        path.unlink()
        path = tmp_path / "interactions.parquet"
        table = pa.table({"user_id": ["a"], "item_id": ["b"], "timestamp": [5]})
        pq.write_table(table, path)
        path.write_bytes(path.read_bytes()[:-9])
        assert "interactions.parquet" in refusal(tmp_path)

    @pytest.mark.parametrize(
        "column",
        [
            pa.array([{"a": 1}]),
            pa.array([[[1]]]),
            pa.array([None], pa.null()),
            pa.array([b"\xff\xfe"]),
            pa.array([True]),
        ],
        ids=["struct", "nested list", "null", "bytes", "bool"],
    )
    def test_a_time_of_another_type_is_named(self, tmp_path, column):
        table = pa.table({"user_id": ["a"], "item_id": ["b"], "timestamp": column})
        pq.write_table(table, tmp_path / "interactions.parquet")
        assert "timestamp" in refusal(tmp_path)

    def test_a_pipe_a_loop_and_an_empty_folder_are_named(self, tmp_path):
        os.mkfifo(tmp_path / "interactions.csv")
        assert "pipe" in refusal(tmp_path)
        (tmp_path / "interactions.csv").unlink()
        (tmp_path / "interactions.csv").symlink_to("interactions.csv")
        assert "interactions" in refusal(tmp_path)
        (tmp_path / "interactions.csv").unlink()
        assert str(tmp_path) in refusal(tmp_path)
        assert "missing" in refusal(tmp_path / "missing")


quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def read_or_refuse(folder, name, content):
    """Reads the only file of a folder; fails unless it is read or refused."""
    path = folder / name
    path.write_bytes(content)
    try:
        read(folder)
    except DataError as error:
        assert "\n" not in str(error)
    finally:
        path.unlink()


@st.composite
def damaged(draw, whole):
    """A file with some bytes changed, removed or repeated."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 1))
        change = draw(st.sampled_from(["set", "cut", "insert", "end"]))
        if change == "set":
            content[at] = draw(st.integers(0, 255))
        elif change == "cut":
            del content[at : at + draw(st.integers(1, 20))]
        elif change == "insert":
            content[at:at] = draw(st.binary(max_size=9))
        else:
            del content[at:]
        if not content:
            break
    return bytes(content)


def parquet_bytes():
    sink = pa.BufferOutputStream()
    users, items = [f"u{k}" for k in range(40)], [f"i{k % 5}" for k in range(40)]
    table = pa.table({"user_id": users, "item_id": items, "timestamp": range(40)})
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


class TestDamagedFiles:
    @quick
    @given(content=st.one_of(st.binary(max_size=200), damaged(ROWS)))
    def test_text(self, tmp_path, content):
        read_or_refuse(tmp_path, "interactions.csv", content)

    @quick
    @given(content=damaged(gzip.compress(ROWS)))
    def test_gzip(self, tmp_path, content):
        read_or_refuse(tmp_path, "interactions.csv.gz", content)

    @quick
    @given(content=damaged(parquet_bytes()))
    def test_parquet(self, tmp_path, content):
        read_or_refuse(tmp_path, "interactions.parquet", content)

    @quick
    @given(
        content=damaged(
            b'{"user_id": "a", "item_id": 7, "timestamp": 5}\n'
            b'{"user_id": "b", "item_id": 8, "timestamp": 6, "more": [1, {"x": 2}]}\n'
        )
    )
    def test_json_lines(self, tmp_path, content):
        read_or_refuse(tmp_path, "interactions.jsonl", content)
