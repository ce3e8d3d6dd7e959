"""keras_losses: Keras's own losses and metrics over the real candidates of lists."""

from math import log

import keras
import keras_rs
import numpy as np
import pytest

from recdistill.distillation.keras_losses import (
    as_loss,
    as_metrics,
    loss_value,
    update_metric,
)
from recdistill.losses import ListwiseCrossEntropy

# Squared errors of the real candidates: 1, 4 and 9. Absolute errors: 1, 2 and 3.
Y = {
    "labels": np.array([[1.0, 0.0, np.nan], [3.0, np.nan, 7.0]], "float32"),
    "mask": np.array([[True, True, False], [True, False, False]]),
}
SCORES = np.array([[0.0, 2.0, 5.0], [0.0, np.inf, np.nan]], "float32")
LISTS = np.array([2.0, 0.5], "float32")
CANDIDATES = np.array([[1.0, 3.0, 99.0], [0.0, 99.0, np.nan]], "float32")


def plain(y_true, y_pred):
    """Squared error as a user's function."""
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


@pytest.mark.parametrize(
    ("reduction", "weight", "want"),
    [
        ("sum_over_batch_size", None, (1 + 4 + 9) / 3),
        ("sum_over_batch_size", LISTS, (2 * 1 + 2 * 4 + 0.5 * 9) / 3),
        ("sum_over_batch_size", CANDIDATES, (1 * 1 + 3 * 4) / 3),
        ("mean", LISTS, (2 * 1 + 2 * 4 + 0.5 * 9) / 3),
        ("mean_with_sample_weight", None, (1 + 4 + 9) / 3),
        ("mean_with_sample_weight", LISTS, (2 * 1 + 2 * 4 + 0.5 * 9) / 4.5),
        ("mean_with_sample_weight", CANDIDATES, (1 * 1 + 3 * 4) / 4),
        ("sum", None, 1 + 4 + 9),
        ("sum", LISTS, 2 * 1 + 2 * 4 + 0.5 * 9),
    ],
)
def test_a_loss_reduces_over_real_candidates_only(reduction, weight, want):
    loss = as_loss("loss", keras.losses.MeanSquaredError(reduction=reduction))
    assert float(loss_value(loss, Y, SCORES, weight)) == pytest.approx(want)


@pytest.mark.parametrize("given", ["mse", "MeanSquaredError", plain])
def test_names_and_functions_are_losses_over_candidates(given):
    loss = as_loss("loss", given)
    assert float(loss_value(loss, Y, SCORES, None)) == pytest.approx(14 / 3)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("mae", 2.0),
        ("MeanAbsoluteError", 2.0),
        (keras.metrics.MeanSquaredError(), 14 / 3),
        (keras.metrics.RootMeanSquaredError(), (14 / 3) ** 0.5),
        (plain, 14 / 3),
        (keras.metrics.MeanMetricWrapper(lambda y, s: abs(y - s), name="gap"), 2.0),
        (keras.metrics.FalsePositives(), 1.0),
        (keras.metrics.Recall(), 0.0),
    ],
)
def test_a_metric_is_the_mean_over_real_candidates(given, want):
    (metric,) = as_metrics("metrics", [given])
    update_metric(metric, Y, SCORES)
    assert float(metric.result()) == pytest.approx(want)


@pytest.mark.parametrize(
    ("weight", "want"),
    [(LISTS, (2 * 1 + 2 * 2 + 0.5 * 3) / 4.5), (CANDIDATES, (1 * 1 + 3 * 2) / 4)],
)
def test_a_weighted_metric_weighs_lists_or_candidates(weight, want):
    (metric,) = as_metrics("metrics", ["mae"])
    update_metric(metric, Y, SCORES, weight)
    assert float(metric.result()) == pytest.approx(want)


def test_a_batch_of_padding_has_loss_zero_and_leaves_a_metric_unchanged():
    nothing = {**Y, "mask": np.zeros((2, 3), bool)}
    loss = as_loss("loss", "mse")
    assert float(loss_value(loss, nothing, SCORES, None)) == 0.0
    (metric,) = as_metrics("metrics", ["mae"])
    update_metric(metric, Y, SCORES)
    update_metric(metric, nothing, SCORES)
    assert float(metric.result()) == pytest.approx(2.0)


