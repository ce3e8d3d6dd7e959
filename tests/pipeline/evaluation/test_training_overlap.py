"""Held-out lists that a teacher was trained on are counted."""

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from recdistill.errors import DataError
from recdistill.pipeline.config.external_teacher_section import ScoresTeacherConfig
from recdistill.pipeline.config.teacher_section import (
    EnsembleTeacherConfig,
    LinearTeacherConfig,
)
from recdistill.pipeline.evaluation.training_overlap import (
    lists_seen_before,
    lists_trained_on,
)
from recdistill.pipeline.preparation.preparation import prepare
from recdistill.pipeline.preparation.prepared_data import Prepared
from tests import small_pipelines
from tests.pipeline.logs import random_log, rows_of, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "p"
    log = random_log(6, rows=300, users=20, items=15, moments=9_000)
    return run(small_pipelines.dataset(log), folder)[0]


class TestListsTrainedOn:
    @staticmethod
    def counted(prepared, folder, table, suffix="parquet"):
        path = folder / f"trained_on.{suffix}"
        write = pacsv.write_csv if suffix == "csv" else pq.write_table
        write(pa.table(table), path)
        return lists_trained_on(prepared, ScoresTeacherConfig(trained_on=path))

    @staticmethod
    def pairs(prepared, split):
        ids = prepared.items["item_id"].to_pylist()
        return [
            (row["query_id"], ids[row["candidates"][0]])
            for row in rows_of(prepared, split).values()
            if row["candidates"][0] >= 0
        ]

    def test_a_teacher_trained_by_the_pipeline_has_no_overlap(self, prepared):
        linear = LinearTeacherConfig()
        assert lists_trained_on(prepared, linear) == {"valid": 0, "test": 0}
        both = EnsembleTeacherConfig(members=(linear, ScoresTeacherConfig()))
        assert lists_trained_on(prepared, both) == {"valid": 0, "test": 0}

    def test_without_a_declaration_the_overlap_is_unknown(self, prepared):
        assert lists_trained_on(prepared, ScoresTeacherConfig()) is None

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_declared_list_ids_are_counted(self, prepared, tmp_path, suffix):
        ids = {split: list(rows_of(prepared, split)) for split in ("valid", "test")}
        declared = [*ids["valid"][:3], *ids["test"][:2], *rows_of(prepared, "train")]
        table = {"list_id": declared}
        got = self.counted(prepared, tmp_path, table, suffix)
        assert got == {"valid": 3, "test": 2}

    def test_a_declared_row_counts_the_list_that_it_is_in(self, tmp_path):
        log = random_log(6, rows=300, users=20, items=15, moments=40)
        prepared, _ = run(small_pipelines.dataset(log), tmp_path / "p")
        rows = [row["rows"] for row in rows_of(prepared, "test").values()]
        several = [each for each in rows if len(each) > 1]
        assert several
        table = {"list_id": [each[-1] for each in several]}
        got = self.counted(prepared, tmp_path, table)
        assert got == {"valid": 0, "test": len(several)}

    def test_ids_of_training_lists_are_not_counted(self, prepared, tmp_path):
        table = {"list_id": list(rows_of(prepared, "train"))}
        got = self.counted(prepared, tmp_path, table)
        assert got == {"valid": 0, "test": 0}

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_declared_pairs_are_counted_unless_training_has_them(
        self, prepared, tmp_path, suffix
    ):
        train = set(self.pairs(prepared, "train"))
        held = {split: self.pairs(prepared, split) for split in ("valid", "test")}
        declared = sorted(train | {*held["valid"], *held["test"][::2]})
        want = {
            "valid": sum(pair not in train for pair in held["valid"]),
            "test": sum(
                pair not in train and pair in {*held["test"][::2], *held["valid"]}
                for pair in held["test"]
            ),
        }
        assert 0 < want["valid"] < len(held["valid"])
        assert 0 < want["test"] < len(held["test"])
        query, item = zip(*declared, strict=True)
        table = {"query_id": query, "item_id": item}
        assert self.counted(prepared, tmp_path, table, suffix) == want

    def test_a_table_without_the_columns_is_an_error(self, prepared, tmp_path):
        with pytest.raises(DataError, match="must have a column list_id, or"):
            self.counted(prepared, tmp_path, {"user": ["a"]})

    def test_a_missing_table_is_an_error(self, prepared, tmp_path):
        teacher = ScoresTeacherConfig(trained_on=tmp_path / "no.csv")
        with pytest.raises(
            DataError, match=r"Cannot read `teacher.trained_on`: .*no\.csv"
        ):
            lists_trained_on(prepared, teacher)


@pytest.mark.parametrize("split", [{"held_out": 1}, {"by": "leave_random_out"}])
def test_held_out_lists_that_an_earlier_run_was_trained_on_are_counted(tmp_path, split):
    data = small_pipelines.dataset(random_log(6, rows=300, users=20, items=40))
    split = {"by": "leave_last_out", **split}
    earlier, _ = run(data, tmp_path / "monday", split=split)
    (tmp_path / "tuesday").mkdir()
    today = small_pipelines.config(split={"by": "leave_last_out", "held_out": 3})
    arguments = tmp_path / "tuesday", small_pipelines.quiet, earlier.schema
    prepare(data, today, *arguments)
    prepared = Prepared(tmp_path / "tuesday")

    def pairs(run, split):
        ids = run.items["item_id"].to_pylist()
        return [
            {(row["query_id"], ids[k]) for k in row["candidates"] if k >= 0}
            for row in rows_of(run, split).values()
        ]

    before, now = (set().union(*pairs(run, "train")) for run in (earlier, prepared))
    wanted = {
        split: sum(bool((found & before) - now) for found in pairs(prepared, split))
        for split in ("valid", "test")
    }
    assert wanted["test"] > 5
    assert lists_seen_before(prepared, earlier) == wanted
    assert lists_seen_before(prepared, prepared) == {"valid": 0, "test": 0}
