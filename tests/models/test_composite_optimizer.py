"""composite_optimizer: tables and dense weights have an optimizer each."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.models import CompositeOptimizer, LazyAdam
from tests.small_models import embedding_data, embedding_model

pytestmark = pytest.mark.slow


def composite() -> CompositeOptimizer:
    return CompositeOptimizer(LazyAdam(0.05), keras.optimizers.SGD(0.1, momentum=0.9))


def test_tables_and_dense_weights_have_their_own_optimizer():
    x, y = embedding_data()
    model = embedding_model()
    before = [each.numpy() for each in model.weights]
    optimizer = CompositeOptimizer(LazyAdam(0.0), keras.optimizers.SGD(0.1))
    model.compile(optimizer, loss="mse")
    model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(model.weights[0].numpy(), before[0])
    assert not np.array_equal(model.weights[1].numpy(), before[1])
    assert optimizer.iterations.numpy() == 1


def test_rows_outside_the_data_keep_their_value():
    x, y = embedding_data()
    model = embedding_model()
    before = model.weights[0].numpy()
    model.compile(composite(), loss="mse")
    model.fit(x, y, verbose=0)
    after = model.weights[0].numpy()
    np.testing.assert_array_equal(after[20:], before[20:])
    assert not np.isclose(after[np.unique(x)], before[np.unique(x)]).all(1).any()


def test_setting_one_learning_rate_names_the_two():
    with pytest.raises(AttributeError, match=r"optimizer\.tables\.learning_rate"):
        composite().learning_rate = 0.1


def test_a_model_without_tables_trains():
    variable = keras.Variable([1.0])
    composite().apply([tf.constant([1.0])], [variable])
    np.testing.assert_allclose(variable.numpy(), [0.9], rtol=1e-6)
