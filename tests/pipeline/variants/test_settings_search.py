"""The search of `tune`: what it reads, how it goes on, and what it finds."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest

from recdistill.errors import ConfigError, TrainingError
from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.config import ListsConfig, load_config
from recdistill.pipeline.config.search_space import Choices, Range
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.variants import optuna_study, settings_search
from recdistill.pipeline.variants.changed_settings import with_settings
from recdistill.pipeline.variants.default_space import (
    configured_settings,
    default_space,
)
from recdistill.pipeline.variants.settings_search import tune, write_search
from tests import small_pipelines

pytestmark = pytest.mark.slow

SEARCH = "tune.search={student={learning_rates={low=0.001,high=0.1}}}"


@pytest.fixture(scope="module")
def without_test_part(tiny_run, tmp_path_factory):
    """A folder with the finished steps of the tiny run, without its test lists."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copytree(tiny_run.folder / "runs", folder / "runs")
    removed = [*folder.glob("runs/tiny/prepare-*/lists/test-*")]
    for path in removed:
        path.unlink()
    assert removed
    return folder


def pipeline(folder, *overrides, search=SEARCH):
    """The tiny pipeline for a search."""
    config = small_pipelines.load(folder, search, *overrides)
    return Pipeline(config, with_test=False)


@pytest.fixture
def fresh(without_test_part):
    """The folder, without the files of a search."""
    shutil.rmtree(without_test_part / "runs/tiny/tune", ignore_errors=True)
    return without_test_part


@pytest.fixture
def quick(monkeypatch):
    """Trials without training: the metric is highest at a learning rate of 0.01."""
    trained = []

    def train(self, config, number, observe):
        rate = config.student.learning_rates[0]
        trained.append(rate)
        value = 1 / (1 + abs(rate - 0.01) * 100)
        return Artefact(Path(f"distill-{number}"), "key", {"valid": value}, False)

    monkeypatch.setattr(settings_search._Search, "_train", train)
    return trained


def test_a_search_needs_no_test_part_and_starts_with_the_configured_student(
    fresh, tiny_run
):
    said = []
    started = pipeline(fresh, "tune.trials=2")
    result = tune(started, lambda trial, best: said.append((trial, best)))
    # The first trial is the student of the configuration, to the last digit.
    ours = tiny_run.artefacts["distill"].record["valid"]
    assert result.configured.value == result.trials[0].value == ours
    assert result.trials[0].settings == {"student.learning_rates": 0.01}
    assert [each.number for each, _ in said] == [1, 2]
    assert said[-1][1] == result.best
    assert result.lists == 300
    document = write_search(result)
    config = load_config(Path(document["files"]["best"]))
    assert config.name == "tiny_tuned"
    # The baseline is trained with the same rates, so that it is not worse tuned.
    assert 0.01 in config.student.learning_rates
    assert len(config.student.learning_rates) == 1 + (result.best.number == 2)
    assert Path(document["files"]["page"]).read_text().startswith("<!DOCTYPE html>")
    assert json.loads(Path(document["files"]["document"]).read_text()) == document
    # Only students that are compared at the end are kept.
    kept = {path.name for path in (result.folder / "trials").iterdir()}
    assert len(kept) == len({result.best.number, 1})
    # Reading the test part is an error, not only unnecessary.
    with pytest.raises(RuntimeError, match="'test' must not be read"):
        started.context.prepared.shards("test")


def test_a_search_goes_on_where_it_stopped(fresh, quick):
    first = tune(pipeline(fresh, "tune.trials=3"))
    assert len(quick) == 3
    again = tune(pipeline(fresh, "tune.trials=3"))
    assert len(quick) == 3
    assert again.trials == first.trials
    more = tune(pipeline(fresh, "tune.trials=5"))
    assert len(quick) == 5
    assert more.trials[:3] == first.trials
    # Other settings and another start of the student make another search.
    tune(pipeline(fresh, "tune.trials=1", "distill.weight=0.5"))
    assert len(quick) == 6
    tune(pipeline(fresh, "tune.trials=1", "student.warm_start=baseline"))
    assert len(quick) == 7


def test_a_killed_trial_is_run_again_with_its_settings(fresh, quick, monkeypatch):
    undisturbed = tune(pipeline(fresh, "tune.trials=12"))
    shutil.rmtree(fresh / "runs/tiny/tune")
    rates = list(quick)
    assert len(set(rates)) == 12
    real = settings_search._Search._train
    for killed in (0, 4, 11):

        def train(self, config, number, observe, killed=killed):
            if number == killed:
                observe("rate", 1, {"validation": 0.5})
                raise KeyboardInterrupt
            return real(self, config, number, observe)

        monkeypatch.setattr(settings_search._Search, "_train", train)
        with pytest.raises(KeyboardInterrupt):
            tune(pipeline(fresh, "tune.trials=12"))
        # The process may have been killed while it wrote a line.
        with (fresh / "runs/tiny/tune/journal.jsonl").open("a") as journal:
            journal.write('{"op_code": 5, "wor')
    monkeypatch.setattr(settings_search._Search, "_train", real)
    resumed = tune(pipeline(fresh, "tune.trials=12"))
    settings = [each.settings for each in resumed.trials]
    assert settings == [each.settings for each in undisturbed.trials]
    assert resumed.best.value == undisturbed.best.value
    assert resumed.importances == {"student.learning_rates": 1.0}


