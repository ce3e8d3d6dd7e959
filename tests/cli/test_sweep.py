"""`recdistill sweep`, and `recdistill run` with a budget: help and errors."""

from tests.cli.command_line import assert_is_one_paragraph, call, in_folder


def test_the_help_of_a_sweep_and_of_a_run_name_the_budget():
    for command in ("sweep", "run"):
        said = " ".join(call(command, "--help").stdout.split())
        assert '--budget "p99<=2ms' in said


def test_a_budget_that_cannot_be_read_is_one_paragraph(tmp_path):
    result = call("run", *in_folder(tmp_path), "--budget", "p99<2ms")
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "`export.budget` must be limits such as p99<=2ms")
