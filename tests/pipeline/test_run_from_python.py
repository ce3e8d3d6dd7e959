"""`recdistill.run`: a pipeline from Python, on files or on DataFrames."""

import copy
import tomllib
from pathlib import Path

import pandas as pd
import pytest

import recdistill
from recdistill.data import synthetic
from recdistill.errors import ConfigError, DataError, GateError
from recdistill.export import publishing
from recdistill.pipeline import run_from_python
from recdistill.pipeline.config import parse_config
from recdistill.pipeline.steps import STEPS
from tests import small_pipelines
from tests.cli.command_line import call, in_folder

pytestmark = pytest.mark.slow

COLUMNS = {"query": "who", "item": "what", "time": "when"}


@pytest.fixture(scope="module", autouse=True)
def unchecked():
    """Skips the parity check in a fresh process; the tests of the export include it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "check_parity", small_pipelines.no_parity_check)
        yield


@pytest.fixture(scope="module")
def frames():
    return small_tables()


def small_tables():
    """The tables of a small data set, with their own column names."""
    data = synthetic(n_queries=120, n_items=40, n_interactions=1_500, seed=2)
    names = {"user_id": "who", "item_id": "what", "timestamp": "when"}
    interactions = pd.concat(batch.to_pandas() for batch in data.interactions())
    tables = {
        "interactions": interactions,
        "items": data.items.to_pandas(),
        "queries": data.queries.to_pandas(),
    }
    return {name: table.rename(columns=names) for name, table in tables.items()}


@pytest.fixture(scope="module")
def from_frames(frames, unchecked, tmp_path_factory):
    """A run on DataFrames: its configuration, its report and its activities."""
    document, activities = document_in(tmp_path_factory.mktemp("frames")), set()
    report = recdistill.run(
        document, tables=frames, progress=lambda *call: activities.add(call[0])
    )
    return document, report, activities


@pytest.fixture
def document(tmp_path):
    return document_in(tmp_path)


def document_in(folder):
    """A configuration as nested dicts, without a source of data."""
    found = tomllib.loads(small_pipelines.CONFIG)
    found["query"] = {
        "history": {"kind": "history", "length": 8},
        "segment": {"kind": "category"},
    }
    found["candidate"] = {"what": {"kind": "id"}, "price": {"kind": "number"}}
    found["teacher"] = {"kind": "linear", "l2": 20.0}
    found["workdir"] = str(folder / "runs")
    found["export"]["path"] = str(folder / "export")
    found["dataset"] = {"columns": COLUMNS}
    return found


def on_files(document, frames, folder):
    """The same configuration, with the tables in a folder."""
    folder.mkdir()
    for name, table in frames.items():
        table.to_parquet(folder / f"{name}.parquet")
    dataset = {"reader": "tables", "path": str(folder), "columns": COLUMNS}
    return {**document, "dataset": dataset}


def metrics(report):
    return {name: model.metrics for name, model in report.models.items()}


@pytest.mark.parametrize("parsed", [False, True])
def test_frames_keep_the_settings_that_are_not_about_files(
    document, monkeypatch, parsed
):
    document["dataset"] = {
        "reader": "tables",
        "path": "/data/shop",
        "delimiter": ",",
        "columns": COLUMNS,
        "keep": "stars >= 4",
        "time_format": "%d/%m/%Y",
        "licence": "CC0",
        "interactions": {"file": "log.csv", "columns": ["a"], "types": {"a": "text"}},
        "items": {"file": "films"},
    }
    used = []
    monkeypatch.setattr(
        run_from_python, "_run", lambda config, tables, progress: used.append(config)
    )
    given = parse_config(document) if parsed else document
    recdistill.run(given, tables={})
    [config] = used
    assert config.dataset.model_dump(exclude_defaults=True) == {
        "reader": "frames",
        "columns": COLUMNS,
        "keep": "stars >= 4",
        "time_format": "%d/%m/%Y",
        "licence": "CC0",
        "interactions": {"types": {"a": "text"}},
    }


def test_a_section_that_is_no_table_is_an_error(document):
    with pytest.raises(ConfigError, match="dataset"):
        recdistill.run({**document, "dataset": "x"}, tables={})


def test_a_file_gives_the_report_of_the_command_line(tiny_run):
    arguments = in_folder(tiny_run.folder)
    path = arguments[0]
    document = tomllib.loads(path.read_text())
    document["workdir"] = str(tiny_run.folder / "runs")
    document["export"]["path"] = str(tiny_run.folder / "export")
    assert recdistill.run(document) == tiny_run.report
    assert recdistill.run(small_pipelines.load(tiny_run.folder)) == tiny_run.report


def test_a_budget_compares_students_as_the_command_does(tiny_run, monkeypatch):
    compared = []

    def within(pipeline):
        compared.append(pipeline.config.export.budget)
        return pipeline, tiny_run.artefacts["export"]

    monkeypatch.setattr(run_from_python, "run_to_export", within)
    config = small_pipelines.load(tiny_run.folder, "export.budget=bytes<=1GB")
    assert recdistill.run(config) == tiny_run.report
    assert compared == ["bytes<=1GB"]


def test_frames_give_the_metrics_of_the_same_tables_in_files(
    from_frames, document, frames, tmp_path
):
    _, report, activities = from_frames
    assert {"Writing lists", "Distilling"} <= activities
    from_files = recdistill.run(on_files(document, frames, tmp_path / "data"))
    assert metrics(report) == metrics(from_files)
    assert report.dataset.lists == from_files.dataset.lists
    config = report.config["dataset"]
    assert (config["reader"], config["columns"]) == ("frames", COLUMNS)


def test_equal_frames_reuse_the_artefacts_and_others_do_not(
    from_frames, frames, monkeypatch
):
    class Stop(Exception):
        pass

    def stop(*_, **__):
        raise Stop

    document, report, _ = from_frames
    runs = Path(document["workdir"]) / "tiny"
    for step in STEPS.values():
        if step.name != "prepare":
            monkeypatch.setattr(type(step), "work", stop)
    before = sorted(runs.glob("prepare-*"))
    assert recdistill.run(document, tables=copy.deepcopy(frames)) == report
    assert sorted(runs.glob("prepare-*")) == before
    fewer = {**frames, "interactions": frames["interactions"].iloc[:-7]}
    with pytest.raises(Stop):
        recdistill.run(document, tables=fewer)
    assert len(list(runs.glob("prepare-*"))) == 2


def test_frames_replace_the_files_of_a_config(from_frames, frames, tmp_path):
    document, report, _ = from_frames
    files = on_files(document, frames, tmp_path / "data")
    (tmp_path / "data" / "interactions.parquet").unlink()
    config = recdistill.pipeline.config.parse_config(files)
    assert recdistill.run(config, tables=frames) == report
    assert report.dataset.interactions == 1_500


class TestErrors:
    def test_a_misspelt_key_is_a_config_error(self, document):
        document["student"]["dims"] = 3
        with pytest.raises(ConfigError, match="did you mean `dim`"):
            recdistill.run(document)

    def test_a_file_that_does_not_exist_is_a_config_error(self, tmp_path):
        with pytest.raises(ConfigError, match="Cannot read the configuration"):
            recdistill.run(tmp_path / "no.toml")

    def test_bad_rows_are_a_data_error(self, document, frames):
        bad = frames["interactions"].assign(when=None)
        with pytest.raises(DataError, match="when"):
            recdistill.run(document, tables={**frames, "interactions": bad})

    def test_a_bad_teacher_is_a_gate_error(self, document, frames):
        document["distill"]["gate"] = "stop"
        document["evaluate"]["bootstrap"] = 50
        document["teacher"] = {"kind": "linear", "l2": 1e9, "floor": 0.0, "decay": 1e-3}
        with pytest.raises(GateError, match="does not beat"):
            recdistill.run(document, tables=frames)

    def test_the_reader_frames_requires_tables(self, document):
        document["dataset"] = {"reader": "frames"}
        with pytest.raises(ConfigError, match="requires DataFrames: pass `tables`"):
            recdistill.run(document)

    def test_frames_have_no_path(self, document):
        document["dataset"] = {"reader": "frames", "path": "data"}
        with pytest.raises(ConfigError, match="`path` must not be given for reader"):
            recdistill.run(document)

    def test_the_command_line_cannot_pass_frames(self, tmp_path):
        override = "dataset={reader='frames'}"
        result = call("prepare", *in_folder(tmp_path), "--set", override)
        assert result.exit_code == 2
        assert "requires DataFrames" in result.stderr
