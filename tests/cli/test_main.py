"""The command line as a whole: help, version, errors and exit codes."""

import subprocess
import sys

import pytest

from recdistill import __version__
from recdistill.atomic import locked_folder
from recdistill.pipeline.artefacts.workspace import Workspace
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps import STEPS
from tests import small_pipelines
from tests.cli.command_line import assert_is_one_paragraph, call, in_folder


def test_help_and_checks_of_configs_need_no_tensorflow(tmp_path):
    config = small_pipelines.write_config(tmp_path)
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
    commands = ["run", *STEPS, "latency", "serving-config", "doctor", "data"]
    commands += ["data fetch", ""]
    calls = [[*command.split(), "--help"] for command in commands]
    bad = [str(config), "--set", "seed=-1"]
    calls += [["run", *bad], ["latency", *bad]]
    process = subprocess.run(
        [sys.executable, "-c", script, repr(calls)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    *lines, heavy = process.stdout.splitlines()
    assert heavy == "imported: []"
    codes = [0] * len(commands) + [2, 2]
    assert lines == [f"{k} True {each}" for k, each in zip(codes, calls, strict=True)]


def test_the_overview_names_every_command_and_the_exit_codes():
    result = call("--help")
    assert result.exit_code == 0
    for word in (
        "run",
        *STEPS,
        "doctor",
        "data",
        "Exit codes: 0 success, 2 bad input, 3 the",
    ):
        assert word in result.stdout


def test_no_arguments_show_the_overview():
    assert "Usage:" in call().output


def test_the_version():
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"recdistill {__version__}\n")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("student.dims=3", "`student.dims` is not a known key (did you mean `dim`?)."),
        ("student.dim=0", "`student.dim` must be greater than 1"),
        ("nonsense", "`--set` must look like section.key=value"),
        ("name='no/folder'", "`name` must match pattern"),
    ],
)
def test_a_bad_setting_is_one_paragraph_and_exit_code_2(tmp_path, override, said):
    result = call("run", *in_folder(tmp_path), "--set", override)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, said)
    assert not (tmp_path / "runs").exists()


def test_a_missing_file_is_one_paragraph_and_exit_code_2(tmp_path):
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


def test_a_missing_teacher_is_one_paragraph_and_exit_code_2(tmp_path):
    teacher = "teacher={kind='saved_model', path='teachers/none'}"
    result = call("teacher", *in_folder(tmp_path), "--set", teacher)
    assert result.exit_code == 2
    assert result.stdout == ""
    said = "Error: `teacher.path` must be a file or folder. Received: teachers/none"
    assert result.stderr.splitlines()[-1].startswith(said)


def test_a_busy_run_is_one_paragraph_and_exit_code_2(tmp_path):
    arguments = in_folder(tmp_path)
    with locked_folder(Workspace(tmp_path / "runs" / "tiny").root):
        result = call("prepare", *arguments)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "Another recdistill process is using")


def test_a_full_disk_is_one_paragraph_and_exit_code_2(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Pipeline, "run", full)
    result = call("run", *in_folder(tmp_path))
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "[Errno 28] No space left on device")


@pytest.mark.parametrize("error", [ValueError, RuntimeError, TypeError, KeyError])
def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch, error):
    def broken(*_):
        raise error("a bug")

    monkeypatch.setattr(Pipeline, "run", broken)
    result = call("run", *in_folder(tmp_path))
    assert isinstance(result.exception, error)
    assert result.exit_code == 1
    assert "Error:" not in result.stderr


def test_an_error_in_json_mode_is_on_stderr(tmp_path):
    result = call("run", *in_folder(tmp_path), "--json", "--set", "seed=-1")
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "`seed` must be greater than or equal")
