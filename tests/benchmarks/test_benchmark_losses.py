"""benchmarks.losses: a small experiment, from a pipeline to its table."""

import json

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import losses as experiment
from benchmarks.losses import BASELINE, DEFAULT_LOSS, NDCG, OVERLAP
from recdistill import losses
from tests import contracts, small_pipelines

pytestmark = pytest.mark.slow

SETTINGS = experiment.Settings(
    contenders=(DEFAULT_LOSS, BASELINE), temperatures=(1.0, 2.0), seeds=(1,), samples=50
)
SMALLER = (
    "dataset.synthetic={ queries = 80, items = 30, interactions = 1_200, seed = 2 }",
    'query={ history = { kind = "history", length = 8 } }',
    'candidate={ item_id = { kind = "id" } }',
    'teacher={ kind = "linear", l2 = 20.0 }',
    "student.steps=4",
    "evaluate.valid_lists=50",
)


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    return experiment.open_arena(
        small_pipelines.load(tmp_path_factory.mktemp("losses"), *SMALLER)
    )


@pytest.fixture(scope="module")
def document(arena):
    return experiment.run(arena, SETTINGS)


def test_every_loss_is_evaluated_and_compared(document):
    assert list(document["losses"]) == list(SETTINGS.contenders)
    for name, each in document["losses"].items():
        for split in ("valid", "test"):
            for metric in (NDCG, OVERLAP):
                value, low, high = each[split][metric]
                assert 0.0 <= low <= value <= high <= 1.0
        for other in (DEFAULT_LOSS, BASELINE):
            assert (f"test_minus_{other}" in each) == (other != name)
        assert each["ms_a_step"] > 0.0
    assert document["lists"]["valid"] > 0


def test_the_best_trial_on_validation_is_chosen(document):
    for name, each in document["losses"].items():
        assert len(each["trials"]) == (1 if name == BASELINE else 2)
        assert each["valid"][NDCG][0] == pytest.approx(max(each["trials"].values()))


def test_trained_students_are_reused(arena, document, monkeypatch):
    def no_training(*_, **__):
        raise RuntimeError("a student was trained again")

    monkeypatch.setattr(experiment, "train", no_training)
    again = experiment.choose(arena, DEFAULT_LOSS, SETTINGS, experiment.quiet)
    assert again.trials == document["losses"][DEFAULT_LOSS]["trials"]
    with pytest.raises(RuntimeError, match="trained again"):
        experiment.choose(arena, "PointwiseMSE", SETTINGS, experiment.quiet)


def test_both_files_are_written(document, tmp_path):
    experiment.write(document, tmp_path)
    assert json.loads((tmp_path / "losses.json").read_text()) == json.loads(
        json.dumps(document)
    )
    text = (tmp_path / "LOSSES.md").read_text(encoding="utf-8")
    for name in SETTINGS.contenders:
        assert name in text


def test_every_loss_on_teacher_scores_is_compared():
    wanted = {
        cls.__name__
        for cls in contracts.list_losses()
        if contracts.learns_from_teacher(cls)
    }
    # The second needs the strata of popularity, which these batches do not have.
    left_out = {
        losses.ListwiseSoftCrossEntropy.__name__,
        losses.StratifiedKLDivergence.__name__,
    }
    assert wanted - left_out == set(experiment.CONTENDERS) - {BASELINE}


def test_rows_of_seeds_are_averaged_for_each_list():
    def table(ndcg, overlap):
        return pa.table({"list_id": [3, 4], NDCG: ndcg, OVERLAP: overlap})

    got = experiment.mean_rows(
        [table([0.0, 1.0], [0.5, 0.5]), table([1.0, 1.0], [0, 1.0])]
    )
    np.testing.assert_allclose(got[NDCG], [0.5, 1.0])
    np.testing.assert_allclose(got[OVERLAP], [0.25, 0.75])


def test_command_line_has_the_defaults_of_the_settings():
    given = experiment.arguments(["pipeline.toml", "--set", "student.steps=7"])
    settings = experiment.Settings()
    assert given.set == ["student.steps=7"]
    assert tuple(given.losses) == settings.contenders
    assert given.weight == settings.weight
    assert given.seeds == settings.seeds
