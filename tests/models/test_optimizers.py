"""Row-sparse optimizers: exact on touched rows, untouched rows stay as they were."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.models import CompositeOptimizer, LazyAdam, RowwiseAdagrad
from tests.small_models import embedding_data, embedding_model

pytestmark = pytest.mark.slow

ROWS, WIDTH = 7, 3


def table(dtype: str = "float32") -> keras.Variable:
    start = np.random.default_rng(0).standard_normal((ROWS, WIDTH))
    return keras.Variable(start, dtype=dtype, name="embeddings")


def slices(rows: list[int], seed: int) -> tf.IndexedSlices:
    values = np.random.default_rng(seed).standard_normal((len(rows), WIDTH))
    parts = (tf.constant(values, tf.float32), tf.constant(rows), [ROWS, WIDTH])
    return tf.IndexedSlices(*map(tf.convert_to_tensor, parts))


def dense(gradient: tf.IndexedSlices) -> np.ndarray:
    total = np.zeros((ROWS, WIDTH))
    np.add.at(total, np.asarray(gradient.indices), np.asarray(gradient.values, float))
    return total


BATCHES = [slices([0, 2, 2, 5], 1), slices([2, 3], 2), slices([5, 5, 5, 0], 3)]
OPTIMIZERS = pytest.mark.parametrize("kind", [LazyAdam, RowwiseAdagrad])


class AdamByRow:
    """Adam in float64, one row at a time, with the step of the row."""

    def __init__(self, start: np.ndarray, rate: float, decay: float = 0.0) -> None:
        self.value = start.astype(np.float64).copy()
        self.rate, self.decay = rate, decay
        self.m, self.v = np.zeros_like(self.value), np.zeros_like(self.value)
        self.t = [0] * len(self.value)

    def apply(self, gradient: np.ndarray, rows: set[int]) -> None:
        for r in rows:
            self.t[r] += 1
            for j, g in enumerate(gradient[r]):
                self.m[r, j] = 0.9 * self.m[r, j] + 0.1 * g
                self.v[r, j] = 0.999 * self.v[r, j] + 0.001 * g * g
                rate = self.rate * np.sqrt(1 - 0.999 ** self.t[r])
                step = rate / (1 - 0.9 ** self.t[r]) * self.m[r, j]
                step /= np.sqrt(self.v[r, j]) + 1e-7
                self.value[r, j] -= step + self.rate * self.decay * self.value[r, j]


class AdagradByRow:
    """Row-wise Adagrad in float64, one row at a time."""

    def __init__(self, start: np.ndarray, rate: float) -> None:
        self.value = start.astype(np.float64).copy()
        self.rate, self.total = rate, [0.0] * len(start)

    def apply(self, gradient: np.ndarray, rows: set[int]) -> None:
        for r in rows:
            self.total[r] += sum(g * g for g in gradient[r]) / WIDTH
            for j, g in enumerate(gradient[r]):
                self.value[r, j] -= self.rate * g / (np.sqrt(self.total[r]) + 1e-7)


def test_the_first_step_of_adam_is_one_learning_rate_against_the_sign():
    variable = keras.Variable([[1.0], [1.0]])
    LazyAdam(0.1).apply([tf.IndexedSlices([[5.0], [2.0]], [1, 1])], [variable])
    np.testing.assert_allclose(variable.numpy(), [[1.0], [0.9]], rtol=1e-6)


def test_the_first_step_of_adagrad_divides_by_the_root_mean_square_of_the_row():
    variable = keras.Variable([[1.0, 1.0], [1.0, 1.0]])
    RowwiseAdagrad(1.0).apply([tf.IndexedSlices([[3.0, 4.0]], [1])], [variable])
    right = [[1, 1], [1 - 3 / 12.5**0.5, 1 - 4 / 12.5**0.5]]
    np.testing.assert_allclose(variable.numpy(), right, rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("kind", "reference"), [(LazyAdam, AdamByRow), (RowwiseAdagrad, AdagradByRow)]
)
def test_touched_rows_follow_a_plain_loop_and_others_keep_their_value(
    kind, reference, compiled
):
    variable = table()
    start = variable.numpy()
    loop = reference(start, 0.05)
    optimizer = kind(0.05)
    optimizer.build([variable])

    def step(gradient):
        optimizer.apply([gradient], [variable])

    apply = tf.function(step, reduce_retracing=True) if compiled else step
    for gradient in BATCHES:
        apply(gradient)
        loop.apply(dense(gradient), set(np.asarray(gradient.indices).tolist()))
    np.testing.assert_allclose(variable.numpy(), loop.value, rtol=2e-5)
    np.testing.assert_array_equal(variable.numpy()[[1, 4, 6]], start[[1, 4, 6]])


def test_with_all_rows_in_every_gradient_lazy_adam_is_keras_adam():
    ours, theirs = table(), table()
    lazy, adam = LazyAdam(0.03), keras.optimizers.Adam(0.03)
    for seed in range(4):
        gradient = slices(list(range(ROWS)), seed)
        lazy.apply([gradient], [ours])
        adam.apply([tf.convert_to_tensor(gradient)], [theirs])
    moved = np.abs(ours.numpy() - theirs.numpy())
    assert moved.max() < 2e-5  # of steps of 0.03: Keras rounds 1 - .999 in float32


@OPTIMIZERS
def test_scaled_gradients_are_divided_by_the_scale(kind):
    ours, theirs, whole = table(), table(), table()
    scaled = kind(0.1, loss_scale_factor=8.0)
    for gradient in BATCHES:
        values = gradient.values * 8.0
        big = tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
        scaled.apply([big], [ours])
    plain = kind(0.1)
    for gradient in BATCHES:
        plain.apply([gradient], [theirs])
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert scaled.loss_scale_factor == 8.0
    dense_one = kind(0.1, loss_scale_factor=8.0)
    dense_one.apply([tf.fill((ROWS, WIDTH), 8.0)], [whole])
    other = table()
    kind(0.1).apply([tf.ones((ROWS, WIDTH))], [other])
    np.testing.assert_array_equal(whole.numpy(), other.numpy())


@OPTIMIZERS
def test_a_dense_gradient_touches_all_rows(kind):
    ours, theirs = table(), table()
    whole = slices(list(range(ROWS)), 4)
    kind(0.1).apply([whole], [ours])
    kind(0.1).apply([tf.convert_to_tensor(whole)], [theirs])
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)


@OPTIMIZERS
@pytest.mark.parametrize("options", [{}, {"global_clipnorm": 0.5}, {"clipnorm": 0.5}])
def test_accumulated_batches_train_like_one_batch(kind, options):
    """The mean of three gradients, in which rows repeat within and across batches."""
    together, apart = table(), table()
    batches = [*BATCHES, *BATCHES[::-1]]
    accumulating = kind(0.1, gradient_accumulation_steps=3, **options)
    once = kind(0.1, **options)
    for first in (0, 3):
        some = batches[first : first + 3]
        rows = tf.concat([each.indices for each in some], 0)
        values = tf.concat([each.values for each in some], 0) / 3.0
        once.apply([tf.IndexedSlices(values, rows, [ROWS, WIDTH])], [together])
        for each in some:
            accumulating.apply([each], [apart])
    np.testing.assert_allclose(apart.numpy(), together.numpy(), rtol=1e-5)


@OPTIMIZERS
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clipnorm": 0.5},
        {"clipvalue": 0.2, "weight_decay": 0.01},
        {"gradient_accumulation_steps": 2, "global_clipnorm": 0.5},
    ],
)
def test_xla_computes_the_same(kind, options):
    def trained(xla):
        variable, optimizer = table(), kind(0.1, **options)
        optimizer.build([variable])

        @tf.function(jit_compile=xla)
        def step(values, rows):
            gradient = tf.IndexedSlices(values, rows, [ROWS, WIDTH])
            optimizer.apply([gradient], [variable])

        for seed in range(4):
            gradient = slices([1, 4, 4, 1, 2], seed)
            step(gradient.values, gradient.indices)
        return variable.numpy()

    want = trained(xla=False)
    assert not np.allclose(want[[1, 2, 4]], table().numpy()[[1, 2, 4]])
    np.testing.assert_allclose(trained(xla=True), want, rtol=1e-5)


def test_accumulation_takes_tables_dense_weights_and_scalars_together():
    variables = [table(), keras.Variable([1.0, 2.0]), keras.Variable(3.0)]
    optimizer = LazyAdam(0.1, gradient_accumulation_steps=2)
    gradients = [slices([1], 1), tf.constant([1.0, -1.0]), tf.constant(4.0)]
    optimizer.apply(gradients, variables)
    np.testing.assert_array_equal(variables[1].numpy(), [1.0, 2.0])
    optimizer.apply(gradients, variables)
    np.testing.assert_allclose(variables[1].numpy(), [0.9, 2.1], rtol=1e-5)
    np.testing.assert_allclose(variables[2].numpy(), 2.9, rtol=1e-5)
    optimizer.apply(gradients, variables)
    np.testing.assert_allclose(variables[2].numpy(), 2.9, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"clipnorm": 0.7}, {"global_clipnorm": 0.7}, {"clipvalue": 0.2}]
)
def test_clipping_sees_the_sum_of_repeated_rows(options):
    """As in a dense optimizer with the same argument."""
    ours, theirs = table(), table()
    gradient = slices([1, 1, 4, 4, 1], 5)
    RowwiseAdagrad(0.1, **options).apply([gradient], [ours])
    RowwiseAdagrad(0.1, **options).apply([tf.convert_to_tensor(gradient)], [theirs])
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5)
    unclipped = table()
    RowwiseAdagrad(0.1).apply([gradient], [unclipped])
    free = RowwiseAdagrad(0.1, initial_accumulator_value=1.0, **options)
    clipped = table()
    free.apply([gradient], [clipped])
    assert not np.allclose(clipped.numpy(), unclipped.numpy())


def test_weight_decay_is_decoupled_and_spares_untouched_rows():
    variable = table()
    start = variable.numpy()
    loop = AdamByRow(start, 0.1, decay=0.2)
    LazyAdam(0.1, weight_decay=0.2).apply([BATCHES[0]], [variable])
    loop.apply(dense(BATCHES[0]), {0, 2, 5})
    np.testing.assert_allclose(variable.numpy(), loop.value, rtol=1e-5)
    np.testing.assert_array_equal(variable.numpy()[1], start[1])


def test_variables_can_be_excluded_from_weight_decay():
    variable, other = table(), table()
    optimizer = LazyAdam(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[variable])
    optimizer.apply([BATCHES[0]], [variable])
    LazyAdam(0.1).apply([BATCHES[0]], [other])
    np.testing.assert_array_equal(variable.numpy(), other.numpy())


def test_a_schedule_sets_the_learning_rate_of_each_step():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.5])
    variable = keras.Variable([[0.0]])
    optimizer = LazyAdam(schedule)
    moved = []
    for _ in range(2):
        before = variable.numpy().item()
        optimizer.apply([tf.IndexedSlices([[1.0]], [0])], [variable])
        moved.append(before - variable.numpy().item())
    np.testing.assert_allclose(moved, [1.0, 0.5], rtol=1e-4)


def test_a_moving_average_of_the_weights_is_refused():
    with pytest.raises(ValueError, match="`use_ema` must be False"):
        LazyAdam(use_ema=True)


def composite() -> CompositeOptimizer:
    return CompositeOptimizer(LazyAdam(0.05), keras.optimizers.SGD(0.1, momentum=0.9))


@pytest.mark.parametrize(
    "make",
    [lambda: LazyAdam(0.05), lambda: RowwiseAdagrad(0.05), composite],
    ids=["lazy_adam", "rowwise_adagrad", "composite"],
)
def test_training_goes_on_after_saving_as_if_it_had_not_been_interrupted(
    make, tmp_path
):
    x, y = embedding_data()
    straight = embedding_model()
    straight.compile(make(), loss="mse")
    straight.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    halved = embedding_model()
    halved.compile(make(), loss="mse")
    halved.fit(x, y, epochs=1, batch_size=8, shuffle=False, verbose=0)
    halved.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    loaded.fit(x, y, epochs=1, batch_size=8, shuffle=False, verbose=0)
    for one, two in zip(straight.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make", [lambda: LazyAdam(0.05), composite])
def test_loss_scaling_does_not_change_the_update(make):
    x, y = embedding_data()
    plain, scaled = embedding_model(), embedding_model()
    plain.compile(make(), loss="mse")
    scaled.compile(keras.optimizers.LossScaleOptimizer(make()), loss="mse")
    for model in (plain, scaled):
        model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    for one, two in zip(plain.weights, scaled.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-4, atol=1e-6)
