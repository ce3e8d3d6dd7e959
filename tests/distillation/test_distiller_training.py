"""Training features of Keras in the Distiller: XLA, mixed precision, callbacks."""

import keras
import keras_rs
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

from recdistill.distillation.distiller import Distiller
from recdistill.distillation.temperatures import LearnedTemperature
from recdistill.losses import (
    ContrastiveAlignment,
    HintMSE,
    ListwiseCrossEntropy,
    ListwiseKLDivergence,
    PairwiseMarginMSE,
    RelationalDistance,
)
from tests.distillation.test_schedules import linear
from tests.small_models import (
    FEW_ITEMS,
    LISTS,
    Student,
    Teacher,
    evaluate,
    fit,
    make_arrays,
    make_batches,
    make_distiller,
    weights_of,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def policy():
    before = keras.mixed_precision.dtype_policy()
    yield keras.mixed_precision.set_dtype_policy
    keras.mixed_precision.set_dtype_policy(before)


@pytest.fixture
def arrays():
    x, y, weight = make_arrays()
    rng = np.random.default_rng(8)
    x["teacher_query_embedding"] = rng.normal(size=(LISTS, 5)).astype("float32")
    x["teacher_items"] = rng.normal(size=(len(FEW_ITEMS), 5)).astype("float32")[
        x["candidate_index"]
    ]
    return x, y, weight


def everything(student=None, **kwargs):
    """A distiller with losses on scores and embeddings and a learned temperature."""
    losses = [
        ListwiseKLDivergence(),
        HintMSE(),
        RelationalDistance("candidate_embedding", "teacher_items"),
        ContrastiveAlignment(),
    ]
    temperatures = [LearnedTemperature(), None, None, linear(0.5, 0.1, 9)]
    student = Student(penalty="l2") if student is None else student
    return make_distiller(None, student, losses, temperatures=temperatures, **kwargs)


@pytest.fixture
def xla():
    """Keras does not compile with XLA while another test's determinism is on."""
    was_on = config.is_op_determinism_enabled()
    config.disable_op_determinism()
    yield
    if was_on:
        config.enable_op_determinism()


@pytest.mark.usefixtures("xla")
def test_a_compiled_graph_computes_what_an_eager_step_does(arrays):
    histories = []
    for how in ({"jit_compile": True}, {"run_eagerly": True}):
        keras.utils.set_random_seed(3)
        distiller = everything()
        distiller.compile("sgd", ListwiseCrossEntropy(), **how)
        histories.append(fit(distiller, make_batches(arrays), epochs=2))
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], rtol=1e-4)


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_float32_weights_on_finite_losses(arrays, policy, name):
    want = evaluate(everything(), make_batches(arrays))
    policy(name)
    keras.utils.set_random_seed(3)
    distiller = everything(optimizer=keras.optimizers.Adam(0.05))
    assert distiller.dtype_policy.name == name
    scaled = isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (name == "mixed_float16")
    batches = make_batches(arrays)
    got = evaluate(distiller, batches)
    assert got["relevance_loss"] == pytest.approx(want["relevance_loss"], rel=0.01)
    history = fit(distiller, batches, epochs=6)
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < history["loss"][0]
    assert {np.array(w).dtype.name for w in distiller.trainable_weights} == {"float32"}
    scores = distiller.student(arrays[0])
    assert scores.dtype == name.removeprefix("mixed_")


def test_a_student_in_half_precision_has_its_loss_scaled_without_a_global_policy():
    student = Student(dtype="mixed_float16")
    distiller = make_distiller(student=student)
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    assert make_distiller().dtype_policy.name == "float32"


def test_a_student_in_full_precision_gets_its_inputs_uncast():
    seen = []

    class Looking(Student):
        def call(self, x, training=None):
            seen.append(np.array(x["affinity"]))
            return super().call(x, training)

    distiller = Distiller(
        None, Looking(), ListwiseKLDivergence(), dtype="mixed_float16"
    )
    x, _, _ = make_arrays()
    distiller.student.users.build()
    distiller.student.items.build()
    distiller.student.built = True
    distiller(x)
    np.testing.assert_array_equal(seen[-1], x["affinity"])


class DenseStudent(keras.Model):
    """A student without embedding tables, which Adam accumulates differently."""

    def __init__(self, penalty=None):
        super().__init__()
        self.dense = keras.layers.Dense(1, use_bias=False, kernel_regularizer=penalty)

    def call(self, x, training=None):
        hot = tf.one_hot(x["candidate_index"], len(FEW_ITEMS))
        return self.dense(tf.concat([hot, x["affinity"][..., None]], axis=-1))[..., 0]


