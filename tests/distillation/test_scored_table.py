"""scored_table: a table of scores becomes lists, and of many lists a sample."""

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from recdistill.distillation import examine
from recdistill.distillation.scored_table import SAMPLE_LISTS, read_scored_table, sample
from recdistill.errors import DataError


class TestTables:
    # Lists in parts, ids of any kind, a score that is missing.
    table = pa.table(
        {
            "query": ["b", "a", "b", "b", "a"],
            "points": pa.array([1.0, 5.0, None, 3.0, 4.0]),
        }
    )

    @pytest.fixture(params=["csv", "parquet"])
    def path(self, request, tmp_path):
        path = tmp_path / f"scores.{request.param}"
        write = pacsv.write_csv if request.param == "csv" else pq.write_table
        write(self.table, path)
        return path

    def test_rows_become_lists(self, path):
        scores, mask = read_scored_table(path, "query", "points")
        np.testing.assert_array_equal(scores, [[1.0, np.nan, 3.0], [5.0, 4.0, 0.0]])
        np.testing.assert_array_equal(mask, [[True] * 3, [True, True, False]])
        assert examine(scores, mask).not_finite == 1

    def test_a_missing_column_is_an_error(self, path):
        with pytest.raises(
            DataError, match=r"no column 'list_id'\. .* query, points\.$"
        ):
            read_scored_table(path, "list_id", "points")

    def test_scores_that_are_texts_are_an_error(self, path):
        with pytest.raises(DataError, match=r"`query`, row 1: must be a number"):
            read_scored_table(path, "points", "query")

    def test_a_file_that_is_not_a_table_is_an_error(self, tmp_path):
        (tmp_path / "x.parquet").write_text("no table")
        with pytest.raises(DataError, match=r"x\.parquet cannot be read"):
            read_scored_table(tmp_path / "x.parquet", "query", "points")
        with pytest.raises(DataError, match=r"no\.csv does not exist"):
            read_scored_table(tmp_path / "no.csv", "query", "points")

    def test_a_table_without_rows_is_an_error(self, tmp_path):
        pq.write_table(self.table.slice(0, 0), tmp_path / "empty.parquet")
        with pytest.raises(DataError, match="must have rows"):
            read_scored_table(tmp_path / "empty.parquet", "query", "points")

    def test_of_many_lists_a_sample_is_read(self, tmp_path):
        count = SAMPLE_LISTS + 500
        table = pa.table({"list_id": np.arange(count), "score": np.zeros(count)})
        pq.write_table(table, tmp_path / "many.parquet")
        scores, _ = read_scored_table(tmp_path / "many.parquet", "list_id", "score")
        assert scores.shape == (SAMPLE_LISTS, 1)


def test_the_sample_is_small_enough_and_always_the_same():
    chosen = sample(5_000, 100)
    assert len(chosen) == len(set(chosen)) == SAMPLE_LISTS
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, sample(5_000, 100))
    assert len(sample(5_000, 200_000)) == 2
    assert len(sample(5_000, 10**9)) == 1
    np.testing.assert_array_equal(sample(3, 10), [0, 1, 2])
