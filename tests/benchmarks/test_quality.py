"""benchmarks.quality: tiny runs, their files and their page."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import quality
from tests import small_pipelines

pytestmark = pytest.mark.slow

SMALLER = (
    "dataset.synthetic={ queries = 80, items = 60, interactions = 1_200, seed = 2 }",
    'query={ history = { kind = "history", length = 8 } }',
    'candidate={ item_id = { kind = "id" } }',
    'teacher={ kind = "linear" }',
    "student.steps=4",
    "evaluate.valid_lists=50",
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    small_pipelines.write_config(folder)
    data = {"tiny": quality.DataSet("tiny.toml", SMALLER)}
    return quality.Plan(
        folder / "work", data, widths=(2,), alone=("linear",), pipelines=folder
    )


@pytest.fixture(scope="module")
def results(plan):
    """The results of a whole run, and the page."""
    page = plan.work.parent / "quality.md"
    served = SimpleNamespace(record={"measured": {"p50": 1.25}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "measured_export", lambda *_: served)
        assert quality.run(plan, page, seconds=1e9)
    files = plan.work.glob("*.json")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return {each["kind"]: each for each in found}, page


def test_a_finished_run_is_a_file_and_is_not_repeated(plan, results, monkeypatch):
    found, page = results
    assert set(found) == {"student", "linear", "more steps"}
    written = page.read_text(encoding="utf-8")
    monkeypatch.setattr(quality, "measure", None)
    assert quality.run(plan, page, seconds=-1.0)
    assert page.read_text(encoding="utf-8") == written


def test_no_run_starts_after_the_time_is_over(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "measure", None)
    other = replace(plan, work=tmp_path, widths=(4,))
    assert not quality.run(other, tmp_path / "quality.md", seconds=-1.0)
    assert not list(tmp_path.iterdir())


def test_a_model_alone_has_the_metrics_of_the_report(results):
    found, _ = results
    student, more = found["student"], found["more steps"]
    assert more["config"]["student"]["steps"] == 8
    # The teacher of the pipeline is the same, ranked by the step `evaluate`.
    want = student["models"]["teacher"]
    for metric in quality.METRICS:
        assert found["linear"]["metrics"][metric] == pytest.approx(want[metric])
    assert student["served"]["p50"] == 1.25
    assert set(student["slices"]["distilled"]) <= set(quality.SEGMENTS)


def test_the_page_has_every_model(results):
    _, page = results
    text = page.read_text(encoding="utf-8")
    for name in (
        "popularity",
        "teacher",
        "linear",
        "baseline, width 2",
        "distilled, width 2",
        "baseline with more steps, width 2",
    ):
        assert f"\n| {name} | " in text
    assert "\n| 2 | " in text


def test_every_data_set_has_all_runs():
    root = Path(__file__).parents[2]
    plan = quality.Plan(Path("work"), quality.DATA, pipelines=root / "pipelines")
    points = list(plan.points())
    assert len({point.key for point in points}) == len(points) == 5 * (4 + 2 + 1)
    assert {point.config.name for point in points} == set(quality.DATA)
