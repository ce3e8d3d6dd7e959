"""teacher_answers: the ranking for raw features is that of the stored list."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import in_order
from recdistill.errors import ConfigError, ReportError
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.runs.run_opening import open_run
from recdistill.pipeline.runs.teacher_answers import teacher_ranking

pytestmark = pytest.mark.slow


def plain(value):
    """A raw value as a client sends it."""
    row = value.take(np.array([0])).values if isinstance(value, Ragged) else value[0]
    return row.tolist() if isinstance(row, np.ndarray | np.generic) else row


def test_the_teacher_ranks_as_in_the_evaluation(tiny_run):
    prepared = Prepared(tiny_run.artefacts["prepare"].path)
    lists = next(in_order(prepared.shards("test"), 1))
    stored = pq.read_table(tiny_run.artefacts["evaluate"].path / "teacher.parquet")
    [row] = np.flatnonzero(stored["list_id"].to_numpy() == lists.list_id[0])
    ids = prepared.item_ids
    features = {name: plain(value) for name, value in lists.raw.items()}
    found = teacher_ranking(
        tiny_run.root, features, k=10, exclude=ids[lists.seen.values].tolist()
    )
    assert [item for item, _ in found] == ids[stored["top"][row].as_py()].tolist()
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)


def test_the_artefacts_of_a_run_are_found_from_its_report(tiny_run):
    run = open_run(tiny_run.root)
    assert {"prepare", "baseline", "teacher", "score", "distill", "evaluate"} == set(
        run.artefacts
    )
    for step, artefact in run.artefacts.items():
        assert artefact.path == tiny_run.artefacts[step].path
    assert run.config.workdir == tiny_run.folder / "runs"


def test_a_feature_of_another_model_is_named(tiny_run):
    with pytest.raises(ConfigError, match=r"features of the run only.*'age'"):
        teacher_ranking(tiny_run.root, {"age": 3}, k=1)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ReportError, match="is not the folder of a run"):
        open_run(tmp_path)
