"""Tracking of a run: it never stops the run."""

import pytest

from recdistill.pipeline.tracking.run_tracking import RunTracking
from tests import small_pipelines
from tests.pipeline.tracking.tracked_steps import events, finished, finished_run


def test_a_server_that_does_not_answer_is_one_warning(tmp_path):
    pytest.importorskip("mlflow")
    tracking = {"mlflow": True, "tracking_uri": "http://127.0.0.1:9"}
    warnings = []
    tracked = RunTracking(
        small_pipelines.config(tracking=tracking), tmp_path, warnings.append
    )
    for step, artefact in finished_run(tmp_path).items():
        tracked.record(step, artefact)
    tracked.end(succeeded=True)
    (warning,) = warnings
    assert warning.startswith("The MLflow log of this run cannot be written: ")
    assert warning.endswith(
        "run the same command again later to write what is missing."
    )
    lines = (tmp_path / "tracking" / "events.jsonl").read_text().splitlines()
    assert sum('"finished"' in line for line in lines) == 7
    assert events(tmp_path / "tracking")


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "tracking").write_text("a file where the folder should be")
    warnings = []
    tracked = RunTracking(small_pipelines.config(), tmp_path, warnings.append)
    tracked.begin("baseline-0123456789ab")
    tracked.observe("learning_rate_0.01", 1, {"loss": 1.0})
    for _ in range(2):
        tracked.record("evaluate", finished(tmp_path, "evaluate"))
    assert len(warnings) == 2
    assert "TensorBoard" in warnings[0]
    assert "file of events" in warnings[1]