def test_trials_below_the_median_are_stopped_and_failed_ones_say_why(
    fresh, monkeypatch
):
    # Trials 1 to 5 have 0.5 everywhere; of the others, even ones start lower.
    def train(self, config, number, observe):
        if number == 2:
            raise TrainingError("Distilling diverged.")
        low = number > 5 and number % 2 == 0
        for step in range(1, 6):
            observe("rate", step, {"validation": 0.1 if low else 0.5})
        return Artefact(Path("distill-1"), "key", {"valid": 0.5}, False)

    monkeypatch.setattr(settings_search._Search, "_train", train)
    result = tune(pipeline(fresh, "tune.trials=9"))
    states = [each.state for each in result.trials]
    complete, pruned = "complete", "pruned"
    assert states[:6] == [complete, complete, "failed", complete, complete, complete]
    assert states[6:] == [pruned, complete, pruned]
    assert result.trials[2].reason == "Distilling diverged."
    assert result.trials[2].value is None
    assert result.trials[6].epochs == [0.1] * optuna_study.SEEN_EPOCHS
    assert result.trials[6].value == 0.1


@pytest.mark.parametrize("reused", [False, True])
def test_trials_are_compared_by_what_is_trained_for_them(fresh, monkeypatch, reused):
    """The baseline is not the student, and a pilot may be that of another trial."""
    steps, seen = [], {"baseline": [0.9], "pilot": [0.2, 0.3], "distill": [0.4]}

    class Variant:
        def __init__(self, config, folder, kept, progress, observe):
            self.observe = observe
            # The lists of the tiny run have no second round of their own.
            monkeypatch.setattr(ListsConfig, "has_second_round", True)

        def run(self, step):
            steps.append(step)
            known = reused and step == "pilot"
            for number, value in enumerate([] if known else seen[step]):
                self.observe("rate", number, {"validation": value})
            trials = [{"history": [*seen[step], None]}]
            record = {"valid": 0.4, "trials": trials}
            return Artefact(Path(f"{step}-1"), "key", record, known)

    started = pipeline(fresh, "tune.trials=1", "student.warm_start=baseline")
    monkeypatch.setattr(started, "variant", Variant)
    [trial] = tune(started).trials
    assert steps == ["baseline", "pilot", "distill"]
    assert trial.epochs == [0.2, 0.3, 0.4]


def test_if_no_trial_can_be_trained_the_last_reason_is_said(fresh, monkeypatch):
    def train(self, config, number, observe):
        raise TrainingError("Distilling diverged with learning rate 1.")

    monkeypatch.setattr(settings_search._Search, "_train", train)
    with pytest.raises(TrainingError, match=r"None of 2 trials .* learning rate 1"):
        tune(pipeline(fresh, "tune.trials=2"))


def test_after_the_time_limit_no_trial_starts(fresh, quick):
    result = tune(pipeline(fresh, "tune.trials=9", "tune.timeout=1e-9"))
    assert len(result.trials) == 1
    assert result.wanted == 9


def test_a_search_space_that_the_configuration_refuses_stops_before_any_work(tmp_path):
    search = "tune.search={student={dim=[8,1]}}"
    with pytest.raises(ConfigError, match=r"`tune.search`: `student.dim` must be grea"):
        tune(pipeline(tmp_path, search=search))
    search = "tune.search={student={width=[8]}}"
    with pytest.raises(ConfigError, match=r"`student.width` is not a known key"):
        tune(pipeline(tmp_path, search=search))
    assert not [*tmp_path.glob("runs/tiny/prepare-*")]


