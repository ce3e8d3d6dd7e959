"""Weights and temperatures that change while the Distiller trains."""

import keras
import numpy as np
import pytest
from keras.optimizers.schedules import CosineDecay, PiecewiseConstantDecay

from recdistill.distillation.distiller import Distiller
from recdistill.distillation.temperatures import LearnedTemperature
from recdistill.losses import (
    ContrastiveAlignment,
    ListwiseCrossEntropy,
    ListwiseKLDivergence,
    PairwiseMarginMSE,
)
from tests.distillation.test_schedules import linear
from tests.small_models import (
    LISTS,
    Student,
    evaluate,
    fit,
    make_arrays,
    make_batches,
    make_distiller,
    weights_of,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def batches():
    """One batch, so that each epoch is one step."""
    return make_batches(make_arrays(), LISTS)


STILL = keras.optimizers.SGD


def parts(history):
    return np.array(history["relevance_loss"]), np.array(history["distillation_loss"])


def test_weights_follow_their_schedules_step_by_step(batches):
    distiller = make_distiller(
        optimizer=STILL(0.0),
        student_loss_weight=PiecewiseConstantDecay([1], [0.2, 0.6]),
        distillation_loss_weights=[linear(1.0, 0.0, 2)],
    )
    history = fit(distiller, batches, epochs=4)
    relevance, distillation = parts(history)
    want = (
        np.array([0.2, 0.2, 0.6, 0.6]) * relevance
        + np.array([1.0, 0.5, 0.0, 0.0]) * distillation
    )
    np.testing.assert_allclose(history["loss"], want, rtol=1e-5)
    assert (distillation > 0.1).all()


def test_temperatures_follow_their_schedules_and_are_reported(batches):
    distiller = make_distiller(
        losses=ListwiseKLDivergence(),
        optimizer=STILL(0.0),
        temperatures=linear(4, 1, 2),
    )
    got = fit(distiller, batches, epochs=4)
    values = [4.0, 2.5, 1.0, 1.0]
    assert got["temperature"] == pytest.approx(values)
    x, _, weight = make_arrays()
    targets = {"labels": x["teacher_scores"], "mask": x["mask"]}
    scores = distiller.student(x)
    want = [
        float(ListwiseKLDivergence(value)(targets, scores, weight)) for value in values
    ]
    assert got["distillation_loss"] == pytest.approx(want, rel=1e-5)


def test_a_constant_temperature_equals_the_temperature_of_the_loss(batches):
    student = Student()
    own = make_distiller(None, student, ListwiseKLDivergence(temperature=3.0))
    given = make_distiller(None, student, ListwiseKLDivergence(), temperatures=3.0)
    want, got = evaluate(own, batches), evaluate(given, batches)
    assert got.pop("temperature") == 3.0
    assert got == pytest.approx(want, rel=1e-6)


def test_one_graph_serves_all_steps(batches):
    traces = []

    class Counted(ListwiseKLDivergence):
        def call(self, y_true, y_pred):
            traces.append(1)
            return super().call(y_true, y_pred)

    distiller = make_distiller(
        losses=Counted(), temperatures=CosineDecay(4.0, 3, alpha=0.25)
    )
    fit(distiller, batches)
    traces.clear()
    history = fit(distiller, batches, epochs=3)
    assert len(set(np.round(history["temperature"], 4))) == 3
    assert not traces


def test_each_loss_may_have_a_separate_temperature(batches):
    distiller = make_distiller(
        losses=[ListwiseKLDivergence(), PairwiseMarginMSE(), ListwiseKLDivergence()],
        temperatures=[linear(2, 1, 4), None, 5.0],
    )
    got = evaluate(distiller, batches)
    assert got["temperature_listwise_kl_divergence"] == 2.0
    assert got["temperature_listwise_kl_divergence_2"] == 5.0
    assert "temperature_pairwise_margin_mse" not in got


def test_a_step_restores_the_temperature_of_the_loss(batches):
    loss = ListwiseKLDivergence(temperature=1.5)
    distiller = make_distiller(losses=loss, temperatures=5.0)
    evaluate(distiller, batches)
    assert loss.temperature == 1.5


@pytest.mark.parametrize("learned", [False, True])
def test_resumed_training_continues_the_schedule(batches, tmp_path, learned):
    temperature = LearnedTemperature(1.0, 8.0) if learned else linear(8, 1, 6)
    distiller = Distiller(
        None,
        Student(),
        ListwiseKLDivergence(),
        [CosineDecay(1.0, 6, alpha=0.2)],
        linear(0.0, 1.0, 6),
        temperatures=temperature,
    )
    distiller.compile(keras.optimizers.Adam(0.05), ListwiseCrossEntropy())
    fit(distiller, batches, epochs=3)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    want, got = (fit(each, batches, epochs=2) for each in (distiller, loaded))
    assert set(got) == set(want)
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-5)
    if not learned:
        assert got["temperature"] == pytest.approx([8 - 3.5, 8 - 7 * 4 / 6], rel=1e-5)


