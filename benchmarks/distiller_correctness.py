"""Benchmark: correctness of losses, masks and weights, against keras.distillation."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.distillation import LogitsDistillation

from benchmarks import Benchmark, sized
from benchmarks.distiller import STUDENT_HIDDEN, TEACHER_HIDDEN, Scorer, StoredScores
from recdistill import Distiller, ListwiseKLDivergence
from recdistill.metrics.agreement import kendall_tau, overlap

TEMPERATURE = 2.0
SPREAD = 2.0
"""Standard deviation of the teacher's scores."""
LEARNING_RATES = (0.001, 0.01)
TEACHER_SCORES, STUDENT_SCORES = [2.0, 1.0, 0.0, -1.0], [1.0, 2.0, 0.0, -1.0]
CANDIDATES = (10, 6, 3, 0)
"""Real candidates of the lists that are padded to ten."""
SIDES = {
    "keras_default": "`LogitsDistillation` with its default loss",
    "keras_explicit": "`LogitsDistillation(loss=KLDivergence())`",
    "recdistill": "`ListwiseKLDivergence`",
}


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Run the benchmark; `BENCHMARK.reading` describes the figures."""
    sizes = {
        "batch": sized(64, scale, least=4),
        "list_size": sized(100, scale, least=12),
        "features": sized(64, scale, least=8),
        "batches": sized(20, scale),
        "steps": sized(400, scale),
        "lists_judged": sized(256, scale, least=4),
    }
    figures = loss_values() | agreement(sizes)
    return {"sizes": sizes, "figures": figures | padding_errors() | weight_errors()}


def loss_values() -> dict[str, float]:
    """Value of each distillation loss for one known pair of lists."""
    teacher, student = tf.constant([TEACHER_SCORES]), tf.constant([STUDENT_SCORES])
    figures = {}
    for temperature in (1.0, 3.0):
        losses = {
            "reference": kl_divergence(TEACHER_SCORES, STUDENT_SCORES, temperature),
            "keras_default": LogitsDistillation(temperature).compute_loss(
                teacher, student
            ),
            "keras_explicit": LogitsDistillation(
                temperature, loss=keras.losses.KLDivergence()
            ).compute_loss(teacher, student),
            "recdistill": ListwiseKLDivergence(temperature)(teacher, student),
        }
        figures |= {
            f"loss_at_{temperature:.0f}_{name}": float(value)
            for name, value in losses.items()
        }
    return figures


def kl_divergence(teacher: Any, student: Any, temperature: float) -> float:
    """The definition: T² Σ p log(p / q) with the softmax of scores / T, in float64."""
    p, q = (np.exp(np.array(x, "float64") / temperature) for x in (teacher, student))
    p, q = p / p.sum(), q / q.sum()
    return float(temperature**2 * (p * np.log(p / q)).sum())


def agreement(sizes: dict[str, int]) -> dict[str, float]:
    """Agreement of each library's student with its teacher on new lists."""
    teacher = make_teacher(sizes["features"])
    batches = [
        make_inputs(sizes, sizes["batch"], seed) for seed in range(sizes["batches"])
    ]
    fresh = make_inputs(sizes, sizes["lists_judged"], seed=-1)
    wanted, mask = teacher(fresh).numpy(), fresh["mask"].numpy()
    figures = {}
    for side in SIDES:
        best = (-2.0, 0.0)
        for rate in LEARNING_RATES:
            student = trained(side, teacher, batches, sizes, rate)
            scores = student(fresh).numpy()
            # Equal scores for all candidates have no order; tau is NaN.
            tau = np.nan_to_num(kendall_tau(wanted, scores, mask, sizes["list_size"]))
            top = overlap(wanted, scores, mask, k=10)
            best = max(best, (float(np.mean(tau)), float(np.mean(top))))
        figures[f"tau_{side}"], figures[f"overlap@10_{side}"] = best
    return figures


def make_teacher(features: int) -> Scorer:
    """An MLP whose scores have the spread of a trained ranker's."""
    teacher = Scorer(features, TEACHER_HIDDEN, seed=1)
    probe = np.random.default_rng(9).normal(size=(1, 1_000, features))
    spread = np.std(teacher({"features": tf.constant(probe, tf.float32)}))
    head = teacher.mlp.layers[-1]
    head.kernel.assign(head.kernel * (SPREAD / spread))
    return teacher