@pytest.mark.parametrize(
    ("optimizer", "student"),
    [(keras.optimizers.SGD, Student), (keras.optimizers.Adam, DenseStudent)],
)
def test_accumulated_small_batches_train_like_one_large_batch(optimizer, student):
    x, y, _ = make_arrays()
    histories, weights = [], []
    for size, steps in ((LISTS, None), (LISTS // 3, 3)):
        keras.utils.set_random_seed(3)
        distiller = make_distiller(
            student=student(penalty="l2"),
            losses=[ListwiseKLDivergence(2.0), PairwiseMarginMSE()],
            optimizer=optimizer(0.1, gradient_accumulation_steps=steps),
        )
        histories.append(fit(distiller, make_batches((x, y), size), epochs=3))
        weights.append(weights_of(distiller))
    for large, small in zip(*weights, strict=True):
        np.testing.assert_allclose(small, large, rtol=1e-4, atol=1e-5)
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-4)


def test_schedules_count_updates_and_not_accumulated_batches():
    distiller = make_distiller(
        losses=ListwiseKLDivergence(),
        optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=3),
        temperatures=linear(3.0, 1.0, 2),
    )
    history = fit(distiller, make_batches(make_arrays(), LISTS // 3), epochs=3)
    assert history["temperature"] == pytest.approx([3.0, 2.0, 1.0])


def test_weights_of_candidates_reach_the_losses_that_take_them():
    x, y, _ = make_arrays()
    student = Student()
    keep = np.ones_like(x["mask"], "float32")
    keep[:, 1] = 0.0
    distiller = make_distiller(student=student)
    got = evaluate(distiller, make_batches((x, y, keep)))
    without = x["mask"] & (keep > 0.0)
    removed = {**x, "mask": without}, {**y, "mask": without}
    want = evaluate(make_distiller(student=student), make_batches(removed))
    assert got == pytest.approx(want, rel=1e-5)
    rest = make_distiller(student=student, losses=keras_rs.losses.PairwiseHingeLoss())
    rest.compile("sgd", keras_rs.losses.PairwiseHingeLoss())
    got = evaluate(rest, make_batches((x, y, keep)))
    assert got != evaluate(rest, make_batches((x, y)))


def test_early_stopping_restores_the_best_weights():
    batches = make_batches(make_arrays())
    distiller = make_distiller(optimizer=keras.optimizers.SGD(500.0))
    stop = keras.callbacks.EarlyStopping(
        "val_loss", patience=2, restore_best_weights=True
    )
    history = fit(
        distiller, batches, validation_data=batches, epochs=20, callbacks=[stop]
    )
    assert len(history["loss"]) < 20
    assert evaluate(distiller, batches)["loss"] == pytest.approx(
        min(history["val_loss"]), rel=1e-5
    )


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_model_checkpoint_keeps_the_best_and_no_teacher(tmp_path, suffix):
    live = make_batches(make_arrays(), without=["teacher_scores"])
    path = tmp_path / f"best{suffix}"
    keep = keras.callbacks.ModelCheckpoint(
        path,
        monitor="val_distillation_loss",
        mode="min",
        save_best_only=True,
        save_weights_only=suffix == ".weights.h5",
    )
    teacher = Teacher()
    distiller = make_distiller(teacher, optimizer=keras.optimizers.Adam(0.1))
    history = fit(distiller, live, validation_data=live, epochs=4, callbacks=[keep])
    assert b"teachers_" not in path.read_bytes()
    if suffix == ".keras":
        best = keras.models.load_model(path)
        distiller = make_distiller(teacher, best.student)
    else:
        distiller.load_weights(path)
    got = evaluate(distiller, live)["distillation_loss"]
    assert got == pytest.approx(min(history["val_distillation_loss"]), rel=1e-4)


def test_callbacks_receive_every_reported_number(arrays, tmp_path):
    distiller = everything()
    rows = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    steps = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, logs: steps.append({**logs})
    )
    batches = make_batches(arrays, LISTS)
    history = fit(distiller, batches, epochs=2, callbacks=[rows, watch])
    header = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert set(header) >= {"epoch", *history}
    for step, loss in zip(steps, history["loss"], strict=True):
        assert set(step) == set(history)
        assert float(step["loss"]) == loss


def test_arguments_have_the_order_of_keras_distillation_distiller():
    import inspect

    ours, theirs = (
        [
            parameter.name
            for parameter in inspect.signature(cls.__init__).parameters.values()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        for cls in (Distiller, keras.distillation.Distiller)
    )
    assert ours == theirs
