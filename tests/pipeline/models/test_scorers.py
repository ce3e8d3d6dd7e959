"""Scorers: models as functions of a batch."""

import keras
import numpy as np
import tensorflow as tf

from recdistill.pipeline.models.scorers import PopularityScorer, compiled, with_progress


def test_a_compiled_model_is_traced_once_for_each_set_of_inputs():
    traces = []

    class Counting(keras.Model):
        def call(self, batch, training=False):
            traces.append(training)
            return tf.reduce_sum(batch["a"], -1) + sum(
                tf.reduce_sum(batch[name]) for name in batch if name != "a"
            )

    score = compiled(Counting())
    for size in (2, 7):
        got = score({"a": np.ones((size, size + 1), "float32")})
        np.testing.assert_array_equal(got, np.full(size, size + 1.0))
    assert traces == [False]
    both = {"a": np.ones((2, 3), "float32"), "b": np.ones((1, 4), "float32")}
    np.testing.assert_array_equal(score(both), [7.0, 7.0])
    assert traces == [False, False]


def test_popularity_scores_every_list_by_the_training_counts():
    score = PopularityScorer(np.array([3.0, 1.0, 2.0], "float32"))
    mask = np.ones((2, 3), bool)
    got = score({"candidate_index": np.arange(3), "mask": mask})
    np.testing.assert_array_equal(got, [[3, 1, 2], [3, 1, 2]])
    got = score({"candidate_index": np.array([[2, 0], [1, 1]]), "mask": mask[:, :2]})
    np.testing.assert_array_equal(got, [[2, 3], [1, 1]])


def test_a_scorer_reports_progress_after_each_call():
    calls = []
    score = with_progress(
        lambda x: x["mask"], "Evaluating", 5, lambda *call: calls.append(call)
    )
    for rows in (2, 3):
        assert len(score({"mask": np.ones((rows, 4), bool)})) == rows
    assert calls == [("Evaluating", 2, 5), ("Evaluating", 5, 5)]
