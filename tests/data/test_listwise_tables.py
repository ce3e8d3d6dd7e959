"""read_listwise and read_scores: interactions, candidates and teacher scores."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.data import read_listwise, read_scores
from recdistill.errors import DataError

TEXT = """list_id,user_id,item_id,timestamp,relevance,score,place
1,7,a,5,0,0.5,top
1,7,b,5,2,,top
2,8,c,6,1,-1.5,bottom
2,8,a,6,0,2e-1,bottom
2,8,d,6,1,3,bottom
"""
SCORE = {"score": "score"}


def write(folder, text=TEXT):
    (folder / "lists.csv").write_text(text)
    return folder


def rows(data):
    return [row for batch in data.interactions() for row in batch.to_pylist()]


def scores(data):
    return [tuple(row.values()) for batch in data.scores() for row in batch.to_pylist()]


def test_relevant_rows_are_the_interactions(tmp_path):
    data = read_listwise(write(tmp_path), SCORE)
    assert (data.columns.list, data.columns.relevance) == ("list_id", "relevance")
    got = [
        (r["list_id"], r["user_id"], r["item_id"], r["relevance"]) for r in rows(data)
    ]
    assert got == [("1", "7", "b", 2.0), ("2", "8", "c", 1.0), ("2", "8", "d", 1.0)]
    assert rows(data)[0]["place"] == "top"
    assert rows(data) == rows(data)


def test_rows_without_a_score_are_left_out(tmp_path):
    data = read_listwise(write(tmp_path), SCORE)
    want = [("1", "a", 0.5), ("2", "c", -1.5), ("2", "a", 0.2), ("2", "d", 3.0)]
    assert scores(data) == [(k, i, pytest.approx(s)) for k, i, s in want]
    assert read_listwise(tmp_path).scores is None


def test_without_an_item_table_the_catalogue_is_all_candidates(tmp_path):
    assert read_listwise(write(tmp_path)).items["item_id"].to_pylist() == list("abcd")
    pq.write_table(pa.table({"item_id": list("abcde")}), tmp_path / "items.parquet")
    assert read_listwise(tmp_path).items["item_id"].to_pylist() == list("abcde")


def test_a_null_in_parquet_is_a_missing_score(tmp_path):
    table = pa.table(
        {
            "list_id": [1, 1],
            "user_id": ["u", "u"],
            "item_id": [3, 4],
            "timestamp": [1, 1],
            "relevance": [1.0, 0.0],
            "score": pa.array([None, 2], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "lists.parquet")
    assert scores(read_listwise(tmp_path, SCORE)) == [("1", "4", 2.0)]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0,0.5", "0,nan", "column `score`, row 1: must be finite. Received: nan"),
        ("0,0.5", "0,x", "column `score`, row 1: must be a number. Received: 'x'"),
        ("2,8,c", ",8,c", "column `list_id`, row 3"),
        ("5,2,", "5,,", "column `relevance`, row 2"),
        ("relevance", "liked", "has no column 'relevance'"),
    ],
)
def test_bad_rows_are_named(tmp_path, old, new, said):
    with pytest.raises(DataError, match=said):
        list(read_listwise(write(tmp_path, TEXT.replace(old, new)), SCORE).scores())


def test_a_folder_without_lists_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no table 'lists'"):
        read_listwise(tmp_path)
    with pytest.raises(DataError, match="must be a folder"):
        read_listwise(tmp_path / "none")


class TestScores:
    def test_a_table_of_pairs(self, tmp_path):
        (tmp_path / "s.csv").write_text("who,item_id,score\n1,a,0.5\n1,b,-2\n")
        got = [b.to_pylist() for b in read_scores(tmp_path / "s.csv", {"query": "who"})]
        assert got == [
            [
                {"key": "1", "item": "a", "score": 0.5},
                {"key": "1", "item": "b", "score": -2.0},
            ]
        ]

    def test_a_folder_of_tables(self, tmp_path):
        for part in "ab":
            table = {"user_id": [1], "item_id": [part], "score": [1.0]}
            pq.write_table(pa.table(table), tmp_path / f"{part}.parquet")
        got = [row["item"] for b in read_scores(tmp_path) for row in b.to_pylist()]
        assert got == ["a", "b"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("user_id,item_id\n1,a\n", "has no column 'score'"),
            ("user_id,item_id,score\n1,a,1\n1,b,inf\n", "row 2: must be finite"),
            ("user_id,item_id,score\n1,a,1\n1,,1\n", "column `item_id`, row 2"),
        ],
    )
    def test_bad_rows_are_named(self, tmp_path, text, said):
        (tmp_path / "s.csv").write_text(text)
        with pytest.raises(DataError, match=said):
            list(read_scores(tmp_path / "s.csv"))

    def test_a_missing_table_is_named(self, tmp_path):
        with pytest.raises(DataError, match="must be a table of scores"):
            list(read_scores(tmp_path / "none.csv"))
