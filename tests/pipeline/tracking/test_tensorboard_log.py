"""TensorBoard files: live while training, complete once, and never twice."""

import pytest

from recdistill.pipeline.tracking.tensorboard_log import TensorBoardLog
from tests.pipeline.tracking.tracked_steps import TRIAL, events, finished

RUN = "baseline-0123456789ab/learning_rate_0.01"


def new_log(tmp_path):
    return TensorBoardLog(tmp_path / "tracking", tmp_path / "report.html")


def test_values_are_written_while_training_and_a_stopped_attempt_is_replaced(tmp_path):
    log = new_log(tmp_path)
    log.begin("baseline-0123456789ab")
    log.observe("learning_rate_0.01", 1, {"loss": 9.0})
    assert events(tmp_path / "tracking") == {(RUN, "loss", 1): 9.0}
    again = new_log(tmp_path)
    again.begin("baseline-0123456789ab")
    again.observe("learning_rate_0.01", 1, {"loss": 3.5})
    again.record("baseline", finished(tmp_path, "baseline", trials=[TRIAL]))
    assert events(tmp_path / "tracking") == {(RUN, "loss", 1): 3.5}


def test_a_step_that_was_not_followed_is_written_from_its_record_once(tmp_path):
    baseline = finished(tmp_path, "baseline", trials=[TRIAL])
    new_log(tmp_path).record("baseline", baseline)
    found = events(tmp_path / "tracking")
    assert found == {
        (RUN, "loss", 1): 3.5,
        (RUN, "learning_rate", 1): pytest.approx(0.01),
        (RUN, "learning_rate", 2): pytest.approx(0.005),
        (RUN, "gradient_norm", 1): 7.0,
        (RUN, "gradient_norm", 2): 6.0,
        (RUN, "validation", 1): 0.25,
    }
    new_log(tmp_path).record("baseline", baseline)
    assert events(tmp_path / "tracking") == found


def test_the_report_is_written_with_its_figures_and_a_link(tmp_path):
    log = new_log(tmp_path)
    log.begin("evaluate-0123456789ab")
    log.record("evaluate", finished(tmp_path, "evaluate"))
    log.record("export", finished(tmp_path, "export"))
    found = events(tmp_path / "tracking")
    run = "evaluate-0123456789ab/report"
    assert found[run, "distilled/ndcg@10", 0] == pytest.approx(0.091)
    assert found[run, "gap_closed/ndcg@10", 0] == pytest.approx(0.476)
    assert found[run, "speedup/1000", 0] == pytest.approx(95.9)
    link = f"[report.html]({(tmp_path / 'report.html').as_uri()})"
    assert found[run, "report", 0] == [link]
    assert {key[0] for key in found} == {run}
