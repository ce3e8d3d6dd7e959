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
        assert quality.run(plan, results_file(page), page, seconds=1e9)
    found = json.loads(results_file(page).read_text(encoding="utf-8"))
    return {each["kind"]: each for each in found.values()}, page


def results_file(page):
    return page.with_suffix(".json")


def test_a_finished_run_is_not_repeated(plan, results, monkeypatch):
    found, page = results
    assert set(found) == {"student", "linear", "more steps"}
    written = page.read_text(encoding="utf-8")
    monkeypatch.setattr(quality, "measure", None)
    assert quality.run(plan, results_file(page), page, seconds=-1.0)
    assert page.read_text(encoding="utf-8") == written


def test_a_run_with_other_settings_replaces_its_result(plan, results, tmp_path):
    _, page = results
    copy = tmp_path / "quality.json"
    copy.write_bytes(results_file(page).read_bytes())
    before = json.loads(copy.read_text(encoding="utf-8"))
    data = {"tiny": quality.DataSet("tiny.toml", (*SMALLER[:-1], "seed=5"))}
    other = replace(plan, data=data)
    point = next(each for each in other.points() if each.kind == "linear")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality.Plan, "points", lambda _: iter([point]))
        assert quality.run(other, copy, tmp_path / "quality.md", seconds=1e9)
    after = json.loads(copy.read_text(encoding="utf-8"))
    assert set(after) == set(before)
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {"tiny, linear"}
    assert after["tiny, linear"]["seed"] == 5


def test_no_run_starts_after_the_time_is_over(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "measure", None)
    other = replace(plan, work=tmp_path, widths=(4,))
    page = tmp_path / "quality.md"
    assert not quality.run(other, results_file(page), page, seconds=-1.0)
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
    slices = student["slices"]
    for name, (gained, *_) in student["slices_gained"].items():
        difference = slices["distilled"][name][0] - slices["baseline"][name][0]
        assert gained == pytest.approx(difference)
    assert set(student["slices_gained"]) & set(quality.SEGMENTS)


def test_a_teacher_alone_has_the_settings_of_the_pipeline():
    root = Path(__file__).parents[2]
    data = {"amazon_beauty": quality.DATA["amazon_beauty"]}
    beauty = quality.Plan(Path("work"), data, pipelines=root / "pipelines")
    teachers = {point.kind: point.config.teacher for point in beauty.points()}
    assert teachers["sequence"].steps == 2_500
    assert teachers["linear"].l2 == 100


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
