"""The step assistant: a wider student between the teacher and a narrow one."""

import numpy as np
import pytest

from recdistill import losses
from recdistill.data.collation import Collator
from recdistill.errors import ConfigError
from recdistill.evaluation.report.terminal_tables import soft_targets_line
from recdistill.losses import relational_distance
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps import STEPS
from recdistill.pipeline.training.training_batches import (
    averaged_with,
    training_batches,
)
from tests import small_pipelines
from tests.pipeline.tiny_runs import go, made, weights

pytestmark = pytest.mark.slow

WITH = "distill.assistant={dim=6}"


def test_a_narrow_student_learns_from_its_assistant_as_well(copied):
    direct = go(copied, until="distill")["distill"]
    done = go(copied, WITH, until="distill")
    assert made(done) == ["assistant", "distill"]
    record, assistant = done["distill"].record, done["assistant"].record
    named = {"dim": 6, "valid": assistant["valid"]}
    assert record["soft_targets"]["assistant"] == named
    assert direct.record["soft_targets"]["assistant"] is None
    said = " ".join(STEPS["distill"].details(record))
    assert f"an assistant of width 6, which has {assistant['valid']:.4f}" in said
    assert "averaged with an assistant of width 6" in soft_targets_line(
        record["soft_targets"]
    )
    widths = {
        name: {
            each.shape[-1] for each in weights(done[name].path).values() if each.ndim
        }
        for name in ("assistant", "distill")
    }
    assert 6 in widths["assistant"] and 6 not in widths["distill"]
    # An assistant does not depend on the student's width: another student shares it.
    other = go(copied, WITH, "student.dim=5", until="assistant")
    assert other["assistant"].key == done["assistant"].key
    assert made(other) == []
    # A student that is not narrower learns from the teacher.
    same = go(copied, "distill.assistant={dim=4}", until="distill")
    assert made(same) == [] and same["distill"].key == direct.key
    run = Pipeline(small_pipelines.load(copied, WITH))
    run.run("distill")
    assert run.context.soft_targets_part.assistant.dim == 6
    _soft_targets_are_the_mean_of_both(run.context)


def _soft_targets_are_the_mean_of_both(run):
    """Compares batches with products of the assistant's embeddings."""
    model, files = run.assistant_model, run.score_files("score")
    collate = Collator(run.prepared.catalogue_size, with_teacher=True)
    stored = training_batches(files, collate, 16, seed=1)
    [(before, _, _)] = list(stored.take(1))
    [(x, _, _)] = list(averaged_with(model, stored).take(1))
    queries = model.encode_query(x["query"]).numpy()
    items = model.encode_candidates(model.candidate_table(x["candidate_index"])).numpy()
    want = (before["teacher_scores"].numpy() + queries @ items.T) / 2
    np.testing.assert_allclose(x["teacher_scores"], want, rtol=1e-4, atol=1e-5)


def test_a_loss_can_compare_the_embeddings_of_student_and_assistant(
    copied, monkeypatch
):
    seen = []

    def record(self, teacher, student, mask, weight):
        seen.append((teacher.shape[-1], student.shape[-1]))
        return relational_distance(teacher, student, mask, weight)

    monkeypatch.setattr(losses.RelationalDistance, "compare", record)
    terms = "[{name='ListwiseKLDivergence'}, {name='RelationalDistance', weight=0.1}]"
    done = go(copied, f"distill.loss={terms}", WITH, until="distill")
    assert made(done) == ["assistant", "distill"]
    assert set(seen) == {(6, 4)}


@pytest.mark.parametrize(
    ("assistant", "others", "said"),
    [
        ("", "{name='PairwiseMarginMSE'}, ", "only with those of an assistant"),
        ("assistant={dim=6}, ", "", "must have a loss on scores beside"),
    ],
)
def test_losses_on_embeddings_say_what_they_need(tmp_path, assistant, others, said):
    section = f"distill={{{assistant}loss=[{others}{{name='HintMSE'}}]}}"
    with pytest.raises(ConfigError, match=f"{said}.*Received: .*HintMSE"):
        small_pipelines.load(tmp_path, section)


def test_the_step_without_an_assistant_says_what_is_missing(copied):
    with pytest.raises(
        ConfigError, match=r"`distill.assistant` with a `dim` above .*4"
    ):
        go(copied, until="assistant")


def test_towers_of_a_factory_have_no_assistant(tmp_path):
    towers = "student={factory='package.module:towers'}"
    with pytest.raises(ConfigError, match=r"`distill.assistant` must be left out"):
        small_pipelines.load(tmp_path, WITH, towers)
