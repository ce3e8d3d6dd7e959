"""The step export: one version per student, with the metric of the report."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import tensorflow as tf

from recdistill.atomic import write_sealed
from recdistill.errors import ConfigError
from recdistill.evaluation.report import run_report
from recdistill.export import layout, publishing, student_export
from recdistill.pipeline.candidates.sampled_candidates import SampledCandidates
from recdistill.pipeline.evaluation import judged_lists
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps import STEPS, export
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

    def test_a_return_to_an_earlier_student_warns_that_another_is_served(
        self, copied, unchecked
    ):
        go(copied, until="export")
        versions = copied / "export" / "tiny"
        shutil.copytree(versions / "1", versions / "2")
        manifest = layout.read_manifest(versions / "2")
        manifest["metadata"] |= {"key": "another", "fingerprint": "another"}
        write_sealed(versions / "2" / layout.MANIFEST, manifest)
        said = []
        done = go(copied, until="export", warn=said.append)
        assert made(done) == []
        [warning] = [each for each in said if "another configuration" in each]
        assert "this run is version 1" in warning and "version 2" in warning
        assert f"release promote {versions} 1`" in warning
        assert f"--models {versions.parent / 'models.config'}" in warning
        # What the warning says makes version 1 the highest one.
        shutil.rmtree(versions / "1")
        said.clear()
        done = go(copied, until="export", warn=said.append)
        assert Path(done["export"].record["path"]) == versions / "3"
        assert not [each for each in said if "another configuration" in each]


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


@pytest.fixture
def warnings_of(monkeypatch):
    """Warnings of the step for a run whose version is the highest."""
    monkeypatch.setattr(layout, "superseded_by", lambda version: None)
    return _warnings_of


def _warnings_of(seen="exclude", inputs=(), has_seen=True, served=0.5, reported=0.5):
    """Warnings of the step for a run with these facts."""
    judged = {
        "metric": "ndcg@10",
        "lists": 256,
        "served": served,
        "reported": reported,
    }
    records = {
        "prepare": {"seen": seen},
        "export": {
            "path": "export/tiny/1",
            "excluded_inputs": list(inputs),
            "judged": judged,
        },
    }
    run = SimpleNamespace(
        artefacts={
            name: SimpleNamespace(record=record, reused=True)
            for name, record in records.items()
        },
        prepared=SimpleNamespace(has_seen_items=has_seen),
    )
    return list(STEPS["export"].warnings(run))


def test_a_student_that_does_not_know_what_was_seen_is_a_warning(warnings_of):
    [said] = warnings_of()
    assert "no feature of kind `history`" in said and "`exclude_ids`" in said
    assert not warnings_of(inputs=["history"])
    assert not warnings_of(seen="include")
    assert not warnings_of(has_seen=False)


def test_a_served_metric_that_differs_is_a_warning_with_both_numbers(warnings_of):
    [said] = warnings_of(inputs=["history"], served=0.47, reported=0.48)
    assert "0.4700" in said and "0.4800" in said
    assert not warnings_of(inputs=["history"], served=0.4751, reported=0.48)


def test_the_export_gets_the_types_of_the_items(monkeypatch, tmp_path):
    exported = MagicMock(path=tmp_path / "tiny" / "1")
    monkeypatch.setattr(student_export, "export_student", exported)
    monkeypatch.setattr(judged_lists, "judged_lists", MagicMock())
    monkeypatch.setattr(run_report.Report, "load", MagicMock())
    monkeypatch.setattr(SampledCandidates, "load", MagicMock())
    monkeypatch.setattr(export, "export_settings", MagicMock())
    run = MagicMock(root=tmp_path)
    run.config.name, run.config.export.path = "tiny", tmp_path
    run.config.export.parity_rows = 8
    run.config.dataset.items.types = {"item_id": "integer"}
    STEPS["export"].work(run, MagicMock(key="k"))
    assert exported.call_args.kwargs["types"] == {"item_id": "integer"}


def test_a_missing_litert_is_an_error_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    config = small_pipelines.load(tmp_path, "export.on_device=true")
    done = {}
    pipeline = Pipeline(config, announce=done.__setitem__)
    with pytest.raises(ConfigError, match=r"pip install 'recdistill\[litert\]'"):
        pipeline.run()
    assert not done
    # Steps before the export do not need it.
    pipeline.run("prepare")
    assert [*done] == ["prepare"]
