"""timing_process: inputs of calls, from the warm-up requests of a real export."""

import numpy as np
import pytest

from recdistill.evaluation.latency.timing_process import (
    LoadedExport,
    carry_out,
    memory_bytes,
)
from recdistill.export.layout import read_manifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded(exported):
    export = LoadedExport(exported / "1", threads=1)
    yield export
    export.session.close()


def test_rows_of_the_largest_warm_up_request_are_repeated_in_turn(loaded):
    real = loaded.rows["encode_query"]
    count = len(next(iter(real.values())))
    inputs = loaded.inputs("encode_query", count + 3, None)
    assert inputs.keys() == real.keys()
    for name, value in inputs.items():
        assert len(value) == count + 3
        np.testing.assert_array_equal(value[:count], real[name])
        np.testing.assert_array_equal(value[count:], real[name][:3])


def test_candidates_are_items_of_the_model_repeated_to_the_width(loaded, exported):
    items = read_manifest(exported / "1")["items"]
    ids = loaded.inputs("rank", 2, items + 5)["candidate_ids"]
    assert ids.shape == (2, items + 5)
    np.testing.assert_array_equal(ids[0], ids[1])
    assert len(set(ids[0])) <= items
    np.testing.assert_array_equal(ids[0][-5:], np.resize(ids[0], items + 5)[-5:])


def test_a_signature_without_warm_up_requests_is_refused(loaded):
    with pytest.raises(SystemExit, match=r"rank.*Received: 'rnak'"):
        loaded.inputs("rnak", 1, None)


def test_a_prepared_call_returns_the_outputs_of_the_signature(loaded):
    inputs = loaded.inputs("encode_query", 3, None)
    (embedding,) = loaded.prepare("encode_query", inputs)()
    assert embedding.shape[0] == 3
    assert np.isfinite(embedding).all()


def test_flops_grow_with_the_rows(loaded):
    one, four = (
        loaded.flops("encode_query", loaded.inputs("encode_query", rows, None))
        for rows in (1, 4)
    )
    assert one > 0 and four == 4 * one


def test_a_plan_is_carried_out_in_order(exported):
    calls = [
        {"signature": "rank", "rows": 2, "candidates": 7},
        {"signature": "encode_query", "rows": 1, "candidates": None},
    ]
    plan = {"threads": 1, "workers": 1, "seconds": 1e-6, "flops": False, "calls": calls}
    result = carry_out(exported / "1", plan)
    assert [each["call"] for each in result["calls"]] == calls
    assert all(each["throughput"]["latency"]["n"] >= 1 for each in result["calls"])
    assert all(each["flops"] is None for each in result["calls"])
    assert result["warm_up_rows"] >= 8


def test_memory_is_that_of_this_process():
    assert memory_bytes() is None or memory_bytes() > 10_000_000
