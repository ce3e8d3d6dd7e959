"""Finished runs: opened from their folders, and listed with their states."""

import io
import os

import pytest
from rich.console import Console

from recdistill.errors import ArtefactError, ReportError
from recdistill.evaluation.intervals import Interval
from recdistill.pipeline.artefacts.workspace import Workspace
from recdistill.pipeline.runs.finished_runs import EvaluatedRun, list_runs
from recdistill.pipeline.runs.run_table import render_runs, runs_json
from tests.evaluation.report.example_reports import report
from tests.pipeline.finished_folders import write_run


def states(folder):
    return {run.name: run.state for run in list_runs(folder)}


def test_the_states_of_runs(tmp_path):
    write_run(tmp_path / "done", {})
    write_run(tmp_path / "measured", {}, export=False)
    with Workspace(tmp_path / "begun").produce("prepare", {}):
        pass
    with Workspace(tmp_path / "begun").produce("score", {}):
        pass
    (tmp_path / "killed" / ".partial-baseline-12ab").mkdir(parents=True)
    again = write_run(tmp_path / "again", {})
    (again / ".partial-distill-34cd").mkdir()
    os.utime(again / "report.json", (0, 0))
    (tmp_path / "notes").mkdir()
    (tmp_path / "a file").write_text("")
    assert states(tmp_path) == {
        "done": "finished",
        "measured": "not exported",
        "begun": "after score",
        "killed": "in baseline",
        "again": "in distill",
    }
    assert states(tmp_path / "done") == {"done": "finished"}


def test_an_export_of_an_earlier_student_does_not_finish_a_run(tmp_path):
    write_run(tmp_path / "films", {"distilled": 0.1})
    write_run(tmp_path / "films", {"distilled": 0.2}, export=False, seed=2)
    assert states(tmp_path) == {"films": "not exported"}


def test_the_latest_run_is_first_and_its_line_has_the_results(tmp_path):
    teacher = {"kind": "ensemble", "members": [{"kind": "linear"}, {"kind": "keras"}]}
    old = write_run(tmp_path / "old", {}, config={"teacher": teacher})
    for path in (old, *old.rglob("*")):
        os.utime(path, (1e9, 1e9))
    sampled = report().protocol.model_copy(update={"candidates": "sampled:100"})
    write_run(tmp_path / "new", {}, protocol=sampled)
    new, old = runs_json(list_runs(tmp_path))
    assert (new["name"], old["name"]) == ("new", "old")
    assert old["changed"] == "2001-09-09T01:46:40+00:00"
    assert old["teacher"] == "ensemble (linear, keras)"
    assert old["gap_closed"] == 0.476
    assert old["values"]["distilled"] == 0.091
    assert old["verdict"].startswith("By NDCG@10, distillation closed 48%")
    assert (old["candidates"], new["candidates"]) == ("catalogue", "sampled:100")


def test_the_table_tells_an_unknown_gap_from_none(tmp_path):
    why = {"ndcg@10": Interval(None, reason="no gap, or none known")}
    for name, gap in (("none", Interval(0.0, -0.1, 0.1)), ("unknown", Interval(0.1))):
        pairs = {"teacher_minus_baseline": {"ndcg@10": gap}}
        write_run(tmp_path / name, {}, gap_closed=why, differences=pairs)
    console = Console(file=io.StringIO(), width=150)
    console.print(render_runs(list_runs(tmp_path)))
    lines = {
        line.split()[0]: line for line in console.file.getvalue().splitlines() if line
    }
    assert "no gap" in lines["none"]
    assert "no gap" not in lines["unknown"]


def test_a_report_that_cannot_be_read_does_not_hide_the_other_runs(tmp_path):
    run = write_run(tmp_path / "broken", {})
    (run / "report.json").write_text("{")
    write_run(tmp_path / "fine", {})
    assert states(tmp_path) == {"broken": "unreadable report", "fine": "finished"}


@pytest.mark.parametrize(
    ("folder", "said"),
    [("nowhere", "does not exist"), ("empty", "which has no run")],
)
def test_a_folder_without_runs_is_an_error(tmp_path, folder, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReportError, match=said):
        list_runs(tmp_path / folder)


def test_the_page_is_rendered_from_what_the_run_stored(tmp_path):
    page = EvaluatedRun.open(write_run(tmp_path / "films", {})).page()
    assert "<h1>By NDCG@10, distillation closed 48%" in page
    # Training is not in report.json.
    assert "distilled: best NDCG@10 0.2000 on validation" in page


def test_of_two_evaluations_the_one_of_the_report_is_opened(tmp_path):
    write_run(tmp_path / "films", {"distilled": 0.1})
    folder = write_run(tmp_path / "films", {"distilled": 0.2}, seed=2)
    run = EvaluatedRun.open(folder)
    assert run.rows("distilled")["ndcg@10"][0].as_py() == 0.2
    assert list(run.slices()) == ["item"]


def test_a_folder_that_is_not_an_evaluated_run_is_an_error(tmp_path):
    with pytest.raises(ReportError, match="which does not exist"):
        EvaluatedRun.open(tmp_path / "nowhere")
    with pytest.raises(ReportError, match="which is not the folder of a run"):
        EvaluatedRun.open(tmp_path)
    with Workspace(tmp_path / "begun").produce("score", {}):
        pass
    with pytest.raises(ReportError, match="has no report; its state: after score"):
        EvaluatedRun.open(tmp_path / "begun")


def test_an_edited_report_and_a_damaged_file_are_errors(tmp_path):
    folder = write_run(tmp_path / "films", {})
    run = EvaluatedRun.open(folder)
    (run.artefact.path / "teacher.parquet").write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"teacher.parquet' is damaged"):
        run.rows("teacher")
    (folder / "report.json").write_text(report(seed=9).to_json())
    with pytest.raises(ReportError, match=r"belongs to its report\.json"):
        EvaluatedRun.open(folder)
