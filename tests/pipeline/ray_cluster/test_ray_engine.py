"""Ray engine: two nodes give the local result, also if one of them is killed."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from recdistill.errors import EngineError
from recdistill.evaluation.report.run_report import Report
from recdistill.pipeline.config.engine_section import EngineConfig
from recdistill.pipeline.evaluation import model_comparison
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.scores import score_parts
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
    yield found
    ray.shutdown()
    found.shutdown()


class KilledNode:
    """A second node that is killed at the first progress of an activity."""

    def __init__(self, cluster, activity, with_note=False):
        self.cluster, self.killed = cluster, False
        self.activity, self.with_note = activity, with_note
        self.node = cluster.add_node(num_cpus=1)

    def progress(self, activity, done, total, note=""):
        begun = note if self.with_note else done
        if activity == self.activity and begun and not self.killed:
            self.killed = True
            self.cluster.remove_node(self.node, allow_graceful=False)


def test_scoring_and_evaluation_give_the_local_files_though_a_node_is_killed(
    tiny_run, cluster, copied, monkeypatch
):
    monkeypatch.setattr(score_parts, "FILE_LISTS", small_pipelines.FILE_LISTS)
    monkeypatch.setattr(model_comparison, "PART_LISTS", 100)
    names = {step: tiny_run.artefacts[step].path.name for step in ("score", "evaluate")}
    for name in names.values():
        shutil.rmtree(copied / "runs" / "tiny" / name)
    node = KilledNode(cluster, "Scoring with the teacher")
    engine = ("engine.kind=ray", f"engine.address={cluster.address}")
    done = {}
    pipeline = Pipeline(
        small_pipelines.load(copied, *engine), node.progress, done.__setitem__
    )
    pipeline.run("evaluate")

    assert node.killed
    made = [step for step, artefact in done.items() if not artefact.reused]
    assert made == ["score", "evaluate"]
    timed = {"report.json", "report.html", "MODEL_CARD.md"}
    for step, name in names.items():
        ours, theirs = done[step].record["sha256"], tiny_run.artefacts[step].record
        assert done[step].path.name == name
        assert {k: v for k, v in ours.items() if k not in timed} == {
            k: v for k, v in theirs["sha256"].items() if k not in timed
        }
    report = Report.load(copied / "runs" / "tiny" / "report.json")
    assert report.metrics_fingerprint() == tiny_run.report.metrics_fingerprint()


def test_a_node_that_is_killed_in_training_costs_time_only(
    local, cluster, tmp_path, monkeypatch
):
    from recdistill.pipeline.ray_cluster import ray_engine

    groups = []
    # A note follows the first checkpoint.
    node = KilledNode(cluster, "Training the baseline", with_note=True)
    attempt = ray_engine.RayEngine._attempt

    def counted(self, step, run, states, reports):
        groups.append((self._room()[0], len(states)))
        return attempt(self, step, run, states, reports)

    monkeypatch.setattr(ray_engine.RayEngine, "_attempt", counted)
    engine = ("engine.kind=ray", f"engine.address={cluster.address}")
    config = small_pipelines.load(tmp_path, *SMALLER, *engine)
    got = Pipeline(config, node.progress).run("baseline")

    assert node.killed
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


def test_points_of_a_curve_that_workers_repeat_are_passed_on_once():
    from recdistill.pipeline.ray_cluster.ray_engine import _reports

    points = []
    run = SimpleNamespace(
        progress=print, warn=print, observe=lambda *point: points.append(point)
    )
    observed = _reports(run)["observed"]
    for label, step, values in (
        ("rate 0.1", 5, {"loss": 2.0}),
        ("rate 0.1", 5, {"validation": 0.5}),
        ("rate 0.1", 5, {"loss": 2.0}),  # Workers were started again.
        ("rate 0.1", 10, {"loss": 1.0}),
        ("rate 0.2", 5, {"loss": 3.0}),
    ):
        observed(label, step, values)
    assert [point[1:] for point in points] == [
        (5, {"loss": 2.0}),
        (5, {"validation": 0.5}),
        (10, {"loss": 1.0}),
        (5, {"loss": 3.0}),
    ]
    run.observe = None
    assert "observed" not in _reports(run)


def test_a_worker_may_read_what_the_run_may_read(tiny_run):
    from recdistill.pipeline.ray_cluster.ray_workers import SharedRun

    config = small_pipelines.load(tiny_run.folder)
    pipeline = Pipeline(config, with_test=False)
    pipeline.run("prepare")
    opened = SharedRun.of(pipeline.context).open({})
    assert opened.prepared.shards("train")
    with pytest.raises(RuntimeError, match="'test' must not be read"):
        opened.prepared.shards("test")


def test_a_folder_that_a_node_lacks_is_named(tmp_path):
    from recdistill.pipeline.ray_cluster.ray_workers import SharedRun

    config = small_pipelines.load(tmp_path)
    shared = SharedRun(
        config, {}, config.local_workdir, None, True, tmp_path / "elsewhere"
    )
    with pytest.raises(EngineError, match="elsewhere must exist on each node"):
        shared.open({})


def test_an_address_without_a_cluster_is_named(monkeypatch):
    from recdistill.pipeline.ray_cluster.ray_engine import RayEngine

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    config = EngineConfig(kind="ray", address="127.0.0.1:1")
    monkeypatch.setattr(
        ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("refused"))
    )
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:1.*refused"):
        RayEngine(config, os.abort)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"gpus": 1},
            r"`engine.gpus` = 1.0; the 2 node\(s\) have at most 4 cores, 0 G",
        ),
        ({"memory_gib": 9}, r"`engine.memory_gib` = 9.0; .* 8 GiB of memory"),
        ({"cpus": 8}, r"`engine.cpus` = 8; the 2 node"),
        (
            {"cpus": 4, "memory_gib": 8},
            r"`engine.cpus` = 4 and `engine.memory_gib` = 8",
        ),
        ({"cpus": 2}, (2, {"num_cpus": 2, "num_gpus": 0.0})),
        ({"cpus": 1, "workers": 9}, (6, {"num_cpus": 1, "num_gpus": 0.0})),
        (
            {"memory_gib": 6, "workers": 9},
            (1, {"num_cpus": 1, "num_gpus": 0.0, "memory": 6 * 2**30}),
        ),
    ],
)
def test_a_worker_must_fit_on_a_node(asked, said, monkeypatch):
    from recdistill.pipeline.ray_cluster.ray_engine import RayEngine

    sizes = ({"CPU": 4.0, "memory": 2.0**31}, {"CPU": 2.0, "memory": 2.0**33})
    nodes = [{"Alive": True, "Resources": size} for size in sizes]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    engine = object.__new__(RayEngine)
    engine._config = EngineConfig(kind="ray", **asked)
    if isinstance(said, tuple):
        assert engine._room() == said
    else:
        with pytest.raises(EngineError, match=said):
            engine._room()
