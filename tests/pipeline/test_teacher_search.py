"""Search for an automatic teacher: candidates, budget, resumption, and the result."""

import tomllib
from itertools import count
from types import SimpleNamespace

import pytest

from recdistill.errors import TrainingError
from recdistill.pipeline import teacher_search
from recdistill.pipeline.config import Config
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps.score import _identity
from recdistill.pipeline.steps.teacher import TeacherStep
from recdistill.pipeline.teacher_search import TeacherSearch, candidates
from recdistill.pipeline.trainer import Trainer
from recdistill.pipeline.weights_file import WEIGHTS
from tests import small_pipelines

pytestmark = pytest.mark.slow

SMALL = ("evaluate.valid_lists=40", "lists.contexts=60")
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search that was stopped before its last candidate, and the steps trained.

    Each look at the clock is a second later than the one before, and a sequence ranker
    is said to need 30 seconds for each training step.
    """
    folder, begun, ticks = tmp_path_factory.mktemp("search"), [], count()
    train, attempt = Trainer.teacher, TeacherSearch._try

    def training(self, model, settings, shards=None, part=""):
        begun.append(settings.steps)
        return train(self, model, settings, shards, part)

    def stopped(self, settings, tried):
        if len(tried) == 3:
            raise KeyboardInterrupt
        return attempt(self, settings, tried)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "teacher", training)
        patch.setattr(Trainer, "teacher_seconds", lambda self, model, s: 30.0 * s.steps)
        patch.setattr(teacher_search, "candidates", small_candidates)
        patch.setattr(teacher_search, "perf_counter", lambda: float(next(ticks)))
        patch.setattr(teacher_search, "number_of_weights", lambda members: 1)
        config = small_pipelines.load(folder, AUTOMATIC, *SMALL)
        with patch.context() as once:
            once.setattr(TeacherSearch, "_try", stopped)
            with pytest.raises(KeyboardInterrupt):
                Pipeline(config).run("teacher")
        pipeline = Pipeline(config)
        artefact = pipeline.run("teacher")
    return pipeline, artefact, begun


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
    alone = [each["valid"] for each in members]
    assert alone == pytest.approx([strong["valid"], sequence["valid"]], abs=1e-6)
    assert not [*artefact.path.glob("member-*")]
    assert not (artefact.path / "tried.json").exists()


def test_the_section_that_was_found_gives_the_same_teacher_and_scores(finished):
    pipeline, artefact, _ = finished
    found = pipeline.context.config
    assert found.teacher.kind != "automatic"
    said = "\n".join(TeacherStep().details(artefact.record))
    pasted = tomllib.loads(said[said.index("[teacher]") :])
    assert pasted == {"teacher": artefact.record["chosen"]}
    document = {**pipeline.config.model_dump(mode="json", exclude_unset=True), **pasted}
    again = Pipeline(Config.model_validate(document))
    other = again.run("teacher")
    assert not other.reused
    assert other.record["valid"] == artefact.record["valid"]
    weights = [each.record["sha256"][WEIGHTS] for each in (artefact, other)]
    assert weights[0] == weights[1]
    # Scores of the first run are those of the second.
    runs = (pipeline.context, again.context)
    assert len({_identity(run, "score", apart=False) for run in runs}) == 1


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
