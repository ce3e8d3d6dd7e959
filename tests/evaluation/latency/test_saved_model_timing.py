"""saved_model_timing: calls of an export, made in a fresh process."""

import shutil

import pytest

from recdistill.errors import TimingError
from recdistill.evaluation.latency.saved_model_timing import (
    Call,
    TimedCall,
    time_model,
)
from recdistill.evaluation.latency.stopwatch import Latency, Throughput
from recdistill.export.layout import WARM_UP, read_manifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def timed(exported):
    calls = [Call("encode_query"), Call("recommend", 8), Call("rank", 2, 70)]
    return time_model(
        exported / "1", calls, threads=1, workers=2, seconds=1e-3, flops=True
    )


def test_calls_are_timed_in_their_order(timed):
    got = [(each.call.signature, each.call.rows) for each in timed.calls]
    assert got == [("encode_query", 1), ("recommend", 8), ("rank", 2)]
    assert all(each.throughput.latency.n >= 2 for each in timed.calls)
    assert all(each.throughput.cpu_ms > 0 for each in timed.calls)


def test_size_and_warm_up_rows_are_those_of_the_files(timed, exported):
    files = [p for p in (exported / "1").rglob("*") if p.is_file()]
    assert timed.size_bytes == sum(p.stat().st_size for p in files)
    assert timed.warm_up_rows >= 8
    assert timed.memory_bytes > 0


def test_flops_grow_with_the_batch_and_the_candidates(timed, exported):
    manifest = read_manifest(exported / "1")
    dim, items = manifest["dim"], manifest["items"]
    query, recommended, ranked = (each.flops for each in timed.calls)
    assert query > 0
    assert ranked == 2 * (query + 2 * 70 * dim)
    # Exact retrieval scores the whole catalogue.
    assert recommended == 8 * (query + 2 * items * dim)


def test_cost_and_requests_per_core_second_are_derived_from_processor_time(tmp_path):
    # 7.2 ms of processor time: 500 in 3.6 s, a million in two hours.
    call = TimedCall(
        Call("rank"), 1, Throughput(Latency(1, 1, 1, 1, 1, 9), 1.0, 7.2, None), None
    )
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
def test_a_setting_out_of_range_is_refused(exported, calls, changes, message):
    with pytest.raises(TimingError, match=message):
        time_model(exported / "1", calls, **changes)


def test_a_model_without_warm_up_requests_is_refused(exported, tmp_path):
    shutil.copytree(exported / "1", tmp_path / "1")
    (tmp_path / "1" / WARM_UP).unlink()
    with pytest.raises(TimingError, match=r"warm-up requests.*Received"):
        time_model(tmp_path / "1", [Call("rank")])
