"""`recdistill.run`: a pipeline from Python, on files or on DataFrames."""

import copy
import tomllib

import pandas as pd
import pytest

import recdistill
from recdistill.data import synthetic
from recdistill.errors import ConfigError, DataError, GateError
from recdistill.export import publishing
from tests import small_pipelines
from tests.cli.command_line import call, in_folder

pytestmark = pytest.mark.slow

COLUMNS = {"query": "who", "item": "what", "time": "when"}


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Skips the parity check in a fresh process; the tests of the export include it."""
    monkeypatch.setattr(publishing, "check_parity", small_pipelines.no_parity_check)


@pytest.fixture(scope="module")
def frames():
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


@pytest.fixture
def document(tmp_path):
    """A configuration as nested dicts, without a source of data."""
    found = tomllib.loads(small_pipelines.CONFIG)
    found["query"] = {
        "history": {"kind": "history", "length": 8},
        "segment": {"kind": "category"},
    }
    found["candidate"] = {"what": {"kind": "id"}, "price": {"kind": "number"}}
    found["teacher"] = {"kind": "linear", "l2": 20.0}
    found["workdir"] = str(tmp_path / "runs")
    found["export"]["path"] = str(tmp_path / "export")
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


def test_a_file_gives_the_report_of_the_command_line(tiny_run):
    arguments = in_folder(tiny_run.folder)
    path = arguments[0]
    document = tomllib.loads(path.read_text())
    document["workdir"] = str(tiny_run.folder / "runs")
    document["export"]["path"] = str(tiny_run.folder / "export")
    assert recdistill.run(document) == tiny_run.report
    assert recdistill.run(small_pipelines.load(tiny_run.folder)) == tiny_run.report


def test_frames_give_the_metrics_of_the_same_tables_in_files(
    document, frames, tmp_path
):
    calls = []
    from_frames = recdistill.run(
        document, tables=frames, progress=lambda *call: calls.append(call)
    )
    assert {"Writing lists", "Distilling"} <= {activity for activity, *_ in calls}
    files = on_files(document, frames, tmp_path / "data")
    files |= {"workdir": str(tmp_path / "other"), "name": "files"}
    from_files = recdistill.run(files)
    assert metrics(from_frames) == metrics(from_files)
    assert from_frames.dataset.lists == from_files.dataset.lists
    config = from_frames.config["dataset"]
    assert (config["reader"], config["columns"]) == ("frames", COLUMNS)
    _equal_frames_reuse_the_artefacts_and_others_do_not(document, frames, tmp_path)


def _equal_frames_reuse_the_artefacts_and_others_do_not(document, frames, tmp_path):
    before = sorted((tmp_path / "runs" / "tiny").glob("prepare-*"))
    recdistill.run(document, tables=copy.deepcopy(frames))
    assert sorted((tmp_path / "runs" / "tiny").glob("prepare-*")) == before
    fewer = {**frames, "interactions": frames["interactions"].iloc[:-7]}
    recdistill.run(document, tables=fewer)
    assert len(list((tmp_path / "runs" / "tiny").glob("prepare-*"))) == 2


def test_frames_replace_the_files_of_a_config(document, frames, tmp_path):
    config = recdistill.pipeline.config.parse_config(
        on_files(document, frames, tmp_path / "data")
    )
    (tmp_path / "data" / "interactions.parquet").unlink()
    report = recdistill.run(config, tables=frames)
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
