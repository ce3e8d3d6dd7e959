"""cli: what people and scripts see of a run, and of what goes wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from recdistill import __version__
from recdistill.atomic import held
from recdistill.cli.main import app
from recdistill.pipeline.pipeline import STEPS, Pipeline
from recdistill.pipeline.workspace import Workspace
from tests import tiny

pytestmark = pytest.mark.filterwarnings(tiny.KERAS_ON_NUMPY_2)


def call(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def in_folder(folder, config=None):
    """The arguments for a run that keeps inside `folder`."""
    config = config or tiny.write_config(folder)
    return [config, *(f"--set={place}" for place in tiny.places(folder))]


def assert_is_one_paragraph(result, said):
    """What a user gets who can mend the error: no traceback, and nothing on stdout."""
    assert result.stdout == ""
    *notes, error = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert said in error
    assert all(note.endswith(" …") for note in notes)


def test_help_and_bad_configs_need_no_tensorflow(tmp_path):
    bad = tiny.write_config(tmp_path, "name = ")
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from recdistill.cli.main import app\n"
        "for arguments in eval(sys.argv[1]):\n"
        "    result = CliRunner().invoke(app, arguments)\n"
        "    print(result.exit_code, len(result.output) > 40, arguments)\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)\n"
        "print('imported:', sorted(heavy))\n"
    )
    commands = ["run", *STEPS, "doctor", "data", "data fetch", ""]
    calls = [[*command.split(), "--help"] for command in commands]
    calls.append(["run", str(bad)])
    process = subprocess.run(
        [sys.executable, "-c", script, repr(calls)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    *lines, heavy = process.stdout.splitlines()
    assert heavy == "imported: []"
    expected = [f"0 True {each}" for each in calls[:-1]] + [f"2 True {calls[-1]}"]
    assert lines == expected


def test_the_overview_names_every_command_and_the_exit_codes():
    result = call("--help")
    assert result.exit_code == 0
    for word in (
        "run",
        *STEPS,
        "doctor",
        "data",
        "Exit codes: 0 done, 2 bad input, 3 the",
    ):
        assert word in result.stdout


def test_no_arguments_show_the_overview():
    assert "Usage:" in call().output


@pytest.mark.parametrize("step", STEPS)
def test_the_help_of_a_step_says_what_it_does(step):
    result = call(step, "--help")
    assert result.exit_code == 0
    assert "Steps that this one stands on are done first" in result.stdout
    assert "--set" in result.stdout


def test_the_version():
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"recdistill {__version__}\n")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("student.dims=3", "`student.dims` is not a known key (did you mean `dim`?)."),
        ("student.dim=0", "`student.dim`: Input should be greater than 1"),
        ("nonsense", "`--set` must look like section.key=value"),
        ("name='no/folder'", "`name`: String should match pattern"),
    ],
)
def test_a_bad_setting_is_one_paragraph_and_exit_code_2(tmp_path, override, said):
    result = call("run", *in_folder(tmp_path), "--set", override)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, said)
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_not_there_is_one_paragraph_and_exit_code_2(tmp_path):
    path = tmp_path / ("long" * 30) / "no.toml"
    result = call("run", path)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, f"{path}: No such file or directory.")


def test_bad_data_are_one_paragraph_and_exit_code_2(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    log = "user_id,item_id,timestamp\nann,a,1\nann,b,2\nbob,,3\n"
    (folder / "interactions.csv").write_text(log)
    dataset = f'dataset={{reader="tables", path="{folder}"}}'
    result = call("prepare", *in_folder(tmp_path), "--set", dataset)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "row 3")


def test_a_missing_column_is_one_paragraph_and_exit_code_2(tmp_path):
    feature = "query.mood={kind='category'}"
    result = call("prepare", *in_folder(tmp_path), "--set", feature)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "The query feature `mood` needs a column 'mood'.")


def test_a_teacher_that_is_not_there_is_one_paragraph_and_exit_code_2(tmp_path):
    teacher = "teacher={kind='saved_model', path='teachers/none'}"
    result = call("teacher", *in_folder(tmp_path), "--set", teacher)
    assert result.exit_code == 2
    assert result.stdout == ""
    said = "Error: `teacher.path` must be a file or folder. Received: teachers/none"
    assert result.stderr.splitlines()[-1].startswith(said)


def test_a_busy_run_is_one_paragraph_and_exit_code_2(tmp_path):
    arguments = in_folder(tmp_path)
    with held(Workspace(tmp_path / "runs" / "tiny").root):
        result = call("prepare", *arguments)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "Another recdistill process is at work in")


def test_a_full_disk_is_one_paragraph_and_exit_code_2(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Pipeline, "run", full)
    result = call("run", *in_folder(tmp_path))
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "[Errno 28] No space left on device")


@pytest.mark.parametrize("error", [ValueError, RuntimeError, TypeError, KeyError])
def test_an_error_of_ours_is_not_swallowed(tmp_path, monkeypatch, error):
    def broken(*_):
        raise error("a bug")

    monkeypatch.setattr(Pipeline, "run", broken)
    result = call("run", *in_folder(tmp_path))
    assert isinstance(result.exception, error)
    assert result.exit_code == 1
    assert "Error:" not in result.stderr


def test_a_closed_gate_is_one_paragraph_and_exit_code_3(tiny_run):
    arguments = in_folder(tiny_run.folder, tiny.write_config(tiny_run.folder))
    result = call("distill", *arguments, "--set", "distill.gate=stop")
    assert result.exit_code == 3
    said = result.stderr.splitlines()[-1]
    assert said.startswith("Error: The teacher does not beat")
    assert "--set distill.gate=warn" in said
    assert result.stdout == ""


def test_a_finished_run_shows_the_receipt_and_where_things_are(tiny_run):
    result = call("run", *in_folder(tiny_run.folder))
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert "Distillation receipt · tiny" in lines
    # Paths and commands stand on one line each, however long: they can be copied.
    path = tiny_run.artefacts["export"].record["path"]
    assert f"SavedModel  {path}" in lines
    assert f"report      {tiny_run.root / 'report.json'}" in lines
    assert (
        "  tensorflow_model_server --rest_api_port=8501 --model_name=tiny "
        f"--model_base_path={Path(path).parent}"
    ) in lines


def test_what_to_do_next_keeps_the_overrides(tiny_run):
    arguments = in_folder(tiny_run.folder)
    again = " ".join(str(each) for each in arguments)
    lines = call("run", *arguments).stdout.splitlines()
    assert f"  recdistill run {again} --set student.dim=64" in lines
    lines = call("evaluate", *arguments).stdout.splitlines()
    assert f"  recdistill export {again}" in lines
    assert not any("SavedModel" in line for line in lines)


def test_each_step_has_a_line_on_stderr(tiny_run):
    result = call("run", *in_folder(tiny_run.folder))
    lines = [line for line in result.stderr.splitlines() if line.startswith("✓")]
    assert [line.split()[1] for line in lines] == list(STEPS)
    assert all("unchanged, skipped" in line for line in lines)
    assert "4,000 interactions, 240 queries, 60 items" in lines[0]
    assert "600 lists of 60" in lines[2]


@pytest.mark.parametrize("step", ["prepare", "score"])
def test_a_step_prints_its_folder(tiny_run, step):
    result = call(step, *in_folder(tiny_run.folder))
    assert result.stdout == f"{tiny_run.artefacts[step].path}\n"


@pytest.mark.parametrize("step", ["prepare", "distill", "evaluate", "export"])
def test_json_is_all_that_stdout_has(tiny_run, step):
    result = call(step, *in_folder(tiny_run.folder), "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
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


def test_an_error_in_json_mode_is_on_stderr(tmp_path):
    result = call("run", *in_folder(tmp_path), "--json", "--set", "seed=-1")
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "`seed`: Input should be greater than or equal")


def test_fetched_data_are_named_by_their_folder(tmp_path, monkeypatch):
    def fetched(name, to, progress):
        progress(1, 2)
        assert (name, to) == ("ml-100k", tmp_path)
        return tmp_path / "ml-100k"

    monkeypatch.setattr("recdistill.data.fetch", fetched)
    result = call("data", "fetch", "ml-100k", "--to", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'ml-100k'}\n")
    assert "Downloading ml-100k" in result.stderr


def test_a_data_set_that_is_not_known_is_one_paragraph_and_exit_code_2(tmp_path):
    result = call("data", "fetch", "ml-100", "--to", tmp_path)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "ml-100k")


class TestDoctor:
    @pytest.fixture
    def table(self, tmp_path):
        rng = np.random.default_rng(1)
        scores = np.exp(3 * rng.normal(size=(40, 100)))
        rows = [f"q{k // 100},{s}" for k, s in enumerate(scores.ravel())]
        path = tmp_path / "scores.csv"
        path.write_text("\n".join(["query,points", *rows]))
        return path

    def test_a_run_is_examined_from_its_stored_scores(self, tiny_run):
        result = call("doctor", *in_folder(tiny_run.folder))
        assert result.exit_code == 0
        said = " ".join(result.stdout.split())
        assert "Score doctor Lists 600, of" in said
        assert "Proposal distill.scores=z_score distill.temperature=auto." in said
        assert "This run z_score, temperature 1: about" in said
        assert "600 lists of 60; doctor: z_score at" in result.stderr

    def test_of_a_run_as_json(self, tiny_run):
        result = call("doctor", *in_folder(tiny_run.folder), "--json")
        document = json.loads(result.stdout)
        score = tiny_run.artefacts["score"]
        assert document["artefact"] == str(score.path)
        assert document["examination"] == score.record["doctor"]
        assert document["soft_targets"]["transform"] == "z_score"
        assert result.stderr == ""

    def test_a_table_is_examined(self, table):
        columns = ("--list-column", "query", "--score-column", "points")
        result = call("doctor", "--table", table, *columns)
        assert result.exit_code == 0
        said = " ".join(result.stdout.split())
        assert "Finding The tail is heavy: z-scores are" in said
        assert "Proposal distill.scores=log" in said
        assert "This run" not in said
        document = json.loads(
            call("doctor", "--table", table, *columns, "--json").stdout
        )
        assert document["table"] == str(table)
        assert document["examination"]["lists"] == 40
        assert document["examination"]["proposal"]["transform"] == "log"

    def test_a_column_that_is_not_there_is_one_paragraph_and_exit_code_2(self, table):
        result = call("doctor", "--table", table)
        assert result.exit_code == 2
        assert_is_one_paragraph(result, "must have a column 'list_id'. It has: query,")

    @pytest.mark.parametrize(("arguments", "got"), [((), "neither"), (("x",), "both")])
    def test_exactly_one_source_is_wanted(self, table, arguments, got):
        arguments = (*arguments, "--table", table) if arguments else ()
        result = call("doctor", *arguments)
        assert result.exit_code == 2
        assert_is_one_paragraph(
            result,
            f"Exactly one of CONFIG and `--table` must be given. Received: {got}",
        )


def test_a_note_is_a_paragraph_on_stderr_and_does_not_stop_the_run(tiny_run):
    folder = in_folder(tiny_run.folder)
    result = call("score", *folder, "--set", "distill.temperature=0.01")
    assert result.exit_code == 0
    (note,) = (line for line in result.stderr.splitlines() if "Note: " in line)
    assert note.startswith("Note: With scores z_score and temperature 0.01 the soft")
