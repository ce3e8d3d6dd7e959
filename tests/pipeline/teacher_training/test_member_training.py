"""Training of folds: the lists of the other queries; `test_teacher_search` trains."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.errors import TrainingError
from recdistill.pipeline.models.model_building import TeacherBuilder
from recdistill.pipeline.models.teacher_opening import ExternalTeachers
from recdistill.pipeline.teacher_training.member_training import (
    MemberTraining,
    shards_without,
)
from tests import small_pipelines
from tests.pipeline.logs import random_log, run

pytestmark = pytest.mark.slow


def test_the_lists_of_a_fold_are_those_of_the_other_queries(tmp_path):
    log = random_log(4, rows=200, users=9, items=12, moments=60)
    prepared, _ = run(small_pipelines.dataset(log), tmp_path / "p")
    left_out = np.arange(len(prepared.training_rows)) % 3 == 1
    files = shards_without(prepared.shards("train"), left_out, tmp_path / "lists")
    got, want = (
        [row for path in paths for row in pq.read_table(path).to_pylist()]
        for paths in (files, prepared.shards("train"))
    )
    assert got == [row for row in want if row["query_row"] % 3 != 1]
    assert 0 < len(got) < len(want)


def test_a_fold_with_all_training_lists_is_an_error(tmp_path):
    # All queries have the same training items, and therefore the same fold.
    log = [(f"u{user}", f"i{item}", item) for user in range(8) for item in range(6)]
    items = pa.table({"item_id": [f"i{item}" for item in range(6)]})
    prepared, _ = run(small_pipelines.dataset(log, items), tmp_path / "p")
    settings = {"kind": "sequence", "dim": 4, "folds": 2}
    config = small_pipelines.config(teacher=settings)
    builder = TeacherBuilder(
        config, prepared, ExternalTeachers(prepared, lambda: None), fit=True
    )
    context = SimpleNamespace(config=config, prepared=prepared, teacher_trainer=None)
    training = MemberTraining(context, builder, tmp_path)
    with pytest.raises(TrainingError, match="lists are of queries in fold"):
        training.cross_fit(config.teacher, 0, 0)
