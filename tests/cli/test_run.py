"""`recdistill run` and the steps: output for people and for programs."""

import json
from pathlib import Path

import pytest

from recdistill.cli import run
from recdistill.errors import GuardError
from recdistill.evaluation import guard
from recdistill.export import layout
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps import STEPS
from tests import small_pipelines
from tests.cli.command_line import call, in_folder
from tests.pipeline.tiny_runs import FIRST_ROUND

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("step", STEPS)
def test_the_help_of_a_step_says_what_it_does(step):
    result = call(step, "--help")
    assert result.exit_code == 0
    assert "Runs the steps it depends on first" in result.stdout
    assert "--set" in result.stdout


def test_a_closed_gate_is_one_paragraph_and_exit_code_3(tiny_run):
    arguments = in_folder(
        tiny_run.folder, small_pipelines.write_config(tiny_run.folder)
    )
    result = call("distill", *arguments, "--set", "distill.gate=stop")
    assert result.exit_code == 3
    said = result.stderr.splitlines()[-1]
    assert said.startswith("Error: The teacher does not beat")
    assert "--set distill.gate=warn" in said
    assert result.stdout == ""


def test_a_slice_below_the_baseline_stops_the_run_before_the_export(
    tiny_run, monkeypatch
):
    monkeypatch.setattr(guard, "guard_message", lambda part: "The tail has fallen.")
    stop = "--set=guard.action=stop"
    result = call("run", *in_folder(tiny_run.folder), stop)
    assert result.exit_code == 3
    said = result.stderr.splitlines()
    assert said[-1].startswith("Error: The tail has fallen. The run stops before the")
    assert [line.split()[1] for line in said if line.startswith("✓")][-1] == "evaluate"
    # The receipt is still shown: it says which slices.
    assert "Distillation receipt · tiny" in result.stdout
    assert "SavedModel" not in result.stdout
    assert call("evaluate", *in_folder(tiny_run.folder), stop).exit_code == 3
    # With the default action it is a warning.
    result = call("run", *in_folder(tiny_run.folder))
    assert result.exit_code == 0
    assert "Note: The tail has fallen. The run continues" in result.stderr


def test_a_guard_that_has_stopped_a_run_stops_it_again(tiny_run, monkeypatch):
    monkeypatch.setattr(guard, "guard_message", lambda part: "The tail has fallen.")
    pipeline = Pipeline(small_pipelines.load(tiny_run.folder, "guard.action=stop"))
    for _ in range(2):
        with pytest.raises(GuardError, match="override the check with --set guard"):
            pipeline.run()


def test_a_finished_run_shows_the_receipt_and_the_paths_of_its_files(tiny_run):
    result = call("run", *in_folder(tiny_run.folder))
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert "Distillation receipt · tiny" in lines
    # Paths and commands stand on one line each, however long: they can be copied.
    path = tiny_run.artefacts["export"].record["path"]
    assert f"SavedModel  {path}" in lines
    assert f"report      {tiny_run.root / 'report.json'}" in lines
    assert f"  recdistill serve {Path(path).parent}" in lines
    assert (
        "  tensorflow_model_server --rest_api_port=8501 --model_name=tiny "
        f"--model_base_path={Path(path).parent}"
    ) in lines


def test_suggested_commands_keep_the_overrides(tiny_run):
    arguments = in_folder(tiny_run.folder)
    again = " ".join(str(each) for each in arguments)
    lines = call("run", *arguments).stdout.splitlines()
    assert f"  recdistill run {again} --set student.dim=64" in lines
    lines = call("evaluate", *arguments).stdout.splitlines()
    assert f"  recdistill export {again}" in lines
    assert not any("SavedModel" in line for line in lines)


def test_a_suggested_command_sets_a_key_once(tiny_run):
    dim = small_pipelines.load(tiny_run.folder).student.dim
    arguments = in_folder(tiny_run.folder)
    own = call("run", *arguments, "--set", f"student.dim={dim}")
    again = " ".join(str(each) for each in arguments)
    assert f"  recdistill run {again} --set student.dim=64" in own.stdout.splitlines()


def test_a_version_that_is_not_the_highest_is_served_by_its_label(monkeypatch):
    monkeypatch.setattr(layout, "superseded_by", lambda version: Path("export/a/2"))
    assert run._serving_commands(Path("export/a/1")) == [
        "recdistill release promote export/a 1",
        "recdistill serve export/a --models export/models.config",
    ]


def test_each_step_has_a_line_on_stderr(tiny_run):
    result = call("run", *in_folder(tiny_run.folder))
    lines = [line for line in result.stderr.splitlines() if line.startswith("✓")]
    assert [line.split()[1] for line in lines] == FIRST_ROUND
    assert all("unchanged, skipped" in line for line in lines)
    assert "4,000 interactions, 240 queries, 60 items" in lines[0]
    assert "600 lists of 51 on average" in lines[3]


@pytest.mark.parametrize("step", ["prepare", "score"])
def test_a_step_prints_its_folder(tiny_run, step):
    result = call(step, *in_folder(tiny_run.folder))
    assert result.stdout == f"{tiny_run.artefacts[step].path}\n"


@pytest.mark.parametrize("step", ["prepare", "distill", "evaluate", "export"])
def test_stdout_has_only_json(tiny_run, step):
    result = call(step, *in_folder(tiny_run.folder), "--json")
    assert result.exit_code == 0
    assert all(line.startswith("Note: ") for line in result.stderr.splitlines())
    document = json.loads(result.stdout)
    artefact = tiny_run.artefacts[step]
    assert document["step"] == step
    assert document["artefact"] == str(artefact.path)
    assert document["record"] == artefact.record
    assert document["reused"] is True
    has_report = step in ("evaluate", "export")
    assert ("report" in document) == has_report
    if has_report:
        assert json.loads(Path(document["report"]).read_text())["name"] == "tiny"


def test_a_warning_is_a_paragraph_on_stderr_and_does_not_stop_the_run(tiny_run):
    folder = in_folder(tiny_run.folder)
    result = call("score", *folder, "--set", "distill.teacher_temperature=0.01")
    assert result.exit_code == 0
    (note,) = (line for line in result.stderr.splitlines() if "Note: " in line)
    assert note.startswith("Note: With transform z_score and temperature 0.01 the soft")
