"""The Distiller together with keras, keras.distillation and keras-rs."""

from math import log

import keras
import keras_rs
import numpy as np
import pytest
import tensorflow as tf

from recdistill.distillation.distiller import Distiller
from recdistill.losses import ListwiseCrossEntropy, ListwiseKLDivergence
from tests.small_models import (
    Fixed,
    Student,
    evaluate,
    fit,
    make_arrays,
    make_batches,
    make_distiller,
)

pytestmark = pytest.mark.slow


def test_metrics_see_the_mask():
    mask = tf.constant([[True, True, True, False]])
    x = {"mask": mask, "teacher_scores": tf.zeros((1, 4))}
    y = {"labels": tf.constant([[0.0, 1.0, 0.0, 1.0]]), "mask": mask}
    distiller = Distiller(None, Fixed([[3.0, 2.0, 1.0, 9.0]]), ListwiseKLDivergence())
    distiller.compile(
        "sgd",
        ListwiseCrossEntropy(),
        metrics=[keras_rs.metrics.MeanReciprocalRank(name="mrr")],
    )
    got = evaluate(distiller, tf.data.Dataset.from_tensors((x, y)))
    assert got["mrr"] == pytest.approx(1 / 2)  # with the padded hit it would be 1


def test_weighted_metrics_see_the_weights_and_metrics_do_not():
    x, y, _ = make_arrays()
    x, y = tf.nest.map_structure(lambda array: array[:2], (x, y))
    y["labels"] = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]], "float32")
    student = Fixed(np.tile([[4.0, 3.0, 2.0, 1.0]], (2, 1)))
    distiller = Distiller(None, student, ListwiseKLDivergence())
    distiller.compile(
        "sgd",
        ListwiseCrossEntropy(),
        metrics=[keras_rs.metrics.MeanReciprocalRank(name="plain")],
        weighted_metrics=[keras_rs.metrics.MeanReciprocalRank(name="weighted")],
    )
    weight = np.array([1.0, 3.0], "float32")
    got = evaluate(distiller, make_batches((x, y, weight)))
    assert got["plain"] == pytest.approx((1 + 1 / 2) / 2)
    assert got["weighted"] == pytest.approx((1 + 3 * 1 / 2) / 4)


def test_compiling_again_forgets_the_old_metrics():
    batches = make_batches(make_arrays())
    distiller = make_distiller()
    distiller.compile(
        "sgd", ListwiseCrossEntropy(), metrics=[keras_rs.metrics.NDCG(name="old")]
    )
    fit(distiller, batches)
    distiller.compile(
        "sgd", ListwiseCrossEntropy(), metrics=[keras_rs.metrics.NDCG(name="new")]
    )
    assert set(fit(distiller, batches)) == {
        "loss",
        "relevance_loss",
        "distillation_loss",
        "new",
    }


def test_losses_and_metrics_of_keras_rs_work_inside_ours():
    batches = make_batches(make_arrays())
    distiller = Distiller(
        None,
        Student(),
        [ListwiseKLDivergence(), keras_rs.losses.PairwiseLogisticLoss()],
    )
    distiller.compile(
        keras.optimizers.Adam(0.05),
        loss=keras_rs.losses.ListMLELoss(),
        metrics=[keras_rs.metrics.NDCG(k=3, name="ndcg@3")],
    )
    history = fit(distiller, batches, validation_data=batches, epochs=10)
    assert history["loss"][-1] < history["loss"][0]
    assert history["val_ndcg@3"][-1] > history["val_ndcg@3"][0]


def test_our_losses_work_inside_the_distiller_of_keras():
    inputs = keras.Input((3,))
    identity = keras.Model(inputs, keras.layers.Identity()(inputs))
    teacher = keras.Model(inputs, keras.layers.Rescaling(-2.0)(inputs))
    distiller = keras.distillation.Distiller(
        teacher,
        identity,
        keras.distillation.LogitsDistillation(
            temperature=1.0, loss=ListwiseKLDivergence(temperature=2.0)
        ),
        student_loss_weight=0.0,
    )
    distiller.compile("sgd", loss="mse")
    scores = np.array([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]], "float32")
    got = distiller.evaluate(scores, scores, verbose=0, return_dict=True)["loss"]
    want = []
    for row in scores:
        p, q = (np.exp(row / 2 * factor) for factor in (-2.0, 1.0))
        p, q = p / p.sum(), q / q.sum()
        want.append(2.0**2 * np.sum(p * np.log(p / q)))
    assert got == pytest.approx(np.mean(want), rel=1e-5)


def test_our_losses_work_in_a_plain_model_with_bare_labels():
    model = keras.Sequential([keras.layers.Rescaling(1.0)])
    model.compile("sgd", loss=ListwiseCrossEntropy())
    scores = np.array([[log(3.0), 0.0], [0.0, 0.0]], "float32")
    relevance = np.array([[0.0, 1.0], [1.0, 0.0]], "float32")
    got = model.evaluate(scores, relevance, verbose=0)
    assert got == pytest.approx((log(4.0) + log(2.0)) / 2, rel=1e-5)
    got = model.evaluate(
        scores, relevance, sample_weight=np.array([1.0, 3.0]), verbose=0
    )
    assert got == pytest.approx((log(4.0) + 3 * log(2.0)) / 4, rel=1e-5)
