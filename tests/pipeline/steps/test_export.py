"""The step export: one version per student, with the metric of the report."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from recdistill.export import publishing
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.steps import STEPS
from tests import small_pipelines
from tests.pipeline.logs import rows_of
from tests.pipeline.tiny_runs import go, made

pytestmark = pytest.mark.slow


class TestTheExport:
    @pytest.fixture
    def unchecked(self, monkeypatch):
        """Skips the parity check in a fresh process."""
        monkeypatch.setattr(publishing, "check_parity", small_pipelines.no_parity_check)

    def test_a_removed_export_is_written_again(self, copied, unchecked):
        first = go(copied, until="export")
        assert made(first) == ["export"]
        path = Path(first["export"].record["path"])
        assert path == copied / "export" / "tiny" / "1"
        assert made(go(copied, until="export")) == []
        shutil.rmtree(path)
        again = go(copied, until="export")
        assert made(again) == ["export"]
        assert Path(again["export"].record["path"]).is_dir()

    def test_another_student_is_exported_as_the_next_version(self, copied, unchecked):
        go(copied, until="export")
        done = go(copied, "distill.teacher_temperature=3.0", until="export")
        assert Path(done["export"].record["path"]).name == "2"
        versions = copied / "export" / "tiny"
        assert sorted(path.name for path in versions.iterdir()) == ["1", "2"]


def test_the_export_serves_the_metric_of_the_report(tiny_run):
    record = tiny_run.artefacts["export"].record
    assert record["excluded_inputs"] == ["history"]
    prepared = Prepared(tiny_run.artefacts["prepare"].path)
    items = prepared.items["item_id"].to_pylist()
    recommend = tf.saved_model.load(record["path"]).signatures["recommend"]
    total, lists = 0.0, list(rows_of(prepared, "test").values())
    for row in lists:
        # All items that the user had, oldest first, and no other exclusion.
        history = [items[k] for k in row["seen"]]
        answer = recommend(
            user_id=tf.constant([row["query_id"]]),
            segment=tf.constant([row["raw.segment"]]),
            budget=tf.constant([row["raw.budget"]], tf.float32),
            history=tf.constant([history or [""]]),
            history_length=tf.constant([len(history)]),
            k=tf.constant([10]),
            exclude_ids=tf.constant([[""]]),
            allow_ids=tf.constant([[""]]),
        )
        ids = [each.decode() for each in answer["item_ids"].numpy()[0]]
        assert not set(ids) & set(history)
        (positive,) = row["candidates"]
        if items[positive] in ids:
            total += 1 / math.log2(2 + ids.index(items[positive]))
    reported = tiny_run.report.models["distilled"].metrics["ndcg@10"].value
    assert total / len(lists) == pytest.approx(reported, abs=1e-6)
    judged = record["judged"]
    assert judged["metric"] == "ndcg@10"
    assert judged["lists"] == min(256, len(lists))
    assert judged["served"] == pytest.approx(judged["reported"], abs=1e-9)
    assert np.isclose(judged["reported"], reported, atol=0.05)


def warnings_of(seen="exclude", inputs=(), has_seen=True, served=0.5, reported=0.5):
    """Warnings of the step for a run with these facts."""
    judged = {
        "metric": "ndcg@10",
        "lists": 256,
        "served": served,
        "reported": reported,
    }
    records = {
        "prepare": {"seen": seen},
        "export": {"excluded_inputs": list(inputs), "judged": judged},
    }
    run = SimpleNamespace(
        artefacts={
            name: SimpleNamespace(record=record, reused=True)
            for name, record in records.items()
        },
        prepared=SimpleNamespace(has_seen_items=has_seen),
    )
    return list(STEPS["export"].warnings(run))


def test_a_student_that_does_not_know_what_was_seen_is_a_warning():
    [said] = warnings_of()
    assert "no feature of kind `history`" in said and "`exclude_ids`" in said
    assert not warnings_of(inputs=["history"])
    assert not warnings_of(seen="include")
    assert not warnings_of(has_seen=False)


def test_a_served_metric_that_differs_is_a_warning_with_both_numbers():
    [said] = warnings_of(inputs=["history"], served=0.47, reported=0.48)
    assert "0.4700" in said and "0.4800" in said
    assert not warnings_of(inputs=["history"], served=0.4751, reported=0.48)