def make_inputs(sizes: dict[str, int], lists: int, seed: int) -> dict[str, tf.Tensor]:
    """Lists without padding, because keras.distillation has no mask."""
    rng = np.random.default_rng(seed + 100)
    shape = (lists, sizes["list_size"])
    features = rng.normal(size=(*shape, sizes["features"])).astype("float32")
    return {"features": tf.constant(features), "mask": tf.ones(shape, tf.bool)}


def trained(
    side: str, teacher: Scorer, batches: list[Any], sizes: dict[str, int], rate: float
) -> Scorer:
    """A student that was trained on teacher scores alone."""
    student = Scorer(sizes["features"], STUDENT_HIDDEN, seed=2)
    model = make_distiller(side, teacher, student)
    # keras.distillation requires a loss, although its weight is 0.
    loss = None if side == "recdistill" else "mse"
    model.compile(keras.optimizers.Adam(rate), loss=loss, jit_compile=False)
    for step in range(sizes["steps"]):
        x = batches[step % len(batches)]
        model.train_on_batch(x, tf.zeros(x["mask"].shape))
    return student


def make_distiller(side: str, teacher: Any, student: Any) -> Any:
    """A distiller of one library without a relevance loss."""
    if side == "recdistill":
        ours = ListwiseKLDivergence(TEMPERATURE)
        return Distiller(teacher, student, ours, student_loss_weight=0.0)
    loss = {"loss": keras.losses.KLDivergence()} if side != "keras_default" else {}
    theirs = LogitsDistillation(TEMPERATURE, **loss)
    return keras.distillation.Distiller(
        teacher, student, theirs, student_loss_weight=0.0
    )


