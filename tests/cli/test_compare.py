"""`recdistill compare`, `runs` and `report`: output for people and for programs."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.cli.command_line import assert_is_one_paragraph, call
from tests.pipeline.finished_folders import lists, write_run

NAME = 'films <b onclick="x">'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "films", {"baseline": 0.3, "distilled": 0.4, "teacher": 0.5})
    changed = np.where(np.arange(40) < 20, 0.3, 0.6)
    write_run(folder / NAME, {"distilled": changed})
    write_run(folder / "short", {}, lists(30))
    return folder


def test_the_tables_have_the_verdict_and_the_slices(folder):
    result = call("compare", folder / "films", folder / NAME)
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert f"By NDCG@10, {NAME} is better than films by 0.0500 (+12.5%)" in text
    assert re.search(r"item: head 0.4000 0.3000 -0.1000 .*< 0.001 0/0/20", text)
    assert re.search(r"item: tail 0.4000 0.6000 \+0.2000 .*< 0.001 20/0/0", text)
    assert "other seeds" in text
    assert max(map(len, result.stdout.splitlines())) <= 80 + len(str(folder)) * 2


def test_stdout_is_json_on_request(folder):
    arguments = ["compare", folder / "films", "--json"]
    for model in ("baseline", "distilled", "teacher"):
        arguments += ["--model", model]
    document = json.loads(call(*arguments).stdout)
    first, second = document["comparisons"]
    assert (first["other"], second["other"]) == ("distilled", "teacher")
    found = second["metrics"]["ndcg@10"]
    assert found["difference"]["value"] == pytest.approx(0.2)
    assert found["significant"] is True
    assert (found["wins"], found["queries"]) == (20, 20)
    assert document["protocol"]["candidates"] == "catalogue"
    assert document["correction"] == "Holm"


def test_the_page_is_complete_and_loads_nothing(folder, tmp_path):
    target = tmp_path / "page.html"
    result = call("compare", folder / "films", folder / NAME, "--html", target)
    assert result.stdout.rstrip().endswith(f"Page  {target}")
    page = target.read_text(encoding="utf-8")
    assert "<b onclick" not in page
    assert "Queries that changed most" in page
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    assert page.count("<svg") == 3
    assert "prefers-color-scheme: dark" in page


def test_runs_of_other_lists_are_one_paragraph_and_exit_code_2(folder):
    result = call("compare", folder / "films", folder / "short")
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "40 and 30 test lists")
    result = call("compare", folder / "films", "--model", "student")
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "`--model` must be one of popularity, baseline,")


def test_a_page_that_cannot_be_written_is_refused_before_the_comparison(
    folder, tmp_path
):
    for place in (tmp_path, tmp_path / "none" / "page.html"):
        result = call("compare", folder / "films", folder / NAME, "--html", place)
        assert result.exit_code == 2
        assert_is_one_paragraph(result, f"existing folder. Received: {place}")
    named = tmp_path / "page[new].html"
    result = call("compare", folder / "films", folder / NAME, "--html", named)
    assert result.stdout.rstrip().endswith(f"Page  {named}")


def test_runs_are_listed_one_line_each(folder):
    result = call("runs", folder)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 2 + 3
    (films,) = (line for line in lines if line.startswith("films  "))
    assert "48% [21%, 71%]" in films
    assert films.split()[-1] == "finished"
    assert len(json.loads(call("runs", folder, "--json").stdout)) == 3


def test_the_report_page_is_written_again(folder):
    target = folder / "films" / "report.html"
    result = call("report", folder / "films")
    assert result.stdout == f"{target}\n"
    assert "distillation closed 48%" in target.read_text(encoding="utf-8")
    assert_is_one_paragraph(call("report", folder / "none"), "does not exist")


def test_none_of_the_commands_needs_tensorflow(folder):
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from recdistill.cli.main import app\n"
        "films, other = sys.argv[1:]\n"
        "for arguments in (['compare', films, other, '--json'], ['runs', films],\n"
        "                  ['report', films], ['compare', '--help']):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0, arguments\n"
        "print({'tensorflow', 'keras'} & set(sys.modules))\n"
    )
    arguments = [sys.executable, "-c", script, folder / "films", folder / NAME]
    process = subprocess.run(arguments, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "set()\n"
