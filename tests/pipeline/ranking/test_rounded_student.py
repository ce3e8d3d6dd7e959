"""rounded_student: scores with the item embeddings of the export."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.models.two_tower import TwoTowerStudent
from recdistill.pipeline.models.scorers import compiled
from recdistill.pipeline.ranking.rounded_student import as_exported
from recdistill.pipeline.ranking.two_tower_catalogue import item_embeddings
from tests.small_models import build_batch, build_catalogue, build_schema

STEPS = 127


@pytest.fixture(scope="module")
def student():
    return TwoTowerStudent(build_schema(), build_catalogue(), dim=4, embedding_dim=3)


def test_scores_are_those_of_rounded_items_whatever_the_candidates(student):
    batch = build_batch()
    queries = student.encode_query(batch["query"]).numpy()
    items = item_embeddings(student).numpy()
    step = np.abs(items).max(axis=0) / STEPS
    rounded = np.round(items / step) * step
    listed = rounded[batch["candidate_index"]]
    want = (queries[:, None] * listed).sum(axis=2)
    # The scales are those of the catalogue, not of a few candidates.
    score = compiled(as_exported(student, "int8"))
    np.testing.assert_allclose(score(batch), want, rtol=1e-5, atol=1e-6)
    assert np.abs(student(batch) - want).max() > 1e-4
    halved = tf.cast(tf.cast(items, tf.bfloat16), tf.float32).numpy()
    want = (queries[:, None] * halved[batch["candidate_index"]]).sum(axis=2)
    got = as_exported(student, "bfloat16")(batch)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_an_export_in_float32_scores_as_the_student(student):
    assert as_exported(student, "float32") is student