def test_a_learned_temperature_moves_to_where_the_loss_is_highest(batches):
    student = Student()
    learned = LearnedTemperature(0.5, 8.0)
    distiller = Distiller(
        None, student, ListwiseKLDivergence(), None, 0.0, temperatures=learned
    )
    distiller(make_arrays()[0])
    student.trainable = False
    distiller.compile(keras.optimizers.Adam(0.3))
    history = fit(distiller, batches, epochs=12)
    assert history["temperature"][0] == pytest.approx(2.0)
    assert history["distillation_loss"][-1] > history["distillation_loss"][0]
    grid = [
        evaluate(make_distiller(None, student, ListwiseKLDivergence(t)), batches)
        for t in (0.5, 1.0, 2.0, 4.0, 8.0)
    ]
    best = max(each["distillation_loss"] for each in grid)
    assert history["distillation_loss"][-1] > 0.95 * best


def test_a_learned_temperature_belongs_to_the_distiller_not_to_the_student(batches):
    student = Student()
    distiller = make_distiller(
        None, student, ListwiseKLDivergence(), temperatures=LearnedTemperature()
    )
    before = evaluate(distiller, batches)["temperature"]
    assert before == pytest.approx(10**0.5)
    fit(distiller, batches, epochs=2)
    assert evaluate(distiller, batches)["temperature"] != before
    assert len(student.weights) == 2
    assert len(distiller.weights) == 3
    assert len(weights_of(distiller)) == 3


LEARNED = LearnedTemperature()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"student_loss_weight": linear(0.0, 1.5, 3)},
            "between 0 and 1.*a schedule with values from 0 to 1.5",
        ),
        (
            {"student_loss_weight": linear(0.0, 1.0, 3)},
            "must be given if `student_loss_weight` is a schedule",
        ),
        (
            {"distillation_loss_weights": [linear(1.0, -1.0, 3)]},
            r"number of at least 0.*\[a schedule with values from -1 to 1\], 1 loss",
        ),
        ({"temperatures": 0.0}, "finite and stay above 0.*Received: 0.0"),
        ({"temperatures": linear(2, 0, 3)}, "stay above 0.*values from 0 to 2"),
        ({"temperatures": CosineDecay(2.0, 50)}, "stay above 0.*values from 0 to 2"),
        ({"temperatures": keras.ops.exp}, "finite"),
        ({"temperatures": [1.0] * 2}, "for each.*1 losses"),
        (
            {
                "losses": [ListwiseKLDivergence(), ContrastiveAlignment()],
                "temperatures": [LEARNED, LEARNED],
            },
            "separate LearnedTemperature for each loss",
        ),
        (
            {
                "losses": keras.losses.MeanSquaredError(),
                "temperatures": 1.0,
            },
            "None for a loss without a temperature",
        ),
        (
            {
                "student_loss_weight": lambda step: 0.0 * step,
                "distillation_loss_weights": [lambda step: 0.0 * step],
            },
            "with a weight above 0",
        ),
    ],
)
def test_bad_schedules_are_named_with_their_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_distiller(**arguments)
