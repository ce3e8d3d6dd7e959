"""tuning: batching parameters and files from made-up times."""

import re
import shutil

import pytest
from rich.console import Console

from recdistill.errors import NotAnExportError, TimingError
from recdistill.evaluation.latency.saved_model_timing import ModelTimes, TimedCall
from recdistill.evaluation.latency.stopwatch import Latency, Throughput
from recdistill.serving.deploy import tuning
from recdistill.serving.deploy.batching_config import CallTime, read_batching
from recdistill.serving.deploy.models_config import read_models
from recdistill.serving.deploy.tuning import (
    explain,
    render_sweep,
    sweep,
    write_configuration,
)

pytestmark = pytest.mark.slow


def load(p50, p99=None, cpu_ms=1.0):
    p99 = p50 if p99 is None else p99
    return Throughput(Latency(p50, p50, p99, p50, p50, 9), 1.0, cpu_ms, None)


def times_of(calls, threads=1, **changes):
    settings = {"size_bytes": 1, "memory_bytes": 1, "load_s": 1.0, "warm_up_rows": 2}
    timed = tuple(TimedCall(call, threads, how, None) for call, how in calls)
    model = {"path": changes.pop("path"), "calls": timed}
    return ModelTimes(**{**settings, **model, **changes})


@pytest.fixture
def swept(exported, monkeypatch):
    """A sweep whose times are made up: `rank` is the slowest but for one row."""
    asked = {}

    def measured(model, calls, **settings):
        asked.update(settings, calls=list(calls))
        slow = {"rank": 0.1, "recommend": 0.05}
        return times_of(
            [
                (c, load(1.0 + slow.get(c.signature, 0) * c.rows, 2.0 + 0.2 * c.rows))
                for c in asked["calls"]
            ],
            path=model,
        )

    monkeypatch.setattr(tuning, "time_model", measured)
    done = sweep(exported / "1", budget_ms=20.0, threads=3)
    return done, asked


@pytest.mark.slow
def test_as_many_callers_as_batching_threads_are_busy(swept):
    done, asked = swept
    assert (asked["workers"], asked["threads"]) == (3, 1)
    assert done.choice.batching.num_batch_threads == 3
    assert {c.signature for c in asked["calls"]} == set(tuning.ONLINE)
    assert {c.candidates for c in asked["calls"] if c.signature == "rank"} == {100}


def test_the_slowest_signature_decides(swept):
    done, _ = swept
    assert done.slowest[4] == CallTime(pytest.approx(1.4), pytest.approx(2.8))
    # 2 * (2 + 0.2 * 32) is within 20 ms, with 64 rows it is not.
    assert done.choice.batching.max_batch_size == 32


@pytest.mark.parametrize("given", [["rnak"], ["rank", "rnak"], []])
def test_unknown_signatures_are_refused(exported, given):
    with pytest.raises(TimingError, match=r"some of.*rank.*signatures=\["):
        sweep(exported / "1", budget_ms=10, threads=1, signatures=given)


def test_the_model_has_the_name_of_its_folder(exported, tmp_path, monkeypatch):
    copied = tmp_path / "films_copy"
    shutil.copytree(exported / "1", copied / "1")
    monkeypatch.setattr(
        tuning,
        "time_model",
        lambda model, calls, **_: times_of(
            [(each, load(1.0, 2.0)) for each in calls], path=model
        ),
    )
    assert sweep(copied / "1", budget_ms=20.0, threads=1).name == "films_copy"
    (tmp_path / "movies").symlink_to(copied)
    linked = sweep(tmp_path / "movies" / "1", budget_ms=20.0, threads=1)
    assert linked.name == "movies"


def test_a_model_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(NotAnExportError, match="must be an export of recdistill"):
        sweep(tmp_path, budget_ms=10, threads=1)


def test_the_four_files_refer_to_each_other(swept, tmp_path):
    done, _ = swept
    paths = write_configuration(
        done, tmp_path / "config", models="/srv", config="/etc/c"
    )
    names = ["models.config", "batching.config", "monitoring.config", "model_server.sh"]
    assert [path.name for path in paths] == names
    assert read_models(paths[0])["films"].base_path == "/srv/films"
    assert read_batching(paths[1]) == done.choice.batching
    command = paths[3].read_text()
    assert "--model_config_file=/etc/c/models.config" in command
    assert "--tensorflow_inter_op_parallelism=3" in command
    assert paths[3].stat().st_mode & 0o111


def test_batching_is_enabled_for_trusted_clients_only(swept, tmp_path):
    done, _ = swept
    flag = "--batching_parameters_file=/config/batching.config"
    for trusted in (False, True):
        paths = write_configuration(done, tmp_path, trusted_clients=trusted)
        assert paths[1].read_text().startswith("# Trusted clients only. ")
        command = paths[3].read_text()
        assert (flag in command, "--enable_batching" in command) == (trusted, trusted)


def test_the_files_have_no_option_with_which_a_request_without_rows_ends_the_server(
    swept, tmp_path
):
    paths = write_configuration(swept[0], tmp_path)
    assert read_batching(paths[1]).allowed_batch_sizes == ()


def test_existing_labels_are_kept(swept, tmp_path):
    done, _ = swept
    path = write_configuration(done, tmp_path)[0]
    read_models(path).with_label("films", "stable", 1).write(path)
    write_configuration(done, tmp_path, models="/elsewhere")
    assert read_models(path)["films"].labels == {"stable": 1}


def test_reasons_are_written_in_short_lines(swept):
    done, _ = swept
    lines = explain(done)
    assert all(len(line) <= 76 for line in lines)
    for name in vars(done.choice.batching):
        assert any(line.startswith(name) for line in lines)


def test_the_table_has_every_size_and_every_parameter_with_its_reason(swept):
    done, _ = swept
    console = Console(width=100)
    with console.capture() as captured:
        console.print(render_sweep(done, trusted_clients=False))
    text = captured.get()
    sizes = re.findall(r"^ *(\d+) +[\d.]+ ", text, re.MULTILINE)
    assert sizes == [str(size) for size in tuning.SIZES]
    assert all(name in text for name in vars(done.choice.batching))
    assert "exceeds the budget" not in text
    assert "--trusted-clients" in text


def test_a_full_batch_over_the_budget_is_reported(exported, monkeypatch, swept):
    """The warm-up requests have more rows than the budget allows."""
    monkeypatch.setattr(tuning, "time_model", slow_model)
    done = sweep(exported / "1", budget_ms=10.0, threads=1)
    assert not done.choice.holds_budget
    assert "A FULL BATCH EXCEEDS THE BUDGET" in " ".join(explain(done))


def slow_model(model, calls, **settings):
    """Calls whose p99 is 6 ms, of a model whose warm-up requests have 8 rows."""
    return times_of([(call, load(6.0)) for call in calls], path=model, warm_up_rows=8)
