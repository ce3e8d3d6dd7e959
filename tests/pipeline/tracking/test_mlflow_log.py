"""The MLflow log, against a local store of mlflow-skinny."""

import importlib.util
import json

import pytest

from recdistill.errors import ConfigError
from recdistill.pipeline.tracking.mlflow_log import TAG, MlflowLog
from tests import small_pipelines
from tests.pipeline.tracking.tracked_steps import finished, finished_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def configured(uri, **changes):
    tracking = {"mlflow": True, "tracking_uri": uri, "experiment": "films"}
    return small_pipelines.config(tracking={**tracking, **changes}, seed=7)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A local store, the folder of the run and the artefacts that were logged."""
    folder = tmp_path_factory.mktemp("run")
    uri = (folder / "store").as_uri()
    artefacts = finished_run(folder)
    log = MlflowLog(configured(uri), folder / "tracking")
    for step, artefact in artefacts.items():
        log.record(step, artefact)
    log.end(succeeded=True)
    return uri, folder, artefacts


def runs_in(uri):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("films").experiment_id
    return client, client.search_runs([experiment])


def test_a_run_has_parameters_metrics_the_report_and_the_saved_model(store):
    client, (run,) = runs_in(store[0])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "memory"
    assert run.data.params["seed"] == "7"
    assert run.data.params["dataset.reader"] == "synthetic"
    assert "tracking.tracking_uri" not in run.data.params
    assert run.data.metrics["distilled/ndcg_at_10"] == pytest.approx(0.091)
    name = "baseline/learning_rate_0.01/gradient_norm"
    history = client.get_metric_history(run.info.run_id, name)
    assert [(each.step, each.value) for each in history] == [(1, 7.0), (2, 6.0)]
    for folder, files in (
        ("report", ["report/report.html", "report/report.json"]),
        ("saved_model/1", ["saved_model/1/saved_model.pb"]),
    ):
        listed = client.list_artifacts(run.info.run_id, folder)
        assert sorted(each.path for each in listed) == files


def test_a_second_run_logs_nothing_and_needs_no_server(store, monkeypatch):
    uri, folder, artefacts = store
    log = MlflowLog(configured(uri), folder / "tracking")
    monkeypatch.setattr(log, "_client_", lambda: pytest.fail("asked the server"))
    for step, artefact in artefacts.items():
        log.record(step, artefact)
    log.end(succeeded=True)


def test_without_its_note_the_run_is_found_by_its_tag(store, tmp_path):
    uri, _, artefacts = store
    log = MlflowLog(configured(uri), tmp_path)
    log.record("prepare", artefacts["prepare"])
    _, runs = runs_in(uri)
    assert len(runs) == 1
    (note,) = tmp_path.glob("mlflow-*.json")
    written = json.loads(note.read_text())
    assert written["run"] == runs[0].info.run_id
    assert runs[0].data.tags[TAG].startswith(note.stem.removeprefix("mlflow-"))
    assert uri not in note.read_text()


def test_other_data_is_another_run(store, tmp_path):
    uri = store[0]
    other = finished(tmp_path, "prepare")
    other = type(other)(other.path, "another key", other.record, reused=False)
    MlflowLog(configured(uri), tmp_path / "tracking").record("prepare", other)
    assert len(runs_in(uri)[1]) == 2


def test_a_missing_server_address_is_an_error(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=r"`tracking.tracking_uri` must be set"):
        MlflowLog(configured(None), tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    MlflowLog(configured(None), tmp_path)


def test_a_missing_package_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'recdistill\[mlflow\]'"):
        MlflowLog(configured("http://localhost:1"), tmp_path)
