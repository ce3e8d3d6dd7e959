"""The file of events: JSON lines, each step once."""

import json

import pytest

from recdistill.pipeline.tracking.event_lines import EventLines
from tests.pipeline.tracking.tracked_steps import POINTS, TRIAL, finished


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_step_is_written_once_with_its_curve(tmp_path):
    path = tmp_path / "tracking" / "events.jsonl"
    baseline = finished(tmp_path, "baseline", trials=[TRIAL])
    for _ in range(2):
        EventLines(path, tmp_path / "report.html").record("baseline", baseline)
    *points, end = lines_of(path)
    assert [(p["series"], p["training_step"], p["values"]) for p in points] == POINTS
    about = {"step": "baseline", "artefact": "baseline-0123456789ab"}
    assert {k: v for k, v in end.items() if k != "time"} == {
        **about,
        "event": "finished",
        "seconds": 1.5,
    }
    assert all(about.items() <= each.items() for each in points)


def test_the_report_is_an_event_and_a_damaged_line_does_no_harm(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "fini\n')
    log = EventLines(path, tmp_path / "report.html")
    log.record("evaluate", finished(tmp_path, "evaluate"))
    text = path.read_text()
    log.record("evaluate", finished(tmp_path, "evaluate"))
    assert path.read_text() == text
    _, report, end = text.splitlines()
    assert json.loads(end)["event"] == "finished"
    found = json.loads(report)
    assert found["page"] == str(tmp_path / "report.html")
    assert found["values"]["teacher/mrr"] == pytest.approx(0.102)
    assert found["values"]["teacher/latency_ms_p50_1000"] == pytest.approx(41.23)
