"""An automatic teacher: candidates, budget, resumption, the result, and its folds."""

import tomllib
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from recdistill.data.collation import Collator
from recdistill.data.shard_reading import read_lists
from recdistill.errors import TrainingError
from recdistill.pipeline.config import Config
from recdistill.pipeline.models.model_building import TeacherBuilder
from recdistill.pipeline.models.weights_file import WEIGHTS
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps.teacher import TeacherStep
from recdistill.pipeline.teacher_training import ensemble_weights, teacher_search
from recdistill.pipeline.teacher_training.ensemble_weights import EnsembleChoice
from recdistill.pipeline.teacher_training.teacher_search import (
    TeacherSearch,
    candidates,
)
from recdistill.pipeline.training.trainer import Trainer
from tests import small_pipelines

pytestmark = pytest.mark.slow

SMALL = ("evaluate.valid_lists=40", "lists.contexts=60")
FOLDS = 2
AUTOMATIC = "teacher={kind='automatic', budget='100s'}"


def kinds(config):
    return [each.kind for each in candidates(config)]


def test_candidates_are_in_the_order_of_their_cost():
    assert kinds(small_pipelines.config()) == [
        *("linear", "linear", "linear", "transition"),
        *("sequence", "reference", "sequence", "sequence"),
    ]


def test_without_a_history_only_the_reference_ranker_is_a_candidate():
    config = small_pipelines.config(
        query={"user_id": {"kind": "id"}}, teacher={"kind": "automatic"}
    )
    assert kinds(config) == ["reference"]


def small_candidates(config):
    """Two linear item models and two sequence rankers, which train in a moment."""
    sequence = {"kind": "sequence", "dim": 4, "blocks": 1}
    yield teacher_search.LinearTeacherConfig(l2=1e9)
    yield teacher_search.LinearTeacherConfig(l2=20.0)
    yield teacher_search.SequenceTeacherConfig(**sequence, steps=2)
    yield teacher_search.SequenceTeacherConfig(**sequence, steps=3)


class Stopped(KeyboardInterrupt):
    """Stands for the end of the process."""


def stopped_before(original, number):
    """A function whose call of this number, from 0, stops the process, once."""
    calls = count()

    def function(*args):
        if next(calls) == number:
            raise Stopped
        return original(*args)

    return function


