"""schedules: Keras's schedules and functions of the step as weights, temperatures."""

from math import cos, pi

import keras
import pytest
import tensorflow as tf
from keras.optimizers import schedules as keras_schedules

from recdistill.distillation.schedules import bounds, described, value_at


def linear(start, end, steps):
    """Linear from `start` at step 0 to `end` at step `steps`."""
    return keras_schedules.PolynomialDecay(
        start, decay_steps=steps, end_learning_rate=end
    )


SCHEDULES = [
    (0.5, {0: 0.5, 9: 0.5}),
    (linear(4.0, 1.0, 6), {0: 4.0, 2: 3.0, 6: 1.0, 99: 1.0}),
    (linear(0.0, 1.0, 4), {0: 0.0, 1: 0.25, 5: 1.0}),
    (
        keras_schedules.CosineDecay(5.0, decay_steps=8, alpha=0.2),
        {0: 5.0, 1: 1 + 4 * (1 + cos(pi / 8)) / 2, 4: 3.0, 8: 1.0, 9: 1.0},
    ),
    # Keras keeps a value up to and including its boundary.
    (
        keras_schedules.PiecewiseConstantDecay([2, 5], [1.0, 7.0, 3.0]),
        {0: 1.0, 2: 1.0, 3: 7.0, 5: 7.0, 6: 3.0},
    ),
    (lambda step: 0.5 * keras.ops.minimum(step, 3), {0: 0.0, 2: 1.0, 3: 1.5, 50: 1.5}),
]
every_schedule = pytest.mark.parametrize(("schedule", "values"), SCHEDULES)


@every_schedule
def test_values_are_those_of_the_definition(schedule, values):
    for step, want in values.items():
        assert float(value_at(schedule, step)) == pytest.approx(want, rel=1e-6)


@every_schedule
def test_one_graph_computes_the_values_of_all_steps(schedule, values):
    traces = []

    @tf.function(jit_compile=True)
    def value(step):
        traces.append(1)
        return tf.convert_to_tensor(value_at(schedule, step))

    for step, want in values.items():
        got = value(tf.constant(step, tf.int32))
        assert got.dtype == tf.float32
        assert float(got) == pytest.approx(want, rel=1e-5, abs=1e-7)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("schedule", "low", "high"),
    [
        (0.3, 0.3, 0.3),
        (linear(4.0, 1.0, 60), 1.0, 4.0),
        (linear(0.0, 1.0, 10**8), 0.0, 1.0),
        (lambda step: 1.0 / (1 + step), 1e-9, 1.0),
    ],
)
def test_bounds_are_the_lowest_and_highest_checked_values(schedule, low, high):
    assert bounds(schedule) == pytest.approx((low, high), rel=1e-5)


def test_error_messages_describe_a_schedule_by_its_range():
    assert described(linear(2.0, 0.5, 3)) == "a schedule with values from 0.5 to 2"
    assert described(0.25) == "0.25"
