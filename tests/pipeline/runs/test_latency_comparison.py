"""Latency and cost of teacher and student of a finished run."""

import shutil

import pytest

from recdistill.evaluation.latency import stopwatch as latency
from recdistill.pipeline.evaluation import model_timing
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.runs.latency_comparison import time_side_by_side
from tests import small_pipelines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    shutil.copytree(tiny_run.folder, folder, dirs_exist_ok=True)
    pipeline = Pipeline(small_pipelines.load(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            model_timing,
            "compare",
            lambda calls, **_: latency.compare(calls, warmup=1, repeats=2),
        )
        return pipeline.config.student.dim, time_side_by_side(pipeline, (10, 30))


def test_both_are_timed_for_every_number_of_candidates(pair):
    _, found = pair
    got = [(each.model, each.candidates) for each in found]
    assert got == [("teacher", 10), ("student", 10), ("teacher", 30), ("student", 30)]
    assert all(each.latency.n == 2 for each in found)
    assert found[0].speedup == 1.0
    assert found[1].speedup > 0


def test_a_candidate_costs_the_student_one_dot_product(pair):
    dim, found = pair
    few, many = (each.flops for each in found if each.model == "student")
    assert many - few == 2 * (30 - 10) * dim
    assert few > 2 * 10 * dim  # the query is encoded as well


def test_models_have_the_size_that_the_report_gives(pair, tiny_run):
    _, found = pair
    report = tiny_run.report.models
    for each, name in zip(found, ["teacher", "distilled"], strict=False):
        assert each.size_bytes == report[name].size_bytes
        assert each.parameters == report[name].parameters
