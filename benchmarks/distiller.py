"""Benchmark: a training step with stored teacher scores and with a live teacher."""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.distillation import LogitsDistillation

from benchmarks import Benchmark, sized
from recdistill import Distiller, ListwiseCrossEntropy, ListwiseKLDivergence
from recdistill.evaluation.latency.stopwatch import compare

TEACHER_HIDDEN, STUDENT_HIDDEN = (256, 256), (16,)
TEMPERATURE = 2.0


class Scorer(keras.Model):
    """An MLP that scores each candidate from features of query and candidate.

    `calls` counts the forward passes of an eager run.
    """

    def __init__(self, features: int, hidden: tuple[int, ...], seed: int) -> None:
        super().__init__()
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Dense(n, activation="relu") for n in hidden]
        self.mlp = keras.Sequential([*layers, keras.layers.Dense(1)])
        self.mlp.build((None, None, features))
        self.built, self.calls = True, 0

    def call(self, x: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Scores `(batch, list_size)`."""
        self.calls += 1
        return tf.squeeze(self.mlp(x["features"]), axis=-1)


class StoredScores(keras.Model):
    """A teacher that returns stored scores, for Keras's Distiller."""

    def __init__(self, column: str = "teacher_scores") -> None:
        super().__init__()
        self.column = column

    def call(self, x: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Scores `(batch, list_size)`."""
        return x[self.column]


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Run the benchmark; `BENCHMARK.reading` describes the figures."""
    sizes = {
        "batch": sized(64, scale),
        "list_size": sized(100, scale),
        "features": sized(64, scale),
        "steps_in_an_epoch": sized(20, scale),
        "steps_timed": sized(100, scale, least=1),
    }
    teacher = Scorer(sizes["features"], TEACHER_HIDDEN, seed=1)
    x, relevance = make_batch(sizes, teacher)
    models = make_distillers(teacher, sizes["features"])
    y = {name: relevance for name in models}
    for name in ("recdistill_live", "recdistill_stored"):
        y[name] = {"labels": relevance, "mask": x["mask"]}
    inputs = {name: without_stored(x) if "live" in name else x for name in models}
    for name, model in models.items():
        model.compile("adam", loss=relevance_loss(name), jit_compile=False)
    difference = loss_difference(models, inputs, y)
    timed = compare(
        {
            name: lambda name=name: models[name].train_on_batch(inputs[name], y[name])
            for name in models
        },
        warmup=3,
        repeats=sizes["steps_timed"],
        budget_s=30.0,
    )
    figures = {f"{name}_ms": each.p50 for name, each in timed.latencies.items()}
    figures |= {
        f"{name}_speedup": value
        for name, value in timed.speedup.items()
        if name != "keras_live"
    }
    figures["loss_difference"] = difference
    for name, model in models.items():
        figures[f"{name}_saved_bytes"] = saved_bytes(model)
        training, validation = teacher_calls(
            model, teacher, inputs[name], y[name], sizes["steps_in_an_epoch"]
        )
        figures[f"{name}_teacher_calls"] = training
        figures[f"{name}_teacher_calls_in_validation"] = validation
    return {"sizes": sizes, "figures": figures}


def make_batch(
    sizes: dict[str, int], teacher: Scorer
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Inputs with stored teacher scores; one relevant candidate in each list."""
    rng = np.random.default_rng(0)
    shape = (sizes["batch"], sizes["list_size"])
    features = rng.normal(size=(*shape, sizes["features"])).astype("float32")
    x = {"features": tf.constant(features), "mask": tf.ones(shape, tf.bool)}
    relevant = rng.integers(0, shape[1], shape[0])
    return {**x, "teacher_scores": teacher(x)}, tf.one_hot(relevant, shape[1])


def without_stored(x: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The same inputs without stored scores, so that the teacher runs."""
    return {name: value for name, value in x.items() if name != "teacher_scores"}


def make_distillers(teacher: Scorer, features: int) -> dict[str, Any]:
    """The four distillers, with equal students that start from equal weights."""
    students = [Scorer(features, STUDENT_HIDDEN, seed=2) for _ in range(4)]
    theirs = LogitsDistillation(TEMPERATURE, loss=keras.losses.KLDivergence())
    ours = ListwiseKLDivergence(TEMPERATURE)
    return {
        "keras_live": keras.distillation.Distiller(teacher, students[0], theirs),
        "keras_stored": keras.distillation.Distiller(
            StoredScores(), students[1], theirs
        ),
        "recdistill_live": Distiller(teacher, students[2], ours),
        "recdistill_stored": Distiller(teacher, students[3], ours),
    }


def relevance_loss(name: str) -> keras.losses.Loss:
    """Softmax cross-entropy over the list, under each library's name."""
    if name.startswith("keras"):
        return keras.losses.CategoricalCrossentropy(from_logits=True)
    return ListwiseCrossEntropy()


def loss_difference(
    models: dict[str, Any], inputs: dict[str, Any], y: dict[str, Any]
) -> float:
    """Largest difference between the four losses of the batch before training."""
    losses = [
        float(model.compute_loss(inputs[name], y[name], model.student(inputs[name])))
        for name, model in models.items()
    ]
    return max(losses) - min(losses)


def saved_bytes(model: keras.Model) -> int:
    """Size of the file that `save_weights` and `ModelCheckpoint` write."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.weights.h5"
        model.save_weights(path)
        return path.stat().st_size


def teacher_calls(
    model: keras.Model, teacher: Scorer, x: Any, y: Any, steps: int
) -> list[int]:
    """Forward passes of the teacher in one eager epoch: training, then validation."""
    model.run_eagerly = True
    model.make_train_function(force=True)
    model.make_test_function(force=True)
    epoch = tf.data.Dataset.from_tensors((x, y)).repeat(steps)
    teacher.calls = 0
    model.fit(epoch, verbose=0, shuffle=False)
    training, teacher.calls = teacher.calls, 0
    model.evaluate(epoch, verbose=0)
    return [training, teacher.calls]


_SIDES = {
    "keras_live": "keras.distillation.Distiller, the teacher runs in the step",
    "keras_stored": "keras.distillation.Distiller, a teacher returns stored scores",
    "recdistill_live": "recdistill.Distiller, the teacher runs in the step",
    "recdistill_stored": "recdistill.Distiller, same teacher, scores in the batch",
}

BENCHMARK = Benchmark(
    name="distiller",
    title="Distiller: one training step, against keras.distillation.Distiller",
    equal=(
        "Student (an MLP with one hidden layer of 16), its initial weights, batch, "
        "Adam, the relevance loss (softmax cross-entropy), the distillation loss "
        "(KL divergence at temperature 2), their weights, no XLA (what Keras chooses "
        "on a CPU). The teacher is an MLP with two hidden layers of 256 that reads "
        "the same inputs. No list is padded, because Keras's Distiller has no mask."
    ),
    other_side=(
        "An explicit `keras.losses.KLDivergence()`, because the default loss of "
        "`LogitsDistillation` skips its softmax and compares the scores themselves, "
        "clipped to between 0 and 1 (the next section shows the effect). Keras has no "
        "stored scores; `keras_stored` uses what a careful user can build, a teacher "
        "that returns a column of its input. The gain over `keras_live` is the "
        "teacher's forward pass, so it grows with the teacher. Little can be gained "
        "over `keras_stored`, where no teacher runs either."
    ),
    reading={
        **{
            f"{name}_ms": f"Milliseconds per step: {side}."
            for name, side in _SIDES.items()
        },
        **{
            f"{name}_speedup": f"Times faster than `keras_live`: {side}."
            for name, side in _SIDES.items()
            if name != "keras_live"
        },
        "loss_difference": (
            "Largest difference between the losses of the four distillers on the same "
            "batch and weights; near 0, they do the same work."
        ),
        **{
            f"{name}_saved_bytes": (
                f"Bytes that `save_weights` of the distiller writes: {side}. "
                "On both sides `distiller.student.save_weights` writes the student "
                "alone; `ModelCheckpoint` saves the distiller."
            )
            for name, side in _SIDES.items()
        },
        **{
            f"{name}_teacher_calls": (
                f"Teacher forward passes counted in one epoch of training: {side}."
            )
            for name, side in _SIDES.items()
        },
        **{
            f"{name}_teacher_calls_in_validation": (
                f"The same in an epoch of validation: {side}."
            )
            for name, side in _SIDES.items()
        },
    },
    run=run,
)