def chosen(*_):
    """A choice of weights that takes no time."""
    return EnsembleChoice((0.4, 0.6), (0.1, 0.2), (0.2, 0.1), 0.3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search that was stopped before its last candidate, and the steps trained.

    Each look at the clock is a second later than the one before, and a sequence ranker
    is said to need 30 seconds for each training step.
    """
    folder, begun, ticks = tmp_path_factory.mktemp("search"), [], count()
    train = Trainer.teacher

    def training(self, model, settings, shards=None, part=""):
        begun.append(settings.steps)
        return train(self, model, settings, shards, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "teacher", training)
        patch.setattr(Trainer, "teacher_seconds", lambda self, model, s: 30.0 * s.steps)
        patch.setattr(teacher_search, "candidates", small_candidates)
        patch.setattr(teacher_search, "perf_counter", lambda: float(next(ticks)))
        patch.setattr(teacher_search, "number_of_weights", lambda members: 1)
        patch.setattr(ensemble_weights, "choose_weights", chosen)
        patch.setattr(TeacherSearch, "_try", stopped_before(TeacherSearch._try, 3))
        config = small_pipelines.load(folder, AUTOMATIC, *SMALL)
        with pytest.raises(Stopped):
            Pipeline(config).run("teacher")
        pipeline = Pipeline(config)
        artefact = pipeline.run("teacher")
    return pipeline, artefact, begun


@pytest.fixture(scope="module")
def pasted(finished):
    """A run with the section that was found, with folds, stopped before the last one.

    Returns:
        The pipeline, its artefacts, what its training runs left out, and the weights of
        the folds that the stopped attempt has finished.
    """
    pipeline, artefact, _ = finished
    said = "\n".join(TeacherStep().details(artefact.record))
    section = tomllib.loads(said[said.index("[teacher]") :])
    assert section == {"teacher": artefact.record["chosen"]}
    section["teacher"]["members"][1]["folds"] = FOLDS
    given = pipeline.config.model_dump(mode="json", exclude_unset=True)
    config = Config.model_validate({**given, **section})
    done, left_out, train = {}, [], Trainer.teacher

    def training(self, model, settings, shards=None, part=""):
        left_out.append(part)
        return train(self, model, settings, shards, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "teacher", stopped_before(training, FOLDS))
        with pytest.raises(Stopped):
            Pipeline(config).run("teacher")
        root = config.workdir / config.name
        files = root.glob(f".partial-teacher*/folds/*/{WEIGHTS}")
        before = {path.parent.name: path.read_bytes() for path in files}
        again = Pipeline(config, announce=done.__setitem__)
        again.run("score")
    return again, done, left_out, before


def test_a_candidate_that_would_not_be_finished_in_time_is_not_begun(finished):
    _, artefact, begun = finished
    # 60 of 100 seconds are needed for two steps, and 90 for three.
    assert begun == [2]
    *fitted, first, second = artefact.record["tried"]
    assert [each["reason"] for each in (*fitted, first)] == [None] * 3
    assert [each["estimated_seconds"] for each in (first, second)] == [60, 90]
    assert second["valid"] is None
    assert second["reason"].startswith("needs 90 s or more, ")
    settings = {"kind": "sequence", "dim": 4, "blocks": 1, "steps": 3}
    assert second["settings"] == settings


def test_the_best_candidate_of_each_kind_is_a_member(finished):
    _, artefact, _ = finished
    weak, strong, sequence, _ = artefact.record["tried"]
    assert weak["valid"] < strong["valid"]
    assert artefact.record["kind"] == "automatic"
    members = artefact.record["members"]
    assert [each["kind"] for each in members] == ["linear", "sequence"]
    assert [each["weight"] for each in members] == [0.4, 0.6]
    found = [{"kind": "linear", "l2": 20.0}, sequence["settings"]]
    assert artefact.record["chosen"]["members"] == found
    assert not [*artefact.path.glob("member-*")]
    assert not (artefact.path / "tried.json").exists()


def test_the_section_that_was_found_gives_the_same_teacher(finished, pasted):
    _, artefact, _ = finished
    other = pasted[1]["teacher"]
    assert other.path != artefact.path
    assert other.record["valid"] == artefact.record["valid"]
    weights = [each.record["sha256"][WEIGHTS] for each in (artefact, other)]
    assert weights[0] == weights[1]


def test_a_stopped_step_continues_with_the_training_run_that_it_had_begun(pasted):
    _, done, left_out, before = pasted
    # The whole data, and each fold once, although the first attempt was stopped.
    parts = [f"without fold {fold + 1} of {FOLDS}" for fold in range(FOLDS)]
    assert left_out == ["", *parts]
    folder = done["teacher"].path
    for name, weights in before.items():
        assert (folder / "folds" / name / WEIGHTS).read_bytes() == weights
    assert [*before] == ["member-1-without-0"]
    assert not [*folder.glob("member-*")], "What only a stopped attempt needs is gone."
    assert not [*folder.glob("folds/*/lists")]
    # Two steps on all lists are one step on half of them.
    folds = done["teacher"].record["folds"]
    assert [each["epoch_steps"] for each in folds] == [1, 1]
    assert [len(each["history"]) for each in folds] == [1, 1]


def test_training_lists_have_scores_of_the_fold_that_has_not_seen_their_query(pasted):
    pipeline, done, _, _ = pasted
    context, folder = pipeline.context, done["teacher"].path
    prepared, whole = context.prepared, context.teacher_model
    builder = TeacherBuilder(context.config, prepared, context.external, fit=False)
    folds = []
    for fold in range(FOLDS):
        model = builder.member(context.config.teacher.members[1])
        model.load_weights(folder / "folds" / f"member-1-without-{fold}" / WEIGHTS)
        folds.append(model)
    stored = read_lists(sorted(done["score"].path.glob("scores-*.parquet"))[0])
    collate = Collator(prepared.catalogue_size, training_rows=prepared.training_rows)
    one, two = context.config.teacher.weights
    differ = 0
    for row in range(0, 60, 6):
        own = stored.take(np.array([row]))
        x, _, _ = collate(own, np.random.default_rng(0))
        fold = int(prepared.training_rows.take(own.query_row).values.sum()) % FOLDS
        members = [whole.members[0], folds[fold], folds[1 - fold]]
        parts = [each(x).numpy() for each in members]
        want = np.where(x["mask"], one * parts[0] + two * parts[1], 0)
        np.testing.assert_allclose(own.teacher_scores, want, atol=3e-3)
        differ += not np.allclose(parts[2], parts[1], atol=3e-3)
    assert differ > 7


def test_a_search_without_a_suitable_candidate_is_an_error(tmp_path, monkeypatch):
    def refuse(self, settings):
        raise TrainingError("the lists are too short")

    one = [teacher_search.LinearTeacherConfig(l2=20.0)]
    monkeypatch.setattr(teacher_search, "candidates", lambda config: one)
    monkeypatch.setattr(TeacherSearch, "_valid", refuse)
    search = TeacherSearch(
        SimpleNamespace(config=None, progress=small_pipelines.quiet), tmp_path, 100.0
    )
    said = r"Received: none\. linear \(l2 20\.0\): the lists are too short"
    with pytest.raises(TrainingError, match=said):
        search.members()
