"""`recdistill init`: proposes a configuration for a folder of data."""

import json
import subprocess
import sys

import pytest

from recdistill.pipeline.config import load_config
from tests.cli.command_line import assert_is_one_paragraph, call
from tests.pipeline.proposal import layouts


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder with tables, in the current directory."""
    monkeypatch.chdir(tmp_path)
    layouts.shop(tmp_path / "shop")
    return "shop"


def test_the_file_is_written_and_the_columns_are_shown_with_reasons(shop, tmp_path):
    result = call("init", shop)
    assert result.exit_code == 0
    assert "✓ Wrote shop.toml." in result.stdout
    assert "interactions: orders.csv · 90 rows · 15 queries · 10 items" in result.stdout
    assert "items: products.csv · 10 rows" in result.stdout
    config = load_config(tmp_path / "shop.toml")
    assert (config.name, str(config.dataset.path)) == ("shop", "shop")
    text = (tmp_path / "shop.toml").read_text()
    assert "# ordered_at: named like a time; 2023-11-14 to 2023-11-20." in text
    assert "#   uuid: identifies the row: every value is different." in text


def test_an_existing_file_is_replaced_with_force_only(shop, tmp_path):
    (tmp_path / "shop.toml").write_text("mine")
    result = call("init", shop)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "shop.toml exists already. Choose another file")
    assert (tmp_path / "shop.toml").read_text() == "mine"
    assert call("init", shop, "--force").exit_code == 0
    assert "shop.toml" in (tmp_path / "shop.toml").read_text()


def test_the_findings_are_json_on_request(shop):
    result = json.loads(call("init", shop, "--json", "--name", "s2").stdout)
    assert result["file"] == "s2.toml"
    assert result["roles"] == {
        "query": "customer_id",
        "item": "sku",
        "time": "ordered_at",
    }
    assert result["dates"] == ["2023-11-14", "2023-11-20"]
    orders = result["tables"]["interactions"]
    assert (orders["rows"], orders["rows_estimated"]) == (90, False)
    by_name = {each["name"]: each for each in orders["columns"]}
    assert by_name["store"]["use"] == "category"
    assert by_name["row"]["use"] is None


def test_without_a_terminal_a_question_is_one_paragraph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["who,what,when", *(f"u{u},i{i},{t}" for u, i, t in layouts.rows())]
    layouts.write(tmp_path / "log" / "log.csv", lines)
    result = call("init", "log", "--yes")
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "log.csv has no column whose name is known for")
    assert "who (u0, u1, u2); what (" in result.stderr
    assert "Answer with `--column query=NAME`." in result.stderr
    assert "Also needed: `--column item=NAME`." in result.stderr
    assert not (tmp_path / "log.toml").exists()
    columns = ("--column", "query=who", "--column", "item=what")
    found = call("init", "log", *columns)
    assert found.exit_code == 0
    spaced = call("init", "log", *columns, "--out", "my run.toml")
    assert "Run it:  recdistill run 'my run.toml'" in spaced.stdout
    config = load_config(tmp_path / "log.toml")
    assert config.dataset.columns == {"query": "who", "item": "what", "time": "when"}


def test_questions_are_asked_in_a_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layouts.events(tmp_path / "events")
    result = call("init", "events")
    assert_is_one_paragraph(result, "several kinds of events in the column `event`")
    monkeypatch.setattr("recdistill.cli.init.has_terminal", lambda: True)
    answers = iter(["3"])
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(answers))
    assert call("init", "events").exit_code == 0
    assert load_config(tmp_path / "events.toml").dataset.keep == "event == 'purchase'"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--column", "user=x"], "`--column` must be KEY=VALUE with one of the keys"),
        (["--column", "query=x"], "`--column query=x` must name a column of orders"),
        (["--table", "items=x"], "`--table items=x` must name a table of shop. Its"),
        (["--keep", "x > 3"], "`--keep` must use columns of orders.csv. Received: 'x'"),
        (["--keep", "discount > 9"], "no row of the sample fulfils discount > 9"),
        (["--name", "1"], "`name` must match pattern"),
        (["--out", "shop"], "shop exists already. Choose another file"),
        (["--out", "no/such/folder.toml"], "no/such"),
    ],
)
def test_bad_options_are_one_paragraph(shop, tmp_path, arguments, said):
    result = call("init", shop, *arguments)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, said)
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no table. Required: CSV"),
        ({"notes.md": "hello"}, "The folder contains: notes.md"),
        ({"interactions.csv": "user_id,item_id,timestamp\n"}, "at least one row"),
        ({"interactions.csv": ""}, "interactions.csv"),
        ({"interactions.json": "{'user_id': 1}\n"}, "must be a JSON object"),
    ],
)
def test_folders_without_usable_data_are_one_paragraph(
    tmp_path, monkeypatch, files, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name, text in files.items():
        (tmp_path / "data" / name).write_text(text)
    result = call("init", "data")
    assert result.exit_code == 2, result.output
    assert_is_one_paragraph(result, said)


def test_it_needs_no_tensorflow(shop):
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from recdistill.cli.main import app\n"
        "assert CliRunner().invoke(app, ['init', 'shop']).exit_code == 0\n"
        "print(sorted({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert (process.stdout, process.stderr) == ("[]\n", "")
