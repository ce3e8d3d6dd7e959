"""Benchmark: a training step of the Distiller, and the same mathematics by hand."""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import Benchmark, sized
from recdistill import Distiller, ListwiseCrossEntropy, ListwiseKLDivergence
from recdistill.features.model_inputs import FeatureSize, HistorySize, ModelInputs
from recdistill.models.two_tower import TwoTowerStudent

DISTILLATION_WEIGHT = 0.8
LEARNING_RATE = 1e-3
FIRST_ID = 2
LOWEST = -1e9

Step = Callable[[], Any]


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Run the benchmark; `BENCHMARK.reading` explains the figures."""
    sizes = {
        "lists": sized(256, scale, least=8),
        "items": sized(1_682, scale, least=16),
        "history": sized(100, scale, least=4),
        "stored_candidates": sized(801, scale, least=8),
        "items_of_stored_lists": sized(12_000, scale, least=64),
        "steps_timed": sized(200, scale, least=4),
    }
    figures: dict[str, float] = {}
    for name, jit_compile in (("graph", False), ("xla", True)):
        batch = catalogue_batch(sizes["lists"], sizes["items"], sizes["history"])
        ours, ours_step = distiller_step(batch, sizes["items"], jit_compile)
        theirs, theirs_step = step_by_hand(batch, sizes["items"], jit_compile)
        figures |= _prefixed(name, differences(ours, theirs, ours_step, theirs_step))
        timed = cpu_times(
            {"distiller": ours_step, "by_hand": theirs_step}, sizes["steps_timed"]
        )
        figures |= _prefixed(name, compared(timed, "distiller", "by_hand"))
    figures |= stored_lists(sizes)
    return {"sizes": sizes, "figures": figures}


def stored_lists(sizes: dict[str, int]) -> dict[str, float]:
    """Cost of a distillation step on stored lists over that of a baseline's step.

    The steps are those of the pipeline: nearly all items are in the stored lists of a
    batch, so that the student encodes the catalogue and the step is compiled by XLA.
    """
    items = sizes["items_of_stored_lists"]
    drawn = drawn_batch(
        sizes["lists"], sizes["stored_candidates"], items, sizes["history"]
    )
    stored = stored_batch(
        sizes["lists"], sizes["stored_candidates"], items, sizes["history"]
    )
    student, distillation = distiller_step(stored, items, True)
    _, baseline = distiller_step(drawn, items, False, distil=False)
    steps = {"distillation": distillation, "baseline": baseline}
    with student.whole_catalogue():
        timed = cpu_times(steps, sizes["steps_timed"] // 2)
    return _prefixed("stored", compared(timed, "distillation", "baseline"))


def make_student(items: int, history: int) -> TwoTowerStudent:
    """The default student for queries with a history and two more features."""
    inputs = ModelInputs(
        {"gender": FeatureSize(indices=4), "occupation": FeatureSize(indices=23)},
        {"item_id": FeatureSize(indices=items + FIRST_ID)},
        "item_id",
        HistorySize("history", items + FIRST_ID, history),
    )
    keras.utils.set_random_seed(1)
    catalogue = {"item_id": np.arange(FIRST_ID, items + FIRST_ID, dtype="int32")}
    return TwoTowerStudent(inputs, catalogue)


def queries(lists: int, items: int, history: int) -> dict[str, np.ndarray]:
    """Looked-up query features; histories of all lengths."""
    rng = np.random.default_rng(0)
    ids = rng.integers(FIRST_ID, items + FIRST_ID, (lists, history))
    length = rng.integers(1, history + 1, (lists, 1))
    return {
        "gender": rng.integers(1, 4, lists).astype("int32"),
        "occupation": rng.integers(1, 23, lists).astype("int32"),
        "history": np.where(np.arange(history) < length, ids, 0).astype("int32"),
    }


def catalogue_batch(lists: int, items: int, history: int) -> Any:
    """Lists over the whole catalogue; about six of a hundred items are seen."""
    rng = np.random.default_rng(1)
    mask = rng.random((lists, items)) > 0.06
    index = np.arange(items, dtype="int32")
    return as_batch(queries(lists, items, history), index, mask, rng)


def stored_batch(lists: int, size: int, items: int, history: int) -> Any:
    """Lists that each have their own stored candidates."""
    rng = np.random.default_rng(2)
    index = np.argsort(rng.random((lists, items)), axis=1)[:, :size].astype("int32")
    mask = np.ones((lists, size), bool)
    return as_batch(queries(lists, items, history), index, mask, rng)


def drawn_batch(lists: int, size: int, items: int, history: int) -> Any:
    """Lists with one positive each, that share the other candidates."""
    rng = np.random.default_rng(3)
    index = rng.choice(items, lists + size - 1, replace=False).astype("int32")
    mask = np.concatenate([np.eye(lists, dtype=bool), np.ones((lists, size - 1))], 1)
    return as_batch(
        queries(lists, items, history), index, mask.astype(bool), rng, eye=True
    )


def as_batch(
    query: dict[str, np.ndarray],
    index: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    eye: bool = False,
) -> Any:
    """Tensors `(x, y, weight)` with one relevant candidate in each list."""
    lists, size = mask.shape
    relevant = np.arange(lists) if eye else rng.integers(0, size, lists)
    mask[np.arange(lists), relevant] = True
    labels = np.zeros(mask.shape, "float32")
    labels[np.arange(lists), relevant] = 1.0
    scores = rng.normal(size=mask.shape).astype("float32")
    x = {
        "query": query,
        "candidate_index": index,
        "mask": mask,
        "teacher_scores": scores,
    }
    y = {"labels": labels}
    return tf.nest.map_structure(tf.constant, (x, y, np.ones(lists, "float32")))


def distiller_step(
    batch: Any, items: int, jit_compile: bool, distil: bool = True
) -> tuple[TwoTowerStudent, Step]:
    """A student, and a training step of the Distiller around it, as `fit` makes it."""
    x, y, weight = batch
    student = make_student(items, int(x["query"]["history"].shape[1]))
    losses = [ListwiseKLDivergence()] if distil else []
    share = 1.0 - DISTILLATION_WEIGHT if distil else 1.0
    distiller = Distiller(None, student, losses, student_loss_weight=share)
    distiller.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        ListwiseCrossEntropy(),
        jit_compile=jit_compile,
    )
    distiller.make_train_function()
    data = tf.data.Dataset.from_tensors((x, y, weight)).cache().repeat()
    iterator = iter(data)
    distiller._symbolic_build(data_batch=next(iterator))
    return student, lambda: distiller.train_function(iterator)


def step_by_hand(
    batch: Any, items: int, jit_compile: bool
) -> tuple[TwoTowerStudent, Step]:
    """The same student and the same step, written with TensorFlow alone."""
    student = make_student(items, int(batch[0]["query"]["history"].shape[1]))
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(student.trainable_variables)
    variables = [variable.value for variable in student.trainable_variables]

    @tf.function(jit_compile=jit_compile, reduce_retracing=True)
    def step(x: Any, y: Any, weight: tf.Tensor) -> Any:
        mask = x["mask"]
        with tf.GradientTape() as tape:
            scores = tf.where(mask, student(x, training=True), LOWEST)
            logs = tf.nn.log_softmax(scores)
            teacher = tf.nn.log_softmax(tf.where(mask, x["teacher_scores"], LOWEST))
            targets = tf.exp(teacher)
            divergence = tf.reduce_sum(
                tf.where(mask, targets * (teacher - logs), 0.0), axis=1
            )
            relevance = y["labels"] / tf.reduce_sum(y["labels"], axis=1, keepdims=True)
            entropy = -tf.reduce_sum(relevance * logs, axis=1)
            total = tf.reduce_sum(weight)
            relevance_loss = tf.reduce_sum(weight * entropy) / total
            distillation_loss = tf.reduce_sum(weight * divergence) / total
            loss = (1.0 - DISTILLATION_WEIGHT) * relevance_loss
            loss += DISTILLATION_WEIGHT * distillation_loss
        gradients = tape.gradient(loss, variables)
        optimizer.apply(gradients, student.trainable_variables)
        return {
            "loss": loss,
            "relevance_loss": relevance_loss,
            "distillation_loss": distillation_loss,
        }

    iterator = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())

    @tf.function(reduce_retracing=True)
    def one(iterator: Any) -> Any:
        return step(*next(iterator))

    return student, lambda: one(iterator)


def differences(
    ours: TwoTowerStudent, theirs: TwoTowerStudent, our_step: Step, their_step: Step
) -> dict[str, float]:
    """Differences of the loss and of the weights after the first step."""
    loss = abs(float(our_step()["loss"]) - float(their_step()["loss"]))
    weights = max(
        float(np.abs(one - other).max())
        for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True)
    )
    return {"loss_difference": loss, "weight_difference": weights}


def cpu_times(
    steps: dict[str, Step], repeats: int, turn: int = 10
) -> dict[str, np.ndarray]:
    """CPU milliseconds of a step, all threads together, one value for each turn."""
    for step in steps.values():
        for _ in range(3):
            step()
    rounds = max(2, repeats // turn)
    times = {name: np.zeros(rounds) for name in steps}
    for number in range(rounds):
        for name in list(steps)[:: 1 if number % 2 else -1]:
            start = time.process_time()
            for _ in range(turn):
                last = steps[name]()
            keras.tree.map_structure(lambda value: value.numpy(), last)
            times[name][number] = (time.process_time() - start) / turn * 1e3
    return times


def compared(times: dict[str, np.ndarray], ours: str, theirs: str) -> dict[str, float]:
    """Medians of both sides, and the quartiles of the ratio over the turns."""
    low, middle, high = np.percentile(times[ours] / times[theirs], [25, 50, 75])
    medians = {f"{name}_cpu_ms": float(np.median(times[name])) for name in times}
    return {
        **medians,
        "ratio": float(middle),
        "ratio_low": float(low),
        "ratio_high": float(high),
    }


def _prefixed(prefix: str, figures: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in figures.items()}


_SIDES = {
    "graph": "a graph without XLA, 256 lists over the whole catalogue",
    "xla": "compiled by XLA, the same lists",
}

BENCHMARK = Benchmark(
    name="distillation_step",
    title="Distiller: one training step, against the same mathematics by hand",
    equal=(
        "Student (`TwoTowerStudent` with its default widths), initial weights, batch "
        "with stored teacher scores, Adam, KL divergence with weight 0.8 and softmax "
        "cross-entropy with weight 0.2, the mask. The batch comes from a `tf.data` "
        "pipeline, and both sides are compiled in the same way."
    ),
    other_side=(
        "A `tf.function` with one log-softmax of each side, `tf.GradientTape` and "
        "`optimizer.apply`. It has no checks, no metrics and no treatment of empty "
        "lists or extreme scores. For stored lists the other side is a step of the "
        "baseline: the same student without distillation, on drawn candidates that "
        "all lists share. As in the pipeline, the step on stored lists is compiled by "
        "XLA, and that of the baseline is not."
    ),
    reading={
        **{
            f"{name}_{figure}": f"{text}: {how}."
            for name, how in _SIDES.items()
            for figure, text in {
                "loss_difference": "Difference of the losses before training",
                "weight_difference": (
                    "Largest difference of a weight after the first step"
                ),
                "distiller_cpu_ms": "CPU time of a step of the Distiller, median",
                "by_hand_cpu_ms": "CPU time of a step by hand, median",
                "ratio": "Ratio of the CPU times, Distiller to hand, median",
                "ratio_low": "First quartile of this ratio over the turns",
                "ratio_high": "Third quartile of this ratio over the turns",
            }.items()
        },
        "stored_distillation_cpu_ms": "CPU time of a distillation step, stored lists.",
        "stored_baseline_cpu_ms": "CPU time of a step of the baseline, drawn lists.",
        "stored_ratio": "Ratio of these two, median.",
        "stored_ratio_low": "First quartile of this ratio over the turns.",
        "stored_ratio_high": "Third quartile of this ratio over the turns.",
    },
    run=run,
)
