"""latency_tables: figures of made-up times as tables and as JSON."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from recdistill.evaluation.latency import latency_tables
from recdistill.evaluation.latency.latency_tables import (
    RankingTime,
    latency_json,
    render_latency,
)
from recdistill.evaluation.latency.saved_model_timing import (
    Call,
    ModelTimes,
    TimedCall,
)
from recdistill.evaluation.latency.stopwatch import Latency, Throughput

MS = Latency(p50=1.5, p90=2.0, p99=4.25, mean=1.75, min=1.0, n=200)


@pytest.fixture(autouse=True)
def no_counter(monkeypatch):
    """The tables are those of a machine without energy counters."""
    monkeypatch.setattr(latency_tables, "why_no_energy", lambda: "no counter")


def times(threads=1, joules=None, flops=12_528):
    """Times of `rank` for two rows of 1,000 candidates; a call costs 3.6 ms of CPU."""
    call = Call("rank", 2, 1000)
    timed = TimedCall(call, threads, Throughput(MS, 500.0, 3.6, joules), flops)
    return ModelTimes(Path("films/3"), 3_000_000, None, 0.5, 8, (timed,))


PAIR = [
    RankingTime("teacher", 1000, MS, 1.0, 2_000_000_000, 5_000, 20_000_000),
    RankingTime("student", 1000, MS, 12.34, None, None, None),
]


def shown(*arguments):
    console = Console(width=80)
    with console.capture() as captured:
        console.print(render_latency(*arguments))
    assert max(map(len, captured.get().splitlines())) <= 80
    assert "…" not in captured.get()
    return " ".join(captured.get().split())


def test_json_has_cost_and_requests_per_core_second():
    """A million calls of 3.6 ms are one core-hour; a core makes 277.8 a second."""
    content = latency_json([times()], 0.04, [])
    (call,) = content["calls"]
    assert call["cost_per_million_requests"] == pytest.approx(0.04)
    assert call["requests_per_core_second"] == pytest.approx(1000 / 3.6)
    assert call["latency_ms"]["p99"] == 4.25
    assert (call["signature"], call["rows"], call["candidates"]) == ("rank", 2, 1000)


def test_json_has_one_entry_for_each_number_of_threads():
    content = latency_json([times(1), times(2)], 0.04, [])
    assert [call["threads"] for call in content["calls"]] == [1, 2]
    assert (content["size_bytes"], content["memory_bytes"]) == (3_000_000, None)


def test_json_can_be_written_and_has_teacher_and_student():
    content = json.loads(json.dumps(latency_json([times()], 0.04, PAIR)))
    teacher, student = content["side_by_side"]
    assert (teacher["model"], teacher["speedup"]) == ("teacher", 1.0)
    assert (student["flops"], student["latency"]["p50"]) == (None, 1.5)


@pytest.mark.parametrize(
    "part",
    [
        "films/3, in a separate process",
        "rank 2 x 1,000",
        "1.5 2 4.25",
        "278",
        "12.5k",
        "3.0 MB on disk, - in memory, loaded in 0.50 s",
        "0.04 per core-hour",
        "Energy was not measured: no counter.",
    ],
)
def test_the_table_has_all_figures(part):
    assert part in shown([times()], 0.04, [])


def test_joules_have_a_column_if_the_machine_has_a_counter(monkeypatch):
    monkeypatch.setattr(latency_tables, "why_no_energy", lambda: None)
    text = shown([times(joules=0.0123), times(joules=None)], 0.04, [])
    assert "J: joules per request." in text and "0.012" in text
    assert "Energy was not measured" not in text


def test_teacher_and_student_are_in_a_table_of_their_own():
    text = shown([times()], 0.04, PAIR)
    assert "Teacher and student on one query" in text
    assert "12.3" in text and "2G" in text and "20.0 MB" in text
