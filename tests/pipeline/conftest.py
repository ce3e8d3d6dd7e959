"""Fixtures for the tests of the pipeline."""

import shutil

import pytest

from recdistill.pipeline.steps import evaluate


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """Leaves out the report page, whose figures take a tenth of the time of a tiny run.

    `tests/cli` and the examples of the documentation have runs with it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "write_page", lambda path, *_: path.write_text("page"))
        yield


@pytest.fixture
def copied(tiny_run, tmp_path):
    """A folder with a copy of all artefacts of the tiny run."""
    shutil.copytree(tiny_run.folder / "runs", tmp_path / "runs")
    return tmp_path