class Filled(keras.Model):
    """A model that excludes padding from a softmax by a score of -1e9."""

    def __init__(self, column: str) -> None:
        super().__init__()
        self.column = column

    def call(self, x: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Scores `(batch, list_size)`."""
        return tf.where(x["mask"], x[self.column], -1e9)


def padding_errors() -> dict[str, float]:
    """Relative errors of the loss of padded lists."""
    x = padded_lists()
    wanted = np.mean(definitions(x))
    figures = {}
    for name, side, column in (
        ("keras", "keras_explicit", StoredScores),
        ("keras_filled", "keras_explicit", Filled),
        ("recdistill", "recdistill", StoredScores),
    ):
        for lists in ("padded", "empty"):
            rows = slice(3) if lists == "padded" else slice(4)
            inputs = {key: value[rows] for key, value in x.items()}
            loss = loss_of(side, column, inputs)
            figures[f"{lists}_error_{name}"] = abs(loss - wanted) / wanted
    return figures


def padded_lists() -> dict[str, tf.Tensor]:
    """Scores of teacher and student, with arbitrary values under padding."""
    rng = np.random.default_rng(4)
    mask = np.arange(10) < np.array(CANDIDATES)[:, None]
    columns = {
        name: np.where(mask, rng.normal(0.0, SPREAD, mask.shape), 9.0)
        for name in ("teacher_scores", "student_scores")
    }
    tensors = {name: tf.constant(x, tf.float32) for name, x in columns.items()}
    return {**tensors, "mask": tf.constant(mask)}


def definitions(x: dict[str, tf.Tensor]) -> list[float]:
    """Loss of each list that has candidates, by the definition."""
    teacher, student = x["teacher_scores"].numpy(), x["student_scores"].numpy()
    return [
        kl_divergence(teacher[row, :size], student[row, :size], TEMPERATURE)
        for row, size in enumerate(CANDIDATES)
        if size
    ]


def loss_of(
    side: str, column: Any, x: dict[str, tf.Tensor], weight: Any = None
) -> float:
    """Loss of a batch that stores the scores of teacher and student."""
    teacher, student = column("teacher_scores"), column("student_scores")
    model = make_distiller(side, teacher, student)
    return float(
        model.compute_loss(x, None, student(x), sample_weight=weight, training=False)
    )


def weight_errors() -> dict[str, float]:
    """Errors of the loss of weighted lists, and the effect of lists of weight 0."""
    first = {key: value[:1] for key, value in padded_lists().items()}
    x = {key: tf.repeat(value, 2, axis=0) for key, value in first.items()}
    # The teacher's scores of the second list have the opposite order.
    x["teacher_scores"] *= tf.constant([[1.0], [-1.0]])
    pairs = zip(x["teacher_scores"].numpy(), x["student_scores"].numpy(), strict=True)
    losses = [kl_divergence(*pair, TEMPERATURE) for pair in pairs]
    weight = np.array([3.0, 1.0], "float32")
    wanted = np.average(losses, weights=weight)
    figures = {}
    for name, side in (("keras", "keras_explicit"), ("recdistill", "recdistill")):
        plain = loss_of(side, StoredScores, x)
        figures[f"unweighted_difference_{name}"] = abs(plain - np.mean(losses))
        loss = loss_of(side, StoredScores, x, weight)
        figures[f"weight_error_{name}"] = abs(loss - wanted) / wanted
        figures[f"moved_by_weight_zero_{name}"] = moved_by_weight_zero(side)
    return {name: float(value) for name, value in figures.items()}


def moved_by_weight_zero(side: str) -> float:
    """The largest change of a model weight in a step on lists of weight 0."""
    sizes = {"list_size": 10, "features": 8}
    teacher = make_teacher(sizes["features"])
    student = Scorer(sizes["features"], STUDENT_HIDDEN, seed=2)
    model = make_distiller(side, teacher, student)
    loss = None if side == "recdistill" else "mse"
    model.compile(keras.optimizers.SGD(0.1), loss=loss, jit_compile=False)
    before = student.get_weights()
    x = make_inputs(sizes, lists=4, seed=0)
    y = tf.zeros(x["mask"].shape)
    model.train_on_batch(x, y, sample_weight=np.zeros(4, "float32"))
    after = student.get_weights()
    changes = (np.abs(x - y).max() for x, y in zip(before, after, strict=True))
    return float(max(changes))


_PADDING = {
    "keras": "keras.distillation, which has no mask",
    "keras_filled": "keras.distillation, both models write -1e9 under padding",
    "recdistill": "recdistill",
}

BENCHMARK = Benchmark(
    name="distiller_correctness",
    title="Distiller: losses, masks and weights, against keras.distillation",
    equal=(
        "Teacher, student (an MLP with one hidden layer of 16), its initial weights, "
        "batches, Adam, steps and temperature (2, except `loss_at_…`); distillation "
        "alone, no relevance. The teacher is an MLP with two hidden layers of 256 and "
        "random weights, its scores scaled to a standard deviation of 2. Each side "
        "uses the better of two learning rates, 0.001 and 0.01, by the reported "
        "metric. Lists are padded only in the figures about padding."
    ),
    other_side=(
        "`LogitsDistillation` with its default loss, and with the explicit "
        "`keras.losses.KLDivergence()` that makes it apply the softmax. For padded "
        "lists there is also the workaround without a mask: teacher and student write "
        "-1e9 under padding, so that its probability is 0. `sample_weight` has no "
        "workaround, because `compute_loss` does not use it. On full lists of equal "
        "weight the explicit loss and ours agree, and so do their students."
    ),
    reading={
        **{
            f"loss_at_{temperature}_{name}": (
                f"Loss on teacher {TEACHER_SCORES}, student {STUDENT_SCORES} at "
                f"temperature {temperature}: {loss}."
            )
            for temperature in (1, 3)
            for name, loss in {
                "reference": "the definition in float64",
                **SIDES,
            }.items()
        },
        **{
            f"tau_{side}": (
                "Kendall's tau of student and teacher on new lists, 1 for the same "
                f"order; trained with {loss}."
            )
            for side, loss in SIDES.items()
        },
        **{
            f"overlap@10_{side}": (
                "Share of the teacher's top ten in the student's top ten; trained with "
                f"{loss}."
            )
            for side, loss in SIDES.items()
        },
        **{
            f"padded_error_{name}": (
                "Relative error of the loss of three lists of 10, 6 and 3 candidates, "
                f"padded to 10 with scores of 9: {side}."
            )
            for name, side in _PADDING.items()
        },
        **{
            f"empty_error_{name}": f"The same with a fourth list, all padding: {side}."
            for name, side in _PADDING.items()
        },
        **{
            f"{figure}_{name}": f"{text}: {side}."
            for name, side in {
                "keras": "keras.distillation, explicit loss",
                "recdistill": "recdistill",
            }.items()
            for figure, text in {
                "unweighted_difference": (
                    "Difference of the loss of two lists from its definition, without "
                    "weights"
                ),
                "weight_error": "Relative error of the same loss with weights 3 and 1",
                "moved_by_weight_zero": (
                    "Largest change of a student's weight by a step of SGD on lists "
                    "that all have weight 0"
                ),
            }.items()
        },
    },
    run=run,
)
