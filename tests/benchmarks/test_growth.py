"""benchmarks.growth: stored points, limits and exponents, without running steps."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import growth
from benchmarks.generated_tables import write_tables
from tests.serving.waiting import wait_until

LIMITS = growth.Limits(interactions=1_000_000, items=10_000, rows=100_000, seconds=60.0)


@pytest.fixture
def calls(monkeypatch):
    made = []

    def update(rows):
        made.append(rows)
        return {"rows": rows, "update_ms": 2.0}

    def pipeline(size, seconds):
        made.append(size)
        # The time grows with the number of interactions, the memory with its root.
        return {
            "interactions": size.interactions,
            "items": size.items,
            "run_s": size.interactions / 1e4,
            "run_mib": size.interactions**0.5,
        }

    monkeypatch.setattr(growth, "update_time", update)
    monkeypatch.setattr(growth, "pipeline_times", pipeline)
    monkeypatch.setattr(growth, "has_ray", lambda: False)
    return made


def test_the_exponents_of_known_costs_are_found(calls, tmp_path):
    got = growth.measure(LIMITS, tmp_path / "points.json")
    figures = got["figures"]
    assert figures["interactions_exponent_run_s"] == pytest.approx(1.0)
    assert figures["interactions_exponent_run_mib"] == pytest.approx(0.5)
    assert figures["items_exponent_run_s"] == pytest.approx(0.0)
    assert figures["rows_exponent_update_ms"] == pytest.approx(0.0)
    assert set(figures) <= set(growth.BENCHMARK.reading)
    assert got["sizes"]["largest_number_of_interactions"] == 1_000_000


def test_a_stopped_run_goes_on_with_the_points_that_are_missing(
    calls, tmp_path, monkeypatch
):
    store = tmp_path / "points.json"
    pipeline, pairs = growth.pipeline_times, []

    def fails_at_the_second(size, seconds):
        pairs.append(size)
        if len(pairs) == 2:
            raise KeyboardInterrupt
        return pipeline(size, seconds)

    monkeypatch.setattr(growth, "pipeline_times", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        growth.measure(LIMITS, store)
    stored = json.loads(store.read_text())
    monkeypatch.setattr(growth, "pipeline_times", pipeline)
    calls.clear()
    growth.measure(LIMITS, store)
    whole = json.loads(store.read_text())
    assert len(calls) == len(whole) - len(stored)
    assert stored.items() <= whole.items()


def test_no_size_is_above_the_limits():
    for each in growth.sizes(LIMITS).values():
        assert max(size.interactions for size in each) <= 1_000_000
        assert max(size.items for size in each) <= 10_000


def test_a_point_that_failed_is_left_out(calls, tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "pipeline_times", lambda size, seconds: None)
    got = growth.measure(LIMITS, tmp_path / "points.json")
    assert list(got["points"]) == ["Measured points: rows"]


def test_generated_tables_have_the_sizes_and_only_known_items(tmp_path):
    folder = write_tables(tmp_path / "tables", 50, 30, 1_000)
    rows = pq.read_table(folder / "interactions.parquet")
    items = pq.read_table(folder / "items.parquet")
    assert rows.num_rows == 1_000
    assert items.num_rows == 30
    assert set(rows["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())
    assert set(rows["user_id"].to_pylist()) <= {f"u{k}" for k in range(50)}


def test_distillation_on_a_large_catalogue_includes_its_second_round(
    monkeypatch, tmp_path
):
    run = []

    def cost(folder, step, workers, seconds):
        run.append(step)
        return 2.0, 100.0 + len(run), 5.0

    monkeypatch.setattr(growth, "step_cost", cost)
    point = growth.pipeline_times(growth.Size(interactions=100, items=5_001), 9)
    assert run[4:7] == ["pilot", "closure", "distill"]
    assert point["distill_s"] == 6.0 and point["evaluate_s"] == 2.0
    assert point["distill_mib"] == 107.0
    assert point["run_s"] == 18.0 and point["commands_s"] == 45.0


def test_the_peak_memory_of_a_command_leaves_out_the_process_that_started_it():
    held = np.ones(300 * 2**17)  # 300 MiB here, and 100 MiB in the command.
    code = "import sys; held = bytearray(100 * 2**20); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        wait_until(lambda: growth.peak_mib(child.pid) > 100)
        assert growth.peak_mib(child.pid) < 200 < growth.peak_mib(os.getpid())
    assert held.any()
