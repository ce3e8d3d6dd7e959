"""The comparison of `sweep`, and the run within a budget."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from recdistill.errors import BudgetError, ConfigError
from recdistill.evaluation.intervals import Interval
from recdistill.export import publishing
from recdistill.pipeline.config import load_config
from recdistill.pipeline.evaluation import served_measurement
from recdistill.pipeline.models.scorers import compiled
from recdistill.pipeline.ranking.rounded_student import as_exported
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.variants import budgeted_run, student_sweep
from recdistill.pipeline.variants.budgeted_run import best_within, run_to_export
from recdistill.pipeline.variants.changed_settings import with_settings
from recdistill.pipeline.variants.student_sweep import (
    MeasuredStudent,
    SweepResult,
    sweep,
    write_sweep,
)
from tests import small_pipelines
from tests.pipeline.tiny_runs import go, made

pytestmark = pytest.mark.slow

WIDTH = "sweep.vary={student={dim=[4]}, export={storage=['float32', 'int8']}}"


def served(p99, size, p50=0.5):
    """What a SavedModel was measured to have."""
    return {"p50": p50, "p90": p99, "p95": p99, "p99": p99, "n": 900, "bytes": size}


def student(dim, quality, p99=1.0, size=1_000, p50=0.5, gate=True):
    return MeasuredStudent(
        settings={"student.dim": dim},
        quality=Interval(quality, quality - 0.01, quality + 0.01),
        baseline=Interval(0.1, 0.09, 0.11),
        gain=Interval(quality - 0.1, quality - 0.11, quality - 0.09),
        parameters=10 * dim,
        measured=served(p99, size, p50),
        gate=gate,
    )


@pytest.fixture(scope="module")
def finished(tiny_run, tmp_path_factory):
    """A folder with the finished steps of the tiny run."""
    folder = tmp_path_factory.mktemp("swept")
    shutil.copytree(tiny_run.folder / "runs", folder / "runs")
    return folder


@pytest.fixture
def unchecked(monkeypatch):
    """Exports without the fresh process; the sizes are real, the times are not."""
    measured = []

    def measure(version):
        files = [each for each in version.rglob("*") if each.is_file()]
        measured.append(version)
        return served(2.0, sum(each.stat().st_size for each in files))

    monkeypatch.setattr(publishing, "check_parity", small_pipelines.no_parity_check)
    monkeypatch.setattr(student_sweep, "measure_served", measure)
    monkeypatch.setattr(served_measurement, "measure_served", measure)
    return measured


def pipeline(folder, *overrides):
    return Pipeline(small_pipelines.load(folder, *overrides))


def test_a_student_of_the_run_is_not_trained_again_and_measured_once(
    finished, tiny_run, unchecked
):
    for _ in range(2):
        result = sweep(pipeline(finished, WIDTH))
    only, rounded = result.students
    records = {name: each.record for name, each in tiny_run.artefacts.items()}
    assert only.quality.value == pytest.approx(records["distill"]["valid"])
    assert only.baseline.value == pytest.approx(records["baseline"]["valid"])
    assert only.gain.value == pytest.approx(only.quality.value - only.baseline.value)
    assert result.teacher == records["teacher"]["valid"]
    assert result.lists == 300
    # The SavedModels are removed after their measurement; the records stay.
    assert [each.exists() for each in unchecked] == [False, False]
    assert only.measured["bytes"] > 100_000
    assert rounded.baseline == only.baseline
    run = pipeline(finished)
    run.run("distill")
    student = as_exported(run.context.student_model("distill"), "int8")
    quality = run.context.validation(compiled(student))
    assert rounded.quality.value == pytest.approx(quality)
    found = write_sweep(result)
    config = load_config(Path(found["files"]["knee"]))
    assert (config.name, config.student.dim) == ("tiny_knee", 4)
    assert json.loads(Path(found["files"]["document"]).read_text()) == found
    assert "the test lists once" in Path(found["files"]["page"]).read_text()


def test_a_run_with_retrieved_lists_finds_the_student_that_was_measured(
    finished, unchecked
):
    retrieved = "lists.size=retrieved", "distill.gate=warn", small_pipelines.LINEAR
    vary = "sweep.vary={student={dim=[6]}, export={storage=['float32']}}"
    [measured] = sweep(pipeline(finished, *retrieved, vary)).students
    done = go(finished, *retrieved, "student.dim=6", until="distill")
    assert made(done) == []
    assert done["distill"].record["valid"] == pytest.approx(measured.quality.value)


def test_the_warnings_of_a_sweep_are_each_said_once(finished, unchecked):
    vary = "sweep.vary={student={dim=[6]}, export={storage=['float32']}}"
    warnings = []
    config = small_pipelines.load(finished, vary, "distill.scores=none")
    sweep(Pipeline(config, warn=warnings.append))
    assert len(warnings) == len({*warnings})
    assert any("distill.scores" in each for each in warnings)


def test_a_version_that_misses_its_budget_is_not_published(finished, unchecked):
    shutil.rmtree(finished / "export", ignore_errors=True)
    with pytest.raises(BudgetError, match=r"budget p99<=1ms .* Received: p99 2 ms"):
        pipeline(finished, "export.budget=p99<=1ms").run()
    assert [path.name for path in (finished / "export/tiny").iterdir()] == []
    artefact = pipeline(finished, "export.budget=p99<=2ms").run()
    assert artefact.record["measured"]["p99"] == 2.0
    assert Path(artefact.record["path"]).name == "1"


def test_students_that_miss_the_budget_are_no_choice_however_good_they_are():
    students = [
        student(8, 0.2, p99=1.0, size=100),
        student(16, 0.3, p99=2.0, size=200),
        student(32, 0.3, p99=1.5, size=150),
        student(64, 0.4, p99=2.1, size=400),
        student(128, 0.5, p99=1.0, size=900),
    ]

    def dims(budget):
        return [s.settings["student.dim"] for s in best_within(students, budget)]

    # Of equally good students the smaller one comes first.
    assert dims("p99<=2ms, bytes<=400B") == [32, 16, 8]
    assert dims("p99<=1ms") == [128, 8]
    assert dims("bytes<=0.1kB") == [8]
    assert dims("p50<=0.1ms") == []


@pytest.mark.parametrize(
    ("lists", "sampled", "shown"), [(9, False, 0.4), (4, False, None), (9, True, None)]
)
def test_the_teacher_has_a_figure_if_it_ranked_what_students_rank(
    lists, sampled, shown
):
    record = {"valid": 0.4, "sampled_candidates": sampled}
    run = SimpleNamespace(
        artefacts={"teacher": SimpleNamespace(record=record)},
        validation=range(9),
        teacher_validation=range(lists),
    )
    assert student_sweep._comparable(run) == shown


def sweep_of(monkeypatch, *students):
    """Stands in for the sweep of a budgeted run."""

    def found(pipeline, announce):
        for each in students:
            announce(each)
        return SweepResult(pipeline.config, "m", 1, 0.5, students, (0,), 0, {})

    monkeypatch.setattr(budgeted_run, "sweep", found)


def test_if_no_student_fits_the_error_has_every_measurement(tmp_path, monkeypatch):
    sweep_of(monkeypatch, student(8, 0.2, p99=3.0), student(16, 0.3, p99=4.0))
    with pytest.raises(BudgetError) as error:
        run_to_export(pipeline(tmp_path, "export.budget=p99<=2ms"))
    said = str(error.value)
    assert "student.dim=8: validation 0.2000, p99 3 ms" in said
    assert "student.dim=16: validation 0.3000, p99 4 ms" in said
    assert "Nothing was exported" in said
    assert error.value.exit_code == 3


def test_a_student_whose_export_misses_the_budget_makes_way_for_the_next(
    tmp_path, monkeypatch
):
    sweep_of(monkeypatch, student(8, 0.2), student(16, 0.3), student(32, 0.4, p99=9.0))
    tried = []

    def run(self):
        tried.append(self.config.student.dim)
        if self.config.student.dim == 16:
            raise BudgetError("The SavedModel must be faster.")
        return "exported"

    monkeypatch.setattr(Pipeline, "run", run)
    lines = []
    chosen, artefact = run_to_export(
        pipeline(tmp_path, "export.budget=p99<=2ms"), lines.append
    )
    assert tried == [16, 8]
    assert (chosen.config.student.dim, artefact) == (8, "exported")
    assert "student.dim=32: validation 0.4000, p99 9 ms: misses the budget" in lines
    assert "student.dim=16: The SavedModel must be faster." in lines


def test_a_student_without_width_needs_settings_to_vary(tmp_path):
    folder = "student={factory='package.module:towers'}"
    with pytest.raises(ConfigError, match=r"`sweep.vary` must name keys of `student`"):
        sweep(pipeline(tmp_path, folder))


def test_by_default_widths_and_encoders_are_varied_one_at_a_time(tmp_path):
    config = small_pipelines.load(tmp_path, "student.dim=16", "student.encoder=gru")

    def pairs(has_history):
        found = config.sweep.students(config.student, has_history)
        storages = [each["export.storage"] for each in found]
        assert storages == ["float32", "bfloat16", "int8"] * (len(found) // 3)
        return [(s["student.dim"], s["student.encoder"]) for s in found[::3]]

    widths = [(8, "gru"), (16, "gru"), (32, "gru"), (64, "gru")]
    assert pairs(has_history=False) == widths
    assert pairs(has_history=True) == [*widths, (16, None), (16, "attention")]
    # TOML has no value for "no encoder".
    varied = with_settings(config, {"student.encoder": "none", "student.dim": 8})
    assert (varied.student.encoder, varied.student.dim) == (None, 8)
