"""load_runs: a load test with a swap, and the search for a rate, on made-up samples."""

import numpy as np
import pytest

from recdistill.errors import LoadTestError
from recdistill.serving.client.endpoints import Endpoint
from recdistill.serving.client.protocols import Target
from recdistill.serving.load_test import load_runs
from recdistill.serving.load_test.load_generator import Load, RequestCounts
from recdistill.serving.load_test.load_runs import run_load_test, search_rate
from recdistill.serving.load_test.version_swap import Swap, VersionSwap
from recdistill.serving.load_test.workload import Workload
from tests.serving.load_test.made_samples import samples

pytestmark = pytest.mark.slow

WORK = Workload([], "rank", 1, 1, Target("films"))
ENDPOINT = Endpoint.parse("grpc://localhost:1")


def test_a_load_test_returns_the_samples_of_its_requests(server, workload):
    endpoint, work = workload()
    result = run_load_test(endpoint, work, Load(seconds=0.2, rate=50, deadline_s=60))
    assert (result.answered, result.failed, result.swap) == (10, 0, None)
    assert result.endpoint == endpoint.url


def test_a_version_is_published_after_a_third_of_the_test(tmp_path, monkeypatch):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "saved_model.pb").touch()
    calls, swap = [], Swap(8, 1.0, 1.5)
    monkeypatch.setattr(VersionSwap, "begin", lambda _, *given: calls.append(given))
    monkeypatch.setattr(VersionSwap, "end", lambda _: swap)

    def generate(endpoint, work, load, progress, started):
        started(100.0)
        return samples([1.0] * 3)

    monkeypatch.setattr(load_runs, "generate", generate)
    result = run_load_test(ENDPOINT, WORK, Load(seconds=3.0, rate=1), reload=tmp_path)
    assert calls == [(100.0, 1.0)]
    assert result.swap is swap
    assert [path.name for path in tmp_path.iterdir()] == ["7"]


@pytest.fixture
def sends(monkeypatch):
    """Replaces the generator by a server that sustains 300 requests a second."""
    loads = []

    def generate(endpoint, work, load, progress):
        loads.append(load)
        progress(RequestCounts(1.0, 3, 2, 1))
        due = np.arange(int(load.rate * load.seconds)) / load.rate
        waits = np.maximum(0.0, np.arange(len(due)) / 300 - due)
        return samples(1.0 + 1e3 * waits, due_s=due)

    monkeypatch.setattr(load_runs, "generate", generate)
    return loads


def test_the_search_returns_the_last_test_at_the_rate_that_it_found(sends):
    progress = []
    found, result = search_rate(
        ENDPOINT,
        WORK,
        Load(seconds=2.0, rate=40.0, processes=2, deadline_s=3),
        budget_ms=10.0,
        progress=lambda rate, counts: progress.append((rate, counts.sent)),
    )
    assert 300 / 1.1 <= found.rate <= 310
    assert result.load == Load(6.0, found.rate, None, 2, 3)
    assert len(result.samples) == int(found.rate * 6)
    assert {(load.processes, load.deadline_s) for load in sends} == {(2, 3)}
    assert progress[0] == (40.0, 3)


def test_a_search_that_finds_no_rate_returns_its_last_test(sends):
    found, result = search_rate(ENDPOINT, WORK, Load(1.0, rate=40.0), budget_ms=0.5)
    assert found.rate is None
    assert result.load == sends[-1]


def test_a_search_requires_a_rate(sends):
    with pytest.raises(LoadTestError, match="`load` must have a rate"):
        search_rate(ENDPOINT, WORK, Load(1.0, clients=1), 10.0)
