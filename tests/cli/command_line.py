"""Calls of the command line for its tests, and checks of error messages."""

from typer.testing import CliRunner

from recdistill.cli.main import app
from tests import small_pipelines


def call(*arguments):
    """Runs one command in this process."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


def in_folder(folder, config=None):
    """Arguments of a run that writes to `folder` only."""
    config = config or small_pipelines.write_config(folder)
    return [config, *(f"--set={place}" for place in small_pipelines.places(folder))]


def assert_is_one_paragraph(result, said):
    """An error that a user can fix: no traceback, and nothing on stdout."""
    assert result.stdout == ""
    *notes, error = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert said in error
    assert all(note.endswith(" …") for note in notes)
