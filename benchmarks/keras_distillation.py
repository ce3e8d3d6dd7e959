"""Distillation of a student from data to validation, compared with keras.distillation.

The teacher is trained once; its artefacts stay in the cache folder of recdistill.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.distillation import LogitsDistillation

from benchmarks import Benchmark, sized
from recdistill import Distiller, ListwiseCrossEntropy, ListwiseKLDivergence
from recdistill.data.collation import Collator
from recdistill.evaluation.intervals import paired_difference
from recdistill.pipeline.config import load_config
from recdistill.pipeline.models.model_building import build_student
from recdistill.pipeline.models.scorers import compiled
from recdistill.pipeline.ranking.validation import Validation
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.training.training_batches import training_batches

PIPELINES = Path(__file__).parents[1] / "pipelines"
NDCG, LOWEST = "ndcg@10", -1e9
WEIGHT = 0.8
RATE = 0.003
TEACHER = (
    'teacher={ kind = "reference", attention_length = 100, epochs = 1, '
    "learning_rate = 0.002 }"
)
"""The reference teacher of the MovieLens pipeline, after one pass."""

SIDES = {"keras": False, "graph": False, "recdistill": True}
"""The sides, and whether XLA compiles their step."""

RATIOS = {"speedup": ("keras", "recdistill"), "graph_speedup": ("keras", "graph")}
"""Figures that are ratios of two sides' times."""

SMALL = (
    'dataset={ reader = "synthetic", synthetic = '
    "{ queries = 60, items = 40, interactions = 700 } }",
    'query={ history = { kind = "history", length = 8 } }',
    'candidate={ item_id = { kind = "id" }, affinity = { kind = "affinity" } }',
    'teacher={ kind = "reference", dim = 8, attention_length = 8, epochs = 1 }',
)
"""Generated data, for quick looks."""


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Run the benchmark; `BENCHMARK.reading` explains the figures."""
    full = scale >= 0.5
    sizes = {
        "batch": 256 if full else 16,
        "contexts": sized(20_000, scale, least=64),
        "steps": sized(400, scale, least=2),
        "steps_timed": sized(60, scale, least=2),
        "validation_lists": sized(4_000, scale, least=20),
    }
    folder = (
        Path.home() / ".cache" / "recdistill" / "benchmarks"
        if full
        else Path(tempfile.mkdtemp())
    )
    try:
        return {"sizes": sizes, "figures": compared(sizes, folder, full)}
    finally:
        if not full:
            shutil.rmtree(folder)


def compared(sizes: dict[str, int], folder: Path, full: bool) -> dict[str, float]:
    """Trains the students with the same batches and compares speed and quality."""
    config = load_config(
        PIPELINES / "movielens_100k.toml",
        [
            *((TEACHER,) if full else SMALL),
            f"workdir={folder}",
            f"lists.contexts={sizes['contexts']}",
        ],
    )
    pipeline = Pipeline(config)
    store = pipeline.run("score")
    prepared, teacher = pipeline.prepared, pipeline.context.teacher_model
    shards = sorted(store.path.glob("scores-*.parquet"))
    collate = Collator(
        prepared.catalogue_size,
        with_teacher=True,
        training_rows=prepared.training_rows,
    )

    def batches() -> Any:
        data = training_batches(shards, collate, sizes["batch"], config.seed)
        return data.map(lambda x, y, weight: (x, y))

    students = {}
    for name in SIDES:
        keras.utils.set_random_seed(config.seed)
        students[name] = build_student(config.student, prepared)
    x, _ = next(iter(batches()))
    for student in students.values():
        student(x)
    for student in students.values():
        student.set_weights(students["recdistill"].get_weights())
    sides = {}
    for name, xla in SIDES.items():
        if name == "keras":
            data = batches().map(for_keras)
            distiller = keras_distiller(teacher, students[name])
        else:
            data = batches().map(without_rows)
            distiller = our_distiller(students[name])
        # As in the pipeline: the argument of `compile` has no effect here, because
        # Keras leaves XLA out where operations must be deterministic.
        distiller._jit_compile = xla
        sides[name] = step_of(distiller, data)
    first = {name: step() for name, step in sides.items()}
    times = timed(sides, sizes["steps_timed"])
    done = 1 + sizes["steps_timed"]
    for step in sides.values():
        for _ in range(sizes["steps"] - done):
            step()
    middle = {name: float(np.median(each)) for name, each in times.items()}
    figures = {
        f"{name}_lists_per_second": sizes["batch"] / seconds
        for name, seconds in middle.items()
    }
    for name, (theirs, ours) in RATIOS.items():
        quartiles = np.percentile(times[theirs] / times[ours], [25, 50, 75])
        figures |= dict(
            zip(
                (f"{name}_low", name, f"{name}_high"),
                map(float, quartiles),
                strict=True,
            )
        )
    passes = sizes["batch"] * config.student.steps / sizes["contexts"]
    scoring = store.record["seconds"] / sizes["contexts"] / max(1.0, passes)
    figures |= {
        "speedup_with_scoring": middle["keras"]
        / (middle["recdistill"] + scoring * sizes["batch"]),
        "loss_difference": abs(first["keras"] - first["graph"]),
    }
    return figures | quality(students, prepared, sizes["validation_lists"])


def keras_distiller(teacher: Any, student: Any) -> keras.Model:
    """The `keras.distillation.Distiller`, whose teacher runs in the step."""
    distiller = keras.distillation.Distiller(
        Masked(teacher),
        Masked(student),
        LogitsDistillation(1.0, loss=keras.losses.KLDivergence()),
        student_loss_weight=1.0 - WEIGHT,
    )
    distiller.compile(
        keras.optimizers.Adam(RATE),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    return distiller


def our_distiller(student: Any) -> keras.Model:
    """Our Distiller, which reads stored scores."""
    distiller = Distiller(
        None,
        student,
        ListwiseKLDivergence(),
        [WEIGHT],
        student_loss_weight=1.0 - WEIGHT,
    )
    distiller.compile(keras.optimizers.Adam(RATE), loss=ListwiseCrossEntropy())
    return distiller


def step_of(distiller: Any, data: tf.data.Dataset) -> Callable[[], float]:
    """A training step as `fit` makes it, from the data."""
    iterator = iter(data)
    distiller._symbolic_build(data_batch=next(iterator))
    distiller.make_train_function()
    return lambda: float(distiller.train_function(iterator)["loss"])


class Masked(keras.Model):  # type: ignore[misc]
    """A model that writes a low score where the mask is False: Keras has no mask."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.built = model, True

    def call(self, x: dict[str, Any], training: bool = False) -> tf.Tensor:
        """Scores `(batch, list_size)`."""
        return tf.where(x["mask"], self.model(x, training=training), LOWEST)