def test_binary_cross_entropy_by_hand():
    loss = as_loss("loss", keras.losses.BinaryCrossentropy(from_logits=True))
    y = {"labels": np.array([[1.0, 0.0, 1.0]]), "mask": np.array([[True, True, False]])}
    scores = np.array([[log(3.0), log(3.0), -50.0]], "float32")  # p = 3/4
    want = (log(4 / 3) + log(4.0)) / 2
    assert float(loss_value(loss, y, scores, None)) == pytest.approx(want, rel=1e-5)


def test_losses_and_metrics_over_whole_lists_still_receive_the_dict():
    seen = []

    class Own(keras.losses.Loss):
        def __call__(self, y_true, y_pred, sample_weight=None):
            seen.append(y_true)
            return keras.ops.sum(y_pred)

        def call(self, y_true, y_pred):
            raise AssertionError("`__call__` is overridden")

    loss_value(as_loss("loss", Own()), Y, SCORES, None)
    assert seen == [Y]
    y = {"labels": [[1.0, 0.0]], "mask": np.array([[True, True]])}
    y = {name: keras.ops.convert_to_tensor(each) for name, each in y.items()}
    scores = keras.ops.convert_to_tensor([[1.0, 3.0]])
    for loss in (ListwiseCrossEntropy(), keras_rs.losses.ListMLELoss()):
        assert float(loss_value(as_loss("loss", loss), y, scores, None)) == float(
            loss(y, scores)
        )
    (metric,) = as_metrics("metrics", [keras_rs.metrics.MeanReciprocalRank()])
    update_metric(metric, y, scores)
    assert float(metric.result()) == 0.5


@pytest.mark.parametrize(
    "given",
    [
        "categorical_crossentropy",
        "kl_divergence",
        "sparse_categorical_crossentropy",
        keras.losses.CosineSimilarity(),
        keras.losses.Dice(),
        lambda y, s: keras.ops.sum(y * s, axis=-1) - keras.ops.logsumexp(s, axis=-1),
    ],
)
def test_a_loss_that_treats_candidates_as_classes_is_refused(given):
    with pytest.raises(ValueError, match="`loss` must not treat the candidates"):
        as_loss("loss", given)


@pytest.mark.parametrize(
    "given",
    [
        "categorical_accuracy",
        keras.metrics.TopKCategoricalAccuracy(10),
        keras.metrics.F1Score(),
        keras.metrics.KLDivergence(),
    ],
)
def test_a_metric_that_treats_candidates_as_classes_is_refused(given):
    with pytest.raises(ValueError, match="`metrics` must not treat the candidates"):
        as_metrics("metrics", [given])


@pytest.mark.parametrize(
    "given",
    [
        {"scores": "mse"},
        ["mse", "mae"],
        "ndcg",
        "crossentropy",
        keras.losses.MeanSquaredError,
        keras.losses.MeanSquaredError(reduction="none"),
        3.0,
    ],
)
def test_an_invalid_loss_is_refused_in_one_sentence(given):
    with pytest.raises(ValueError, match=r"`loss` must be a Keras loss .*one output"):
        as_loss("loss", given)


@pytest.mark.parametrize("given", ["mae", {"scores": ["mae"]}])
def test_metrics_of_several_outputs_are_refused(given):
    with pytest.raises(ValueError, match="`metrics` must be a list of metrics"):
        as_metrics("metrics", given)


@pytest.mark.parametrize("given", ["accuracy", "ndcg@10", ["mae"], keras.metrics.AUC])
def test_an_invalid_metric_is_refused_in_one_sentence(given):
    with pytest.raises(ValueError, match="`metrics` must be Keras metrics, names"):
        as_metrics("metrics", [given])


@keras.saving.register_keras_serializable(package="tests")
def squared(y_true, y_pred):
    """Squared error that Keras can save."""
    return keras.ops.square(y_true - y_pred)


def test_a_loss_given_as_a_function_can_be_saved():
    loss = as_loss("loss", squared)
    config = keras.saving.serialize_keras_object(loss)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.name == loss.name == "squared"
    assert float(loss_value(copy, Y, SCORES, LISTS)) == pytest.approx(14.5 / 3)
