"""temperatures: a temperature that is trained against the student, within bounds."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.distillation.temperatures import LearnedTemperature
from recdistill.losses import ListwiseKLDivergence
from tests.distillation.test_schedules import linear


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnedTemperature(0.0, 2.0), "`lowest` and `highest`.*lowest=0.0"),
        (lambda: LearnedTemperature(3.0, 2.0), "in that order.*highest=2.0"),
        (lambda: LearnedTemperature(strength=-1.0), "`strength` must.*strength=-1.0"),
        (
            lambda: LearnedTemperature(strength=linear(-0.5, 1.0, 3)),
            "strength=a schedule with values from -0.5 to 1",
        ),
        (
            lambda: LearnedTemperature(strength=float("nan")),
            "`strength` must be finite.*strength=nan",
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


def test_the_gradient_of_a_learned_temperature_is_reversed():
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
    temperature = LearnedTemperature(1.0, 4.0, strength=linear(0.0, 1.0, 10))
    slopes = [slope_of(temperature, step, lambda t: t) for step in (0, 5, 10)]
    full = slopes[2]
    assert full < 0.0
    assert slopes == pytest.approx([0.0, full / 2, full], rel=1e-5, abs=1e-7)


def test_minimising_the_loss_over_the_temperature_would_reach_the_lower_bound():
    teacher, student = np.array([[3.0, 0.0, -2.0]]), np.array([[-1.0, 1.0, 0.0]])
    losses = [
        float(ListwiseKLDivergence(temperature)(teacher, student))
        for temperature in (1e-3, 1e-2, 0.1, 1.0)
    ]
    assert losses == sorted(losses)
    assert losses[0] < 0.01 < 1.0 < losses[3]


def test_a_learned_temperature_stays_float32_and_round_trips():
    strength = keras.optimizers.schedules.CosineDecay(0.0, 7, warmup_target=1.0)
    temperature = LearnedTemperature(2.0, 5.0, strength, name="mine")
    assert temperature.position.dtype == "float32"
    config = keras.saving.serialize_keras_object(temperature)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == temperature.get_config()
    assert (copy.lowest, copy.highest, copy.name) == (2.0, 5.0, "mine")
    assert copy.strength.get_config() == strength.get_config()
