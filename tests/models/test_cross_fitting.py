"""cross_fitting: folds follow from training rows, and each list has its own scorer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.data.ragged import Ragged
from recdistill.models.cross_fitting import CrossFittedTeacher, folds_of


class Constant(keras.Model):
    """A teacher whose scores say which model gave them, and for which list."""

    def __init__(self, value):
        super().__init__(autocast=False)
        self.value, self.sizes, self.types = value, [], []
        self.built = True

    def call(self, batch, training=False):
        self.sizes.append(int(tf.shape(batch["mask"])[0]))
        self.types.append(batch["query"]["age"].dtype)
        own = tf.cast(batch["query"]["number"], "float32")[:, None]
        item = tf.cast(batch["candidate_index"], "float32")
        return 100.0 * self.value + 10.0 * own + item


def batch(index, training_row):
    return {
        "candidate_index": tf.constant(index),
        "mask": tf.ones([len(training_row), 2], tf.bool),
        "query": {
            "number": tf.range(len(training_row)),
            "age": tf.fill([len(training_row)], 70_000.0),
        },
        "training_row": tf.constant(training_row),
    }


def test_the_fold_of_a_query_is_the_sum_of_its_training_row():
    rows = Ragged(np.array([2, 4, 3, 7, 7]), np.array([0, 2, 2, 3, 5]))
    np.testing.assert_array_equal(folds_of(rows, 3), [0, 0, 0, 2])
    np.testing.assert_array_equal(folds_of(rows, 5), [1, 0, 3, 4])


@pytest.mark.parametrize(
    "index", [[1, 3], [[1, 3]] * 4], ids=["shared candidates", "own candidates"]
)
def test_each_list_is_scored_by_the_model_of_its_fold(index):
    # The sums are 6, 0, 3 and 14; the middle model has no list.
    training_row = [[2, 4], [0, 0], [3, 0], [7, 7]]
    models = [Constant(1), Constant(2), Constant(3)]
    scores = CrossFittedTeacher(models)(batch(index, training_row))
    want = [[101, 103], [111, 113], [121, 123], [331, 333]]
    np.testing.assert_array_equal(scores, want)
    assert [model.sizes for model in models] == [[3], [0], [1]]


def test_the_teachers_receive_the_batch_in_its_own_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = Constant(1)
        CrossFittedTeacher([model])(batch([1, 3], [[2, 4]]))
    finally:
        keras.config.set_dtype_policy(before)
    assert model.types == [tf.float32]
