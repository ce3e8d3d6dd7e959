"""composite_optimizer: tables and dense weights have an optimizer each."""

import h5py
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


def test_accumulated_batches_count_once():
    def part(kind):
        return kind(0.05, gradient_accumulation_steps=4)

    x, y = embedding_data()
    model = embedding_model()
    optimizer = CompositeOptimizer(part(LazyAdam), part(keras.optimizers.Adam))
    model.compile(optimizer, loss="mse")
    for _ in range(8):
        model.train_on_batch(x, y)
    assert int(optimizer.iterations) == 2


def test_the_state_is_saved_once(tmp_path):
    x, y = embedding_data()
    model = embedding_model()
    model.compile(composite(), loss="mse")
    model.fit(x, y, verbose=0)
    model.save_weights(tmp_path / "composite.weights.h5")
    with h5py.File(tmp_path / "composite.weights.h5") as file:
        saved: list[object] = []
        file["optimizer"].visititems(lambda _, each: saved.append(each))
        tensors = [each for each in saved if isinstance(each, h5py.Dataset)]
    assert len(tensors) == len(model.optimizer.variables)


def test_averages_of_weights_are_written_at_the_end():
    x, y = embedding_data()
    model = embedding_model()
    averaged = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    model.compile(CompositeOptimizer(LazyAdam(0.05), averaged), loss="mse")
    model.fit(x, y, verbose=0)
    dense = [v for v in model.trainable_variables if "embeddings" not in v.path]
    averages = averaged._model_variables_moving_average
    assert len(dense) == len(averages)
    for weight, average in zip(dense, averages, strict=True):
        np.testing.assert_array_equal(weight.numpy(), average.numpy())


@pytest.mark.parametrize("names", [["bias", "embeddings"], ["bias"], ["embeddings"]])
def test_variables_are_excluded_from_the_weight_decay_of_both(names):
    optimizer = CompositeOptimizer(
        LazyAdam(0.1, weight_decay=0.5), keras.optimizers.SGD(0.1, weight_decay=0.5)
    )
    layer = keras.layers.Embedding(3, 1, embeddings_initializer="ones")
    layer.build()
    bias = keras.Variable([1.0], name="bias")
    optimizer.exclude_from_weight_decay(var_names=names)
    rows = tf.IndexedSlices(tf.zeros((1, 1)), [1], [3, 1])
    optimizer.apply([rows, tf.zeros(1)], [layer.embeddings, bias])
    decayed = 1.0 - 0.1 * 0.5
    assert float(bias[0]) == pytest.approx(1.0 if "bias" in names else decayed)
    row = 1.0 if "embeddings" in names else decayed
    assert float(layer.embeddings[1, 0]) == pytest.approx(row)


def test_variables_without_a_gradient_are_named():
    optimizer, first, second = composite(), *(keras.Variable([1.0]) for _ in "ab")
    optimizer.build([first, second])
    with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
        optimizer.apply([None, keras.ops.ones(1)], [first, second])
    assert first.numpy() == 1.0 and second.numpy() != 1.0
    with pytest.raises(ValueError, match="No gradients provided"):
        optimizer.apply([None, None], [first, second])


def test_a_loss_scale_is_refused():
    scaled = keras.optimizers.SGD(0.1, loss_scale_factor=2.0, name="scaled")
    with pytest.raises(ValueError, match=r"`loss_scale_factor`.*scaled"):
        CompositeOptimizer(LazyAdam(0.05), scaled)


def test_a_variable_that_is_unfrozen_later_is_refused():
    x, y = embedding_data()
    model = embedding_model()
    model.layers[-1].trainable = False
    optimizer = composite()
    model.compile(optimizer, loss="mse")
    model.fit(x, y, verbose=0)
    model.layers[-1].trainable = True
    model.compile(optimizer, loss="mse")
    with pytest.raises(ValueError, match="Unknown variable"):
        model.fit(x, y, verbose=0)
