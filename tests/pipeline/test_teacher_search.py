"""Search for an automatic teacher: candidates, budget, resumption, and the result."""

from itertools import count
from types import SimpleNamespace

import pytest

from recdistill.errors import TrainingError
from recdistill.pipeline import teacher_search
from recdistill.pipeline.runner import Pipeline
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
    """The steps of a search that was stopped once, and the runs of its trainings.

    Each look at the clock is a second later than the one before, and a sequence ranker
    is said to need 30 seconds for each training step.
    """
    folder, done, begun = tmp_path_factory.mktemp("search"), {}, []
    original = Trainer.teacher

    def training(self, model, settings, shards=None, part=""):
        begun.append(settings.steps)
        result = original(self, model, settings, shards, part)
        if len(begun) == 1:
            raise KeyboardInterrupt
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "teacher", training)
        patch.setattr(Trainer, "teacher_seconds", lambda self, model, s: 30.0 * s.steps)
        patch.setattr(teacher_search, "candidates", small_candidates)
        ticks = count()
        patch.setattr(teacher_search, "perf_counter", lambda: float(next(ticks)))
        patch.setattr(teacher_search, "number_of_weights", lambda members: 1)
        config = small_pipelines.load(folder, AUTOMATIC, *SMALL)
        with pytest.raises(KeyboardInterrupt):
            Pipeline(config).run("score")
        pipeline = Pipeline(config, announce=done.__setitem__)
        pipeline.run("score")
    return folder, pipeline, done, begun


def test_a_candidate_that_would_not_be_finished_in_time_is_not_begun(finished):
    _, _, done, begun = finished
    # 60 of 100 seconds are needed for two steps, and 90 for three.
    assert begun == [2, 2]
    *fitted, first, second = done["teacher"].record["tried"]
    assert [each["reason"] for each in (*fitted, first)] == [None] * 3
    assert [each["estimated_seconds"] for each in (first, second)] == [60, 90]
    assert second["valid"] is None
    assert second["reason"].startswith("needs 90 s, and ")
    assert second["settings"] == {"kind": "sequence", "dim": 4, "blocks": 1, "steps": 3}


def test_the_best_candidate_of_each_kind_is_a_member(finished):
    record = finished[2]["teacher"].record
    weak, strong, sequence, _ = record["tried"]
    assert weak["valid"] < strong["valid"]
    assert record["kind"] == "automatic"
    assert [each["kind"] for each in record["members"]] == ["linear", "sequence"]
    alone = [each["valid"] for each in record["members"]]
    assert alone == pytest.approx([strong["valid"], sequence["valid"]], abs=1e-6)
    assert not [*finished[2]["teacher"].path.glob("member-*")]
    assert not (finished[2]["teacher"].path / "tried.json").exists()


def test_the_section_that_was_found_gives_the_same_teacher(finished):
    _, pipeline, done, _ = finished
    record = done["teacher"].record
    assert pipeline.context.config.teacher.kind != "automatic"
    again = {}
    found = pipeline.config.model_copy(
        update={"teacher": pipeline.context.config.teacher}
    )
    Pipeline(found, announce=again.__setitem__).run("score")
    assert not again["teacher"].reused
    assert again["teacher"].record["valid"] == record["valid"]
    sums = [each["teacher"].record["sha256"][WEIGHTS] for each in (done, again)]
    assert sums[0] == sums[1]
    # The scores of the first run are kept.
    assert again["score"].record["kept_scores"] == again["score"].record["lists"]


def test_a_search_without_a_suitable_candidate_is_an_error(tmp_path, monkeypatch):
    def refuse(self, settings):
        raise TrainingError("the lists are too short")

    one = [teacher_search.LinearTeacherConfig(l2=20.0)]
    monkeypatch.setattr(teacher_search, "candidates", lambda config: one)
    monkeypatch.setattr(TeacherSearch, "_valid", refuse)
    search = TeacherSearch(SimpleNamespace(config=None), tmp_path, 100.0)
    said = r"Received: none\. linear \(l2 20\.0\): the lists are too short"
    with pytest.raises(TrainingError, match=said):
        search.members()
