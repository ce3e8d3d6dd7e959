"""The step assistant: a wider student between the teacher and a narrow one."""

import numpy as np
import pytest

from recdistill.data.collation import Collator
from recdistill.errors import ConfigError
from recdistill.evaluation.report.terminal_tables import soft_targets_line
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps import STEPS
from recdistill.pipeline.training_batches import scored_by, training_batches
from tests import small_pipelines
from tests.pipeline.tiny_runs import go, made, weights

pytestmark = pytest.mark.slow

WITH = "distill.assistant={dim=6}"


def test_a_narrow_student_learns_from_the_scores_of_its_assistant(copied):
    direct = go(copied, until="distill")["distill"]
    done = go(copied, WITH, until="distill")
    assert made(done) == ["assistant", "distill"]
    record, assistant = done["distill"].record, done["assistant"].record
    named = {"dim": 6, "valid": assistant["valid"]}
    assert record["soft_targets"]["assistant"] == named
    assert direct.record["soft_targets"]["assistant"] is None
    said = " ".join(STEPS["distill"].details(record))
    assert f"an assistant of width 6, which has {assistant['valid']:.4f}" in said
    assert "through an assistant of width 6" in soft_targets_line(
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
    other = go(copied, WITH, "student.dim=5", until="distill")
    assert made(other) == ["baseline", "distill"]
    # A student that is not narrower learns from the teacher.
    same = go(copied, "distill.assistant={dim=4}", until="distill")
    assert made(same) == [] and same["distill"].key == direct.key
    run = Pipeline(small_pipelines.load(copied, WITH))
    run.run("distill")
    assert run.context.soft_targets_part.assistant.dim == 6
    _batches_have_the_scores_of(run.context)


def _batches_have_the_scores_of(run):
    """Checks batches against products of the assistant's embeddings."""
    model, files = run.assistant_model, run.score_files("score")
    collate = Collator(run.prepared.catalogue_size, with_teacher=True)
    stored = training_batches(files, collate, 16, seed=1)
    [(x, _, _)] = list(scored_by(model, stored).take(1))
    queries = model.encode_query(x["query"]).numpy()
    items = model.encode_candidates(model.candidate_table(x["candidate_index"])).numpy()
    np.testing.assert_allclose(x["teacher_scores"], queries @ items.T, rtol=1e-4)


def test_the_step_without_an_assistant_says_what_is_missing(copied):
    with pytest.raises(
        ConfigError, match=r"`distill.assistant` with a `dim` above .*4"
    ):
        go(copied, until="assistant")


def test_towers_of_a_factory_have_no_assistant(tmp_path):
    with pytest.raises(ConfigError, match=r"`distill.assistant` must be left out"):
        small_pipelines.load(tmp_path, WITH, "student.factory=package.module:towers")
