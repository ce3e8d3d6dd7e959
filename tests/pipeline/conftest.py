"""Fixtures for the tests of the pipeline."""

import shutil

import pytest


@pytest.fixture
def copied(tiny_run, tmp_path):
    """A folder with a copy of all artefacts of the tiny run."""
    shutil.copytree(tiny_run.folder / "runs", tmp_path / "runs")
    return tmp_path