def test_the_default_space_is_derived_from_the_run(fresh):
    started = pipeline(
        fresh, "lists.size=retrieved", "distill.scores=auto", search="tune.trials=2"
    )
    context = started.context
    for step in ("prepare", "baseline", "teacher", "score"):
        (found,) = (fresh / "runs/tiny").glob(f"{step}-*")
        record = json.loads((found / "record.json").read_text())
        context.artefacts[step] = Artefact(found, record["key"], record, True)
    space = default_space(context)
    found = context.soft_targets
    assert space["distill.scores"].values[0] == found.transform
    assert set(space["distill.scores"].values) >= {"z_score", "log", "rank"}
    assert space["distill.weight"] == Range(0.3, 1.0)
    assert space["student.learning_rates"] == Range(0.0025, 0.04)
    assert space["student.dim"] == Choices((2, 4, 8))
    assert space["lists.retriever_top"] == Choices((4, 8, 16))
    assert space["lists.tail"] == Choices((6, 12, 24))
    (point,) = configured_settings(context, space)
    assert set(point) == set(space)
    assert point["distill.scores"] == found.transform
    assert point["student.learning_rates"] == 0.01
    # A learning rate each, and no value outside the space.
    started.config.student.__dict__["learning_rates"] = (0.01, 0.02, 9.0)
    rates = {"student.learning_rates": Range(0.001, 0.1), "student.dim": Choices((8,))}
    assert configured_settings(context, rates) == [
        {"student.learning_rates": 0.01},
        {"student.learning_rates": 0.02},
    ]
    rates = {"student.learning_rates": Choices((0.02, 0.5))}
    assert configured_settings(context, rates) == [{"student.learning_rates": 0.02}]
    # Numbers that are used together are not a point each; a key may be not set.
    assert started.config.student.decays == (0.7, 0.97)
    assert started.config.distill.final_temperature is None
    for key, allowed, expected in (
        ("student.decays", Range(0.5, 0.99), [{}]),
        ("distill.final_temperature", Range(0.5, 2.0), [{}]),
        ("student.encoder", Choices(("none", "gru")), [{"student.encoder": "none"}]),
        # A list of one entry may be written as the entry.
        ("student.hidden", Choices((4, 8)), [{"student.hidden": 8}]),
        ("student.hidden", Choices(([8], [4, 4])), [{"student.hidden": [8]}]),
        # A range of whole numbers does not have the configured one.
        ("distill.weight", Range(0, 1), [{}]),
        ("lists.tail", Range(6, 24), [{"lists.tail": 12}]),
    ):
        assert configured_settings(context, {key: allowed}) == expected


def test_the_best_file_holds_what_was_set_and_what_was_found(fresh, quick):
    result = tune(pipeline(fresh, "tune.trials=4"))
    document = write_search(result)
    written = tomllib.loads(Path(document["files"]["best"]).read_text())
    assert "tune" not in written
    assert written["distill"] == {
        "scores": "z_score",
        "teacher_temperature": 1.0,
        "gate": "warn",
    }
    best = float(f"{result.best.settings['student.learning_rates']:.4g}")
    assert written["student"]["learning_rates"] == sorted({0.01, best})


def test_the_best_file_has_the_teacher_that_was_written(fresh, quick, monkeypatch):
    started, train = pipeline(fresh, "tune.trials=1"), settings_search._Search._train

    def found(self, *arguments):
        # As a run does with an automatic teacher.
        self._run.config = self._run.config.for_teacher({"kind": "linear", "l2": 7.0})
        return train(self, *arguments)

    monkeypatch.setattr(settings_search._Search, "_train", found)
    assert tune(started).config.teacher == started.config.teacher


def test_with_a_budget_the_best_file_has_one_student(fresh, quick):
    budget = "export.budget=bytes<=1GB", "sweep.vary={student={dim=[8,16]}}"
    document = write_search(tune(pipeline(fresh, "tune.trials=1", *budget)))
    config = load_config(Path(document["files"]["best"]))
    [only] = config.sweep.students(config.student, has_history=True)
    assert only == {"student.dim": 4, "export.storage": "float32"}


def test_a_trial_has_the_kind_of_lists_of_its_run(fresh):
    started = pipeline(fresh, "lists.size=auto")
    assert started.config.lists.size == "auto"
    started.run("prepare")
    quiet = small_pipelines.quiet
    variant = started.variant(started.config, fresh / "trial", ["prepare"], quiet)
    assert variant.context.config.lists.size == "catalogue"


@pytest.mark.parametrize(
    ("settings", "extra"),
    [
        ({"student.dim": 6, "lists.tail": 5}, []),
        ({"student.dim": 6}, ["student.warm_start=baseline"]),
    ],
)
def test_a_trial_of_another_width_has_its_own_baseline(fresh, settings, extra):
    # Its baseline retrieves the lists, or it starts from its baseline.
    retrieved = "lists.size=retrieved", "distill.gate=warn"
    started = pipeline(fresh, *retrieved, small_pipelines.LINEAR, *extra)
    for step in ("score", "baseline"):
        started.run(step)
    folder = fresh / "runs/tiny/tune"
    folder.mkdir()
    search = settings_search._Search(started, folder)
    config = with_settings(started.context.config, settings)
    artefact = search._train(config, 0, lambda *point: None)
    found = {path.name.partition("-")[0] for path in search._trials.iterdir()}
    assert {"baseline", "pilot", "closure", "distill"} <= found
    assert artefact.record["parameters"] > 0


def test_a_closed_gate_does_not_stop_a_trial(fresh, monkeypatch):
    gates = []

    def train(self, config, number, observe):
        gates.append(config.distill.gate)
        return Artefact(Path("distill-1"), "key", {"valid": 0.5}, False)

    monkeypatch.setattr(settings_search._Search, "_train", train)
    monkeypatch.setattr(
        "recdistill.pipeline.steps.distill.check_gate", lambda run: None
    )
    tune(pipeline(fresh, "tune.trials=1", "distill.gate=stop"))
    assert gates == ["warn"]
