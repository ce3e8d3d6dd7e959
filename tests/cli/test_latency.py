"""`recdistill latency` and `recdistill serving-config`: measured calls and output."""

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from recdistill.atomic import write_sealed
from recdistill.cli.main import app
from recdistill.evaluation.latency import latency_tables as latency_report
from recdistill.evaluation.latency import saved_model_timing
from recdistill.evaluation.latency.saved_model_timing import ModelTimes, TimedCall
from recdistill.evaluation.latency.stopwatch import Latency, Throughput
from recdistill.pipeline.runs import latency_comparison
from recdistill.pipeline.variants import budgeted_run
from recdistill.serving.deploy import tuning
from recdistill.serving.deploy.batching_config import read_batching
from tests import small_pipelines

INPUT = {"dtype": "string", "shape": [None]}
IDS = {"dtype": "string", "shape": [None, None]}
SIGNATURES = {
    "recommend": {"inputs": {"user_id": INPUT, "exclude_ids": IDS}, "outputs": {}},
    "rank": {"inputs": {"user_id": INPUT, "candidate_ids": IDS}, "outputs": {}},
}


@pytest.fixture
def export(tmp_path):
    """The files of an export that the commands read; it has no real model."""
    version = tmp_path / "export" / "films" / "3"
    (version / "assets.extra").mkdir(parents=True)
    (version / "saved_model.pb").touch()
    manifest = {"name": "films", "signatures": SIGNATURES}
    write_sealed(version / "assets.extra" / "recdistill.json", manifest)
    return version.parent


@pytest.fixture
def asked(monkeypatch):
    """The timed calls; a fake timer measures 2 ms of processor time per row."""
    runs = []

    def time_model(model, calls, *, threads=1, **settings):
        calls = list(calls)
        runs.append({"calls": calls, "threads": threads, **settings})
        timed = [
            TimedCall(
                call,
                threads,
                Throughput(
                    Latency(call.rows, call.rows, call.rows + 1.0, 1.0, 1.0, 9),
                    1.0,
                    2.0 * call.rows,
                    None,
                ),
                12_528,
            )
            for call in calls
        ]
        return ModelTimes(model, 3_000_000, 5_000_000, 0.5, 1, tuple(timed))

    monkeypatch.setattr(saved_model_timing, "time_model", time_model)
    monkeypatch.setattr(tuning, "time_model", time_model)
    return runs


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_call_is_timed_for_every_number_of_threads(export, asked):
    done = run("latency", export, "--rows", 1, "--rows", 4, "--threads", 1,
               "--threads", 2, "--candidates", 50, "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert [each["threads"] for each in asked] == [1, 2]
    got = [(c.signature, c.rows, c.candidates) for c in asked[0]["calls"]]
    assert got == [
        ("recommend", 1, None),
        ("recommend", 4, None),
        ("rank", 1, 50),
        ("rank", 4, 50),
    ]
    calls = json.loads(done.stdout)["calls"]
    assert len(calls) == 8
    last = calls[-1]
    assert (last["signature"], last["threads"], last["latency_ms"]["p99"]) == (
        "rank",
        2,
        5.0,
    )
    # 8 ms of processor time.
    assert last["requests_per_core_second"] == pytest.approx(125)
    assert last["cost_per_million_requests"] == pytest.approx(8e3 / 3600 * 0.04)


def test_a_pipeline_is_measured_with_the_student_that_run_exports(
    tmp_path, export, asked, monkeypatch
):
    chosen, compared = object(), []
    exported = SimpleNamespace(record={"path": str(export / "3")})
    monkeypatch.setattr(budgeted_run, "run_to_export", lambda *_: (chosen, exported))
    monkeypatch.setattr(
        latency_comparison, "time_side_by_side", lambda *a: compared.append(a) or []
    )
    config = small_pipelines.write_config(tmp_path)
    done = run("latency", config, "--set", "export.budget=p99<=2ms", "--candidates", 7)
    assert done.exit_code == 0, done.output
    assert compared == [(chosen, [7])]


def test_the_price_of_a_core_is_an_option(export, asked):
    done = run("latency", export, "--core-price", 0.4, "--threads", 1, "--json")
    result = json.loads(done.stdout)
    assert result["core_price_per_hour"] == 0.4
    assert result["calls"][0]["cost_per_million_requests"] == pytest.approx(
        2e3 / 3600 * 0.4
    )


def test_the_table_fits_a_terminal_and_has_the_reason_for_missing_joules(
    export, asked, monkeypatch
):
    monkeypatch.setattr(latency_report, "why_no_energy", lambda: "no counter here")
    done = run("latency", export, "--threads", 1)
    assert done.exit_code == 0, done.output
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "rank 8 x 1,000" in done.stdout
    assert "12.5k" in done.stdout
    assert "Energy was not measured: no counter here" in done.stdout
    assert "…" not in done.stdout


def test_an_unknown_signature_is_named_with_the_known_ones(export, asked):
    done = run("latency", export, "--signature", "rnak")
    assert done.exit_code == 2
    assert "'rnak'" in done.stderr and "'rank'" in done.stderr


def test_folder_without_a_model_is_bad_input(tmp_path):
    done = run("latency", tmp_path)
    assert done.exit_code == 2
    assert "numbered versions" in done.stderr


def test_serving_config_writes_its_files_with_reasons(export, asked, tmp_path):
    out = tmp_path / "config"
    done = run("serving-config", export, "--out", out, "--threads", 2)
    assert done.exit_code == 0, done.output
    assert read_batching(out / "batching.config").num_batch_threads == 2
    assert "max_batch_size" in done.stdout
    assert "models.config" in done.stdout


def test_serving_config_as_json_has_numbers_and_reasons(export, asked, tmp_path):
    done = run("serving-config", export, "--out", tmp_path / "c", "--json")
    result = json.loads(done.stdout)
    assert result["batching"]["max_batch_size"] == 1  # a row takes 1 ms, alone or not
    assert set(result["why"]) == set(result["batching"])
    assert len(result["files"]) == 4


def test_a_budget_below_every_measured_time_is_bad_input(export, asked, tmp_path):
    done = run("serving-config", export, "--out", tmp_path, "--budget-ms", 1)
    assert done.exit_code == 2
    assert "budget_ms=1" in done.stderr
