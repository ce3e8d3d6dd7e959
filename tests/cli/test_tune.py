"""`recdistill tune`: its help and its errors."""

import sys

from tests.cli.command_line import assert_is_one_paragraph, call, in_folder


def test_the_help_has_an_example_and_says_what_is_not_read():
    said = " ".join(call("tune", "--help").stdout.split())
    assert "recdistill run runs/movielens_100k/tune/best.toml" in said
    assert "The test part is not read" in said


def test_without_optuna_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = call("tune", *in_folder(tmp_path))
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "pip install 'recdistill[tune]'")
    assert not [*tmp_path.glob("runs/*/prepare-*")]


def test_a_bad_search_space_is_one_paragraph(tmp_path):
    result = call("tune", *in_folder(tmp_path), "--set", "tune.search.student.dim=[1]")
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "`tune.search`: `student.dim` must be greater than")
