"""training_batches: stored scores become soft targets."""

import numpy as np
import tensorflow as tf

from recdistill.pipeline.training import training_batches
from recdistill.pipeline.training.soft_targets import SoftTargets


def test_scores_are_transformed_and_lists_of_equal_scores_teach_nothing(monkeypatch):
    x = {
        "teacher_scores": np.array([[5.0, 3.0, 9.0], [7.0, 7.0, 9.0]], "float32"),
        "mask": np.array([[True, True, False], [True, True, False]]),
    }
    one_batch = tf.data.Dataset.from_tensors((x, {}, np.ones(2, "float32")))
    monkeypatch.setattr(training_batches, "batches", lambda *_, **__: one_batch)
    targets = SoftTargets("z_score", 2.0, None, None)
    [(got, _, _)] = training_batches.training_batches([], None, 2, 1, targets)
    # Z-scores of 1 and -1, divided by the temperature.
    np.testing.assert_allclose(got["teacher_scores"], [[0.5, -0.5, 0], [0, 0, 0]])
    np.testing.assert_array_equal(got["teacher_weight"], [1.0, 0.0])
    [(plain, _, _)] = training_batches.training_batches([], None, 2, 1)
    assert "teacher_weight" not in plain
    np.testing.assert_array_equal(plain["teacher_scores"], x["teacher_scores"])