def for_keras(x: dict[str, Any], y: dict[str, Any]) -> Any:
    """The batch without stored scores; its labels as a distribution."""
    x = {name: value for name, value in x.items() if name != "teacher_scores"}
    total = tf.reduce_sum(y["labels"], axis=1, keepdims=True)
    return x, tf.math.divide_no_nan(y["labels"], total)


def without_rows(x: dict[str, Any], y: dict[str, Any]) -> Any:
    """The batch without the training rows, which only a live teacher needs."""
    return {name: value for name, value in x.items() if name != "training_row"}, y


def timed(sides: dict[str, Callable[[], float]], repeats: int) -> dict[str, Any]:
    """Seconds of each step, in turns."""
    times = {name: np.zeros(repeats) for name in sides}
    for number in range(repeats):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            sides[name]()
            times[name][number] = time.perf_counter() - start
    return times


def quality(students: dict[str, Any], prepared: Any, lists: int) -> dict[str, float]:
    """Validation NDCG of the students, and the interval of the difference."""
    validation = Validation.sample(prepared, [NDCG], lists, seed=1)
    rows = {n: validation.rows(compiled(each)) for n, each in students.items()}
    found = {
        f"{n}_ndcg": float(np.nanmean(each[NDCG].to_numpy()))
        for n, each in rows.items()
    }
    interval = paired_difference(rows["recdistill"], rows["keras"], [NDCG])[NDCG]
    return found | {
        "ndcg_gain": float(interval.value),
        "ndcg_gain_low": float(interval.low),
        "ndcg_gain_high": float(interval.high),
    }


BENCHMARK = Benchmark(
    name="keras_distillation",
    title="Distillation on MovieLens 100K, compared with keras.distillation",
    equal=(
        "The pipeline's reference teacher after one pass over the training lists, its "
        "student and initial weights, the batches from the stored shards (256 lists "
        "over the whole catalogue), softmax cross-entropy with weight 0.2 and KL "
        "divergence at temperature 1 with weight 0.8, Adam, the number of steps. Both "
        "sides read and collate the same files. At scales below 0.5, generated data."
    ),
    other_side=(
        "`keras.distillation.Distiller` as Keras offers it: the teacher runs in every "
        "step, because there are no stored scores. Keras knows no lists, so a wrapper "
        "writes -1e9 under the mask, and the loss is an explicit `KLDivergence()`. "
        "recdistill has run the teacher before, once for each list; "
        "`speedup_with_scoring` adds that time, spread over the steps of the pipeline. "
        "`recdistill` is the step of the pipeline, which XLA compiles; `graph` is the "
        "same step without XLA. XLA cannot compile this teacher, and therefore not the "
        "step of Keras."
    ),
    reading={
        "keras_lists_per_second": "Lists per second, keras.distillation.",
        "recdistill_lists_per_second": "Lists per second, recdistill.",
        "graph_lists_per_second": "Lists per second, recdistill without XLA.",
        "graph_speedup": "Speed-up of recdistill without XLA, median of the steps.",
        "graph_speedup_low": "First quartile of this speed-up over the steps.",
        "graph_speedup_high": "Third quartile of this speed-up over the steps.",
        "speedup": "Speed-up of recdistill, median of the steps; target: at least 10.",
        "speedup_low": "First quartile of the speed-up over the steps.",
        "speedup_high": "Third quartile of the speed-up over the steps.",
        "speedup_with_scoring": "The same with the time of scoring the lists once.",
        "loss_difference": (
            "Difference of the losses of the first step without XLA; stored scores are "
            "rounded to float16. XLA draws other random numbers for the id dropout."
        ),
        "keras_ndcg": "NDCG@10 on validation after all steps, keras.distillation.",
        "recdistill_ndcg": "NDCG@10 on validation after all steps, recdistill.",
        "graph_ndcg": "The same without XLA.",
        "ndcg_gain": "Difference of recdistill minus Keras.",
        "ndcg_gain_low": "Lower end of its 95 % interval.",
        "ndcg_gain_high": "Upper end of its 95 % interval.",
    },
    run=run,
    limit_s=600.0,
)
