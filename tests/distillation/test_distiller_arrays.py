"""The Distiller with NumPy arrays and with Keras's own losses and metrics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.losses import ListwiseCrossEntropy
from tests.small_models import (
    LIST_SIZE,
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

ARRAYS = make_arrays()
X, Y, LIST_WEIGHT = ARRAYS
CANDIDATE_WEIGHT = np.random.default_rng(4).uniform(0.5, 2.0, (LISTS, LIST_SIZE))
CANDIDATE_WEIGHT = CANDIDATE_WEIGHT.astype("float32")


def make_student():
    keras.utils.set_random_seed(3)
    return Student()


@pytest.mark.parametrize("labels_alone", [False, True])
@pytest.mark.parametrize(
    "weight",
    [
        None,
        LIST_WEIGHT,
        CANDIDATE_WEIGHT,
        {"labels": CANDIDATE_WEIGHT, "mask": CANDIDATE_WEIGHT},
    ],
    ids=["none", "lists", "candidates", "dict"],
)
def test_arrays_train_and_evaluate_like_a_dataset(weight, labels_alone):
    y = Y["labels"] if labels_alone else Y
    array = weight["labels"] if isinstance(weight, dict) else weight
    batches = make_batches((X, y) if array is None else (X, y, array))
    expected, got = (make_distiller(student=make_student()) for _ in range(2))
    want = fit(expected, batches, epochs=2, validation_data=batches)
    history = got.fit(
        X,
        y,
        batch_size=4,
        epochs=2,
        sample_weight=weight,
        validation_data=(X, y) if weight is None else (X, y, weight),
        shuffle=False,
        verbose=0,
    ).history
    for name, values in want.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5)
    for mine, other in zip(weights_of(got), weights_of(expected), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7)
    evaluated = got.evaluate(
        X, y, batch_size=4, sample_weight=weight, verbose=0, return_dict=True
    )
    assert evaluated == pytest.approx(evaluate(expected, batches), rel=1e-5)


def test_predict_takes_arrays():
    distiller = make_distiller()
    got = distiller.predict(X, batch_size=5, verbose=0)
    np.testing.assert_allclose(got, distiller.student(X), rtol=1e-6)


@pytest.mark.parametrize("weight", [None, LIST_WEIGHT, CANDIDATE_WEIGHT])
def test_one_batch_of_arrays_trains_like_one_batch_of_a_dataset(weight):
    expected, got = (make_distiller(student=make_student()) for _ in range(2))
    arrays = (X, Y) if weight is None else (X, Y, weight)
    want = fit(expected, make_batches(arrays, LISTS))
    history = got.train_on_batch(X, Y, weight, return_dict=True)
    for name, value in history.items():
        assert value == pytest.approx(want[name][0], rel=1e-5)
    tested = got.test_on_batch(X, Y, weight, return_dict=True)
    after = evaluate(expected, make_batches(arrays, LISTS))
    assert tested == pytest.approx(after, rel=1e-5)


def test_validation_split_holds_out_the_last_rows():
    distiller = make_distiller(optimizer=keras.optimizers.SGD(0.0))
    history = distiller.fit(
        X, Y, sample_weight=LIST_WEIGHT, validation_split=0.25, verbose=0
    ).history
    parts = {"": slice(0, 9), "val_": slice(9, 12)}
    for prefix, rows in parts.items():
        part = tf.nest.map_structure(lambda each, rows=rows: each[rows], ARRAYS)
        want = evaluate(distiller, make_batches(part))
        assert history[f"{prefix}loss"][0] == pytest.approx(want["loss"], rel=1e-5)


def test_weights_in_a_dict_without_labels_are_refused():
    message = r'`sample_weight` must be an array or a dict with the key "labels"'
    with pytest.raises(ValueError, match=message):
        make_distiller().fit(X, Y, sample_weight={"mask": LIST_WEIGHT}, verbose=0)


def squared_errors(distiller):
    scores = np.array(distiller.student(X))
    return (scores - Y["labels"])[X["mask"]] ** 2


@pytest.mark.parametrize("loss", ["mse", keras.losses.MeanSquaredError()])
@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": False}])
def test_keras_losses_and_metrics_ignore_padding(loss, how):
    distiller = make_distiller(losses=None, student_loss_weight=1.0)
    distiller.compile(
        keras.optimizers.SGD(0.1),
        loss=loss,
        metrics=["mae", keras.metrics.MeanSquaredError(name="squared")],
        weighted_metrics=["mae"],
        **how,
    )
    padded = {**Y, "labels": np.where(Y["mask"], Y["labels"], 1e9).astype("float32")}
    batches = make_batches((X, padded, LIST_WEIGHT), LISTS)
    got = evaluate(distiller, batches)
    errors = squared_errors(distiller)
    weight = (LIST_WEIGHT[:, None] * X["mask"])[X["mask"]]
    assert got["loss"] == pytest.approx(np.mean(weight * errors), rel=1e-5)
    assert got["squared"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert got["mae"] == pytest.approx(np.mean(np.sqrt(errors)), rel=1e-5)
    want = np.average(np.sqrt(errors), weights=weight)
    assert got["weighted_mae"] == pytest.approx(want, rel=1e-5)
    history = fit(distiller, batches, epochs=5)
    assert history["loss"][-1] < history["loss"][0]


def test_a_keras_loss_can_compare_the_scores_of_student_and_teacher():
    distiller = make_distiller(losses=["mse"], student_loss_weight=0.0)
    got = evaluate(distiller, make_batches((X, Y), LISTS))
    gaps = (np.array(distiller.student(X)) - X["teacher_scores"])[X["mask"]]
    assert got["distillation_loss"] == pytest.approx(np.mean(gaps**2), rel=1e-5)


def test_keras_losses_and_metrics_are_saved_with_the_distiller(tmp_path):
    distiller = make_distiller()
    distiller.compile("adam", loss="huber", metrics=["mae"], weighted_metrics=["mae"])
    batches = make_batches(ARRAYS)
    fit(distiller, batches)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    want = evaluate(distiller, batches)
    assert set(want) >= {"mae", "weighted_mae"}
    assert evaluate(loaded, batches) == pytest.approx(want, rel=1e-6)


def functional_student():
    """Two towers as a Keras user builds them: a Functional model."""
    user = keras.Input((), name="user", dtype="int32")
    items = keras.Input((LIST_SIZE,), name="candidate_index", dtype="int32")
    left = keras.layers.Embedding(5, 3)(user)
    right = keras.layers.Embedding(9, 3)(items)
    scores = keras.layers.Dot(axes=(1, 2))([left, right])
    inputs = {"query": {"user": user}, "candidate_index": items}
    return keras.Model(inputs, scores)


@pytest.mark.parametrize("make", [make_student, functional_student])
def test_a_students_distiller_is_saved_loaded_and_cloned(make, tmp_path):
    given = {**X, "query": {"user": X["query"]["user"].astype("int32")}}
    distiller = make_distiller(student=make())
    distiller.compile("adam", ListwiseCrossEntropy(), metrics=["mae"])
    path = tmp_path / "best.keras"
    keep = keras.callbacks.ModelCheckpoint(path, monitor="loss", save_best_only=True)
    distiller.fit(
        given, Y, sample_weight=LIST_WEIGHT, epochs=2, verbose=0, callbacks=[keep]
    )
    loaded = keras.models.load_model(path)
    distiller.save(tmp_path / "last.keras")
    last = keras.models.load_model(tmp_path / "last.keras")
    for copy in (loaded, last):
        np.testing.assert_array_equal(
            copy.predict(given, verbose=0), distiller.predict(given, verbose=0)
        )
    clone = keras.models.clone_model(distiller)
    clone.predict(given, verbose=0)
    clone.set_weights(distiller.get_weights())
    np.testing.assert_array_equal(
        clone.predict(given, verbose=0), distiller.predict(given, verbose=0)
    )


def test_weights_of_classes_are_refused():
    distiller = make_distiller()
    for call in (
        lambda: distiller.fit(X, Y, class_weight={0: 1.0}, verbose=0),
        lambda: distiller.train_on_batch(X, Y, class_weight={0: 1.0}),
        lambda: distiller.train_on_batch(X, Y, None, {0: 1.0}),
    ):
        with pytest.raises(ValueError, match=r"`class_weight` must be None.*\{0: 1.0"):
            call()


def test_weights_of_an_unknown_shape_are_an_error_that_says_what_to_do():
    def unknown(x, y, weight):
        return x, y, tf.numpy_function(lambda each: each, [weight], tf.float32)

    batches = make_batches((X, Y, LIST_WEIGHT)).map(unknown)
    with pytest.raises(ValueError, match=r"known number of axes.*`set_shape`"):
        fit(make_distiller(), batches)


def test_metrics_with_one_name_are_numbered_and_none_has_the_name_of_a_loss():
    distiller = make_distiller()
    both = ["mae", keras.metrics.MeanSquaredError(name="mae")]
    distiller.compile("sgd", loss="mse", metrics=both)
    got = evaluate(distiller, make_batches((X, Y)))
    assert got["mae"] != got["mae_1"]
    named = keras.metrics.MeanSquaredError(name="loss")
    with pytest.raises(ValueError, match=r"reported loss.*name='loss'"):
        distiller.compile("sgd", loss="mse", metrics=[named])
