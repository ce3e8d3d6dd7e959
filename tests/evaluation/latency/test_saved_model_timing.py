"""timing and sweep: one model asked in a fresh process, the rest on made-up times."""

import shutil

import pytest

from recdistill.errors import NotAnExportError, TimingError
from recdistill.evaluation.latency.saved_model_timing import (
    Call,
    ModelTimes,
    TimedCall,
    time_model,
)
from recdistill.evaluation.latency.stopwatch import Latency, Throughput
from recdistill.export.layout import WARM_UP, read_manifest
from recdistill.serving.deploy import tuning as sweeping
from recdistill.serving.deploy.batching_config import CallTime, read_batching
from recdistill.serving.deploy.models_config import read_models
from recdistill.serving.deploy.tuning import explain, sweep, write_configuration


def load(p50, p99=None, cpu_ms=1.0):
    p99 = p50 if p99 is None else p99
    return Throughput(Latency(p50, p50, p99, p50, p50, 9), 1.0, cpu_ms, None)


def times_of(calls, threads=1, **changes):
    settings = {"size_bytes": 1, "memory_bytes": 1, "load_s": 1.0, "warm_up_rows": 2}
    timed = tuple(TimedCall(call, threads, how, None) for call, how in calls)
    model = {"path": changes.pop("path"), "counted": "", "calls": timed}
    return ModelTimes(**{**settings, **model, **changes})


@pytest.fixture(scope="module")
def timed(exported):
    calls = [Call("encode_query"), Call("recommend", 8), Call("rank", 2, 70)]
    return time_model(
        exported / "1", calls, threads=1, workers=2, seconds=1e-3, flops=True
    )


def test_calls_are_answered_in_a_fresh_process_in_their_order(timed):
    got = [(each.call.signature, each.call.rows) for each in timed.calls]
    assert got == [("encode_query", 1), ("recommend", 8), ("rank", 2)]
    assert all(each.throughput.latency.n >= 2 for each in timed.calls)
    assert all(each.throughput.cpu_ms > 0 for each in timed.calls)


def test_warm_up_and_size_are_those_of_the_files(timed, exported):
    files = [p for p in (exported / "1").rglob("*") if p.is_file()]
    assert timed.size_bytes == sum(p.stat().st_size for p in files)
    assert timed.warm_up_rows >= 8
    assert timed.memory_bytes > 0


def test_operations_are_those_of_the_batch_and_its_candidates(timed, exported):
    manifest = read_manifest(exported / "1")
    dim, items = manifest["dim"], manifest["items"]
    query, recommended, ranked = (each.flops for each in timed.calls)
    assert query > 0
    assert ranked == 2 * (query + 2 * 70 * dim)
    # Exact retrieval scores the whole catalogue.
    assert recommended == 8 * (query + 2 * items * dim)


def test_cost_and_rate_derived_by_hand(tmp_path):
    # 7.2 ms of processor time: 500 in 3.6 s, a million in two hours.
    call = TimedCall(Call("rank"), 1, load(1.0, cpu_ms=7.2), None)
    assert call.per_core_second == pytest.approx(1000 / 7.2)
    assert call.cost_per_million(0.04) == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("calls", "changes", "message"),
    [
        ([], {}, "`calls` must have at least one"),
        ([Call("rank", 0)], {}, "rows=0"),
        ([Call("rank", 1, 0)], {}, "candidates=0"),
        ([Call("rank")], {"seconds": 0}, "seconds=0"),
        ([Call("rank")], {"threads": 0}, "threads=0"),
        ([Call("rank")], {"workers": 0}, "workers=0"),
    ],
)
def test_settings_out_of_range_are_named(exported, calls, changes, message):
    with pytest.raises(TimingError, match=message):
        time_model(exported / "1", calls, **changes)


def test_model_without_real_rows_cannot_be_timed(exported, tmp_path):
    shutil.copytree(exported / "1", tmp_path / "1")
    (tmp_path / "1" / WARM_UP).unlink()
    with pytest.raises(TimingError, match=r"warm-up requests.*Received"):
        time_model(tmp_path / "1", [Call("rank")])


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

    monkeypatch.setattr(sweeping, "time_model", measured)
    done = sweep(exported / "1", budget_ms=20.0, threads=3)
    return done, asked


def test_sweep_keeps_as_many_callers_busy_as_the_batcher_will_have(swept):
    done, asked = swept
    assert (asked["workers"], asked["threads"]) == (3, 1)
    assert done.choice.batching.num_batch_threads == 3
    assert {c.signature for c in asked["calls"]} == set(sweeping.ONLINE)
    assert {c.candidates for c in asked["calls"] if c.signature == "rank"} == {100}


def test_sweep_goes_by_the_slowest_signature(swept):
    done, _ = swept
    assert done.slowest[4] == CallTime(pytest.approx(1.4), pytest.approx(2.8))
    # 2 * (2 + 0.2 * 32) is within 20 ms, with 64 rows it is not.
    assert done.choice.batching.max_batch_size == 32


def test_sweep_of_signatures_that_are_not_there_is_refused(exported):
    with pytest.raises(TimingError, match=r"rank.*signatures=\['rnak'\]"):
        sweep(exported / "1", budget_ms=10, threads=1, signatures=["rnak"])


def test_model_that_is_no_export_of_ours_is_refused(tmp_path):
    with pytest.raises(NotAnExportError, match="must be an export of recdistill"):
        sweep(tmp_path, budget_ms=10, threads=1)


def test_four_files_are_written_and_belong_together(swept, tmp_path):
    done, _ = swept
    paths = write_configuration(
        done, tmp_path / "config", models="/srv", config="/etc/c"
    )
    names = ["models.config", "batching.config", "monitoring.config", "model_server.sh"]
    assert [path.name for path in paths] == names
    assert read_models(paths[0])["films"].base_path == "/srv/films"
    assert read_batching(paths[1]) == done.choice.batching
    command = paths[3].read_text()
    assert "--batching_parameters_file=/etc/c/batching.config" in command
    assert "--tensorflow_inter_op_parallelism=3" in command
    assert paths[3].stat().st_mode & 0o111


def test_labels_that_are_there_survive_another_sweep(swept, tmp_path):
    done, _ = swept
    path = write_configuration(done, tmp_path)[0]
    read_models(path).with_label("films", "stable", 1).write(path)
    write_configuration(done, tmp_path, models="/elsewhere")
    assert read_models(path)["films"].labels == {"stable": 1}


def test_reasons_stand_above_the_parameters_in_short_lines(swept):
    done, _ = swept
    lines = explain(done)
    assert all(len(line) <= 76 for line in lines)
    for name in vars(done.choice.batching):
        assert any(line.startswith(name) for line in lines)
