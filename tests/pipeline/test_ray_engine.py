"""Ray engine: two nodes give the local result, also if one of them is killed."""

import json
import os

import numpy as np
import pytest

from recdistill.errors import EngineError
from recdistill.pipeline.config.engine_section import EngineConfig
from recdistill.pipeline.runner import Pipeline
from tests import small_pipelines

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

SMALLER = (
    "student.steps=300",  # Enough that training is not over when a node is killed.
    "student.shared_items=false",
    "evaluate.valid_lists=60",
)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    return Pipeline(small_pipelines.load(folder, *SMALLER)).run("baseline")


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with one core each, on free ports."""
    from ray.cluster_utils import Cluster

    # Workers with a low priority would starve beside other tests.
    first = {
        "num_cpus": 1,
        "include_dashboard": False,
        "_system_config": {"worker_niceness": 0},
    }
    found = Cluster(initialize_head=True, head_node_args=first)
    found.add_node(num_cpus=1)
    yield found
    ray.shutdown()
    found.shutdown()


def test_a_node_that_is_killed_in_training_costs_time_only(
    local, cluster, tmp_path, monkeypatch
):
    from recdistill.pipeline import ray_engine

    groups, killed = [], []

    def progress(activity, done, total, note=""):
        # After the first checkpoint.
        if activity == "Training the baseline" and note and not killed:
            killed.append(cluster.list_all_nodes()[-1])
            cluster.remove_node(killed[0], allow_graceful=False)

    attempt = ray_engine.RayEngine._attempt

    def counted(self, step, run, states):
        groups.append((self._room()[0], len(states)))
        return attempt(self, step, run, states)

    monkeypatch.setattr(ray_engine.RayEngine, "_attempt", counted)
    engine = ("engine.kind=ray", f"engine.address={cluster.address}")
    config = small_pipelines.load(tmp_path, *SMALLER, *engine)
    got = Pipeline(config, progress).run("baseline")

    assert killed
    assert groups[0] == (2, 0)
    # It starts again from a checkpoint, on the node that remains in the end.
    assert groups[-1] == (1, 1)
    assert got.path.name == local.path.name
    [mine], [theirs] = got.record["trials"], local.record["trials"]
    np.testing.assert_allclose(mine["history"], theirs["history"], atol=1e-5)
    for name, values in theirs["curve"].items():
        np.testing.assert_allclose(mine["curve"][name], values, rtol=1e-3)
    assert json.dumps(got.record["parameters"]) == json.dumps(
        local.record["parameters"]
    )


def test_an_address_without_a_cluster_is_named(monkeypatch):
    from recdistill.pipeline.ray_engine import RayEngine

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    config = EngineConfig(kind="ray", address="127.0.0.1:1")
    monkeypatch.setattr(
        ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("refused"))
    )
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:1.*refused"):
        RayEngine(config, os.abort)
