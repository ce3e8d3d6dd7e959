"""schedules: values by hand; a temperature that is trained against the student."""

from math import cos, pi

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.distillation.temperatures import (
    ConstantSchedule,
    CosineSchedule,
    LearnedTemperature,
    LinearSchedule,
    Schedule,
    StepSchedule,
)
from recdistill.losses import ListwiseKLDivergence

SCHEDULES = [
    (ConstantSchedule(0.5), {0: 0.5, 9: 0.5}),
    (LinearSchedule(4.0, 1.0, 6), {0: 4.0, 2: 3.0, 6: 1.0, 99: 1.0}),
    (LinearSchedule(0.0, 1.0, 4), {0: 0.0, 1: 0.25, 5: 1.0}),
    (
        CosineSchedule(5.0, 1.0, 8),
        {0: 5.0, 1: 1 + 4 * (1 + cos(pi / 8)) / 2, 4: 3.0, 8: 1.0, 9: 1.0},
    ),
    (StepSchedule([2, 5], [1.0, 7.0, 3.0]), {0: 1.0, 1: 1.0, 2: 7.0, 4: 7.0, 5: 3.0}),
]
every_schedule = pytest.mark.parametrize(("schedule", "values"), SCHEDULES)


@every_schedule
def test_values_are_those_of_the_definition(schedule, values):
    for step, want in values.items():
        assert float(schedule(step)) == pytest.approx(want, rel=1e-6, abs=1e-7)


@every_schedule
def test_one_graph_gives_all_values(schedule, values):
    traces = []

    @tf.function(jit_compile=True)
    def value(step):
        traces.append(1)
        return schedule(step)

    for step, want in values.items():
        got = value(tf.constant(step, tf.int64))
        assert got.dtype == tf.float32
        assert float(got) == pytest.approx(want, rel=1e-5, abs=1e-7)
    assert len(traces) == 1


@every_schedule
def test_values_stay_between_lowest_and_highest(schedule, values):
    seen = [float(schedule(step)) for step in range(12)]
    assert min(seen) == pytest.approx(schedule.lowest)
    assert max(seen) == pytest.approx(schedule.highest)


@every_schedule
def test_config_round_trip(schedule, values):
    config = keras.saving.serialize_keras_object(schedule)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(schedule)
    assert copy.get_config() == schedule.get_config()
    assert isinstance(copy, Schedule)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantSchedule(float("nan")), "`value` must be a finite.*value=nan"),
        (lambda: LinearSchedule(1.0, float("inf"), 3), "`end` must be .*end=inf"),
        (lambda: CosineSchedule(1.0, 0.0, 0), "`steps` must be at least 1.*steps=0"),
        (lambda: StepSchedule([3, 3], [1.0, 2.0, 3.0]), r"`boundaries` .*\[3, 3\]"),
        (lambda: StepSchedule([0], [1.0, 2.0]), r"`boundaries` .*\[0\]"),
        (lambda: StepSchedule([], [1.0]), r"`boundaries` .*\[\]"),
        (lambda: StepSchedule([3], [1.0]), r"`values` must have one more.*\[1.0\]"),
        (lambda: StepSchedule([3], [1.0, float("inf")]), r"`values\[1\]` must be"),
        (lambda: LearnedTemperature(0.0, 2.0), "`lowest` and `highest`.*lowest=0.0"),
        (lambda: LearnedTemperature(3.0, 2.0), "in that order.*highest=2.0"),
        (lambda: LearnedTemperature(strength=-1.0), "`strength` must.*strength=-1.0"),
        (
            lambda: LearnedTemperature(strength=LinearSchedule(-0.5, 1.0, 3)),
            "strength=-0.5",
        ),
    ],
)
def test_bad_arguments_are_named_with_their_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def slope_of(temperature, step, loss):
    with tf.GradientTape() as tape:
        value = loss(temperature(step))
    return float(tape.gradient(value, temperature.position.value))


def test_a_learned_temperature_starts_at_the_geometric_mean_and_keeps_its_bounds():
    temperature = LearnedTemperature(0.5, 8.0)
    assert float(temperature(0)) == pytest.approx(2.0)
    for position, bound in {50.0: 8.0, -50.0: 0.5}.items():
        temperature.position.assign(position)
        assert float(temperature(0)) == pytest.approx(bound, rel=1e-5)


def test_a_learned_temperature_climbs_the_loss_that_the_student_descends():
    temperature = LearnedTemperature(1.0, 4.0)
    # The slope of 2 exp(log(4) sigmoid(x)) at 0, reversed: 2 * 2 * log(4) / 4.
    assert slope_of(temperature, 0, lambda t: 2.0 * t) == pytest.approx(
        -np.log(4.0), rel=1e-5
    )
    half = LearnedTemperature(1.0, 4.0, strength=0.5)
    assert slope_of(half, 0, lambda t: 2.0 * t) == pytest.approx(
        -np.log(4.0) / 2, rel=1e-5
    )


def test_strength_may_rise_as_a_curriculum():
    temperature = LearnedTemperature(1.0, 4.0, strength=LinearSchedule(0.0, 1.0, 10))
    slopes = [slope_of(temperature, step, lambda t: t) for step in (0, 5, 10)]
    full = slopes[2]
    assert full < 0.0
    assert slopes == pytest.approx([0.0, full / 2, full], rel=1e-5, abs=1e-7)


def test_a_temperature_that_descended_would_run_to_its_lower_bound():
    teacher, student = np.array([[3.0, 0.0, -2.0]]), np.array([[-1.0, 1.0, 0.0]])
    losses = [
        float(ListwiseKLDivergence(temperature)(teacher, student))
        for temperature in (1e-3, 1e-2, 0.1, 1.0)
    ]
    assert losses == sorted(losses)
    assert losses[0] < 0.01 < 1.0 < losses[3]


def test_a_learned_temperature_stays_float32_and_round_trips():
    temperature = LearnedTemperature(2.0, 5.0, CosineSchedule(0.0, 1.0, 7), name="mine")
    assert temperature.position.dtype == "float32"
    config = keras.saving.serialize_keras_object(temperature)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == temperature.get_config()
    assert (copy.lowest, copy.highest, copy.name) == (2.0, 5.0, "mine")
    assert copy.strength.get_config() == {"start": 0.0, "end": 1.0, "steps": 7}
