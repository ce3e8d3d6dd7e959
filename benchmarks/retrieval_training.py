"""A training step of retrieval, compared with TFRS and keras-rs."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import keras_rs
import numpy as np
import tensorflow as tf

from benchmarks import Benchmark, sized, tfrs_training
from recdistill import InBatchSoftmax
from recdistill.evaluation.latency.stopwatch import compare
from recdistill.models import LazyAdam

DIM, RATE, BATCHES = 64, 0.01, 8
HAS_TFRS = importlib.util.find_spec("tensorflow_recommenders") is not None
"""TFRS is an optional dependency, installed by the extra `tfrs`."""

Step = Callable[[], float]


class TwoTables(keras.Model):  # type: ignore[misc]
    """Scores of each query of the batch for each item of the batch."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.queries, self.items = (
            embedding(np.load(folder / f"{name}.npy")) for name in ("queries", "items")
        )

    def call(self, rows: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Scores `(batch, batch)`."""
        query, item = self.queries(rows["query"]), self.items(rows["item"])
        return keras.ops.matmul(query, keras.ops.transpose(item))


class KerasRsTables(TwoTables):
    """The same, with keras-rs's removal of accidental hits."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.remove_hits = keras_rs.layers.RemoveAccidentalHits()

    def call(self, rows: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Scores `(batch, batch)`."""
        scores = super().call(rows)
        labels = keras.ops.eye(keras.ops.shape(scores)[0])
        return self.remove_hits(scores, labels, rows["item"])


class InBatchTables(TwoTables):
    """The same, with the in-batch softmax of recdistill."""

    loss_in_batch = InBatchSoftmax()

    def compute_loss(
        self, x: Any, y: Any, y_pred: tf.Tensor, *_: Any, **__: Any
    ) -> tf.Tensor:
        """The loss, whose `y` has the items of the batch."""
        return self.loss_in_batch(y, y_pred)


def embedding(table: np.ndarray) -> keras.layers.Embedding:
    """An embedding layer with these weights."""
    layer = keras.layers.Embedding(*table.shape)
    layer.build()
    layer.set_weights([table])
    return layer


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Run the benchmark; `BENCHMARK.reading` explains the figures."""
    sizes = {
        "queries": sized(200_000, scale, least=64),
        "items": sized(100_000, scale, least=64),
        "batch": sized(1_024, scale, least=16),
        "steps_timed": sized(100, scale, least=4),
    }
    with tempfile.TemporaryDirectory() as name, sides(Path(name), sizes) as steps:
        losses = {side: step() for side, step in steps.items()}
        tables = {side: np.load(Path(name) / f"{side}_items.npy") for side in steps}
        timed = compare(
            dict(steps), warmup=2, repeats=sizes["steps_timed"], budget_s=120.0
        )
    figures = {f"{side}_ms": each.p50 for side, each in timed.latencies.items()}
    speedup = timed.speedup
    for side in steps:
        if side != "recdistill":
            figures[f"speedup_over_{side}"] = speedup["recdistill"] / speedup[side]
    figures["loss_difference"] = max(losses.values()) - min(losses.values())
    figures["weight_difference"] = max(
        float(np.abs(table - tables["recdistill"]).max()) for table in tables.values()
    )
    return {"sizes": sizes, "figures": figures}


@contextmanager
def sides(folder: Path, sizes: Mapping[str, int]) -> Iterator[dict[str, Step]]:
    """One training step of each side; each starts from the same weights."""
    rng = np.random.default_rng(0)
    for name in ("queries", "items"):
        table = rng.normal(size=(sizes[name], DIM)).astype("float32") * 0.05
        np.save(folder / f"{name}.npy", table)
    rows = {
        one: np.stack(
            [
                rng.choice(sizes[many], sizes["batch"], replace=False)
                for _ in range(BATCHES)
            ]
        ).astype("int32")
        for one, many in (("query", "queries"), ("item", "items"))
    }
    for name, value in rows.items():
        np.save(folder / f"{name}_rows.npy", value)
    steps = {
        "keras_rs": local_step(
            folder,
            "keras_rs",
            KerasRsTables(folder),
            keras.optimizers.Adam(RATE),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            lambda batch: tf.eye(sizes["batch"]),
        ),
        "recdistill": local_step(
            folder,
            "recdistill",
            InBatchTables(folder),
            LazyAdam(RATE),
            None,
            lambda batch: {"candidate_ids": batch["item"]},
        ),
    }
    if not HAS_TFRS:
        yield steps
        return
    with subprocess.Popen(
        [sys.executable, tfrs_training.__file__, str(folder), str(RATE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        to_child, from_child = child.stdin, child.stdout

        def ask() -> float:
            to_child.write("\n")
            to_child.flush()
            return float(from_child.readline())

        try:
            yield {"tfrs": ask, **steps}
        finally:
            to_child.close()


def local_step(
    folder: Path,
    name: str,
    model: TwoTables,
    optimizer: keras.optimizers.Optimizer,
    loss: Any,
    labels: Callable[[Any], Any],
) -> Step:
    """A training step as `fit` makes it; the first one saves the items."""
    model.compile(optimizer, loss, jit_compile=False)
    model.make_train_function()
    rows = {n: np.load(folder / f"{n}_rows.npy") for n in ("query", "item")}
    batches = tf.data.Dataset.from_tensor_slices(rows)
    data = batches.map(lambda each: (each, labels(each))).repeat()
    model._symbolic_build(data_batch=next(iter(data)))
    iterator = iter(data)

    def step() -> float:
        found = float(model.train_function(iterator)["loss"])
        path = folder / f"{name}_items.npy"
        if not path.exists():
            np.save(path, model.items.get_weights()[0])
        return found

    return step


_SIDES = {
    "recdistill": "recdistill: `InBatchSoftmax` and `LazyAdam`",
    "keras_rs": "keras-rs: `RemoveAccidentalHits`, cross-entropy, Keras's Adam",
    **({"tfrs": "TFRS: `tasks.Retrieval` with `tf_keras`'s Adam"} if HAS_TFRS else {}),
}

BENCHMARK = Benchmark(
    name="retrieval_training",
    title="Training of retrieval: one step, compared with TFRS and keras-rs",
    equal=(
        f"Two embedding tables of width {DIM}, their initial weights, the batches of "
        "pairs (no item twice in a batch), the in-batch softmax over the batch's "
        "items, Adam and its learning rate, no XLA, the training step that `fit` "
        "makes. The losses and the item table are compared after the first step; "
        "later steps differ on purpose, because Adam of Keras also moves the rows that "
        "are not in the batch."
    ),
    other_side=(
        "The retrieval task of the TFRS tutorial, which needs Keras 2 and therefore "
        "runs in a process of its own, and a keras-rs model with the same towers. Both "
        "use the Adam of their Keras, which updates whole tables; most of the "
        "difference comes from there."
    ),
    reading={
        **{f"{n}_ms": f"Milliseconds of a step, {how}." for n, how in _SIDES.items()},
        **{
            f"speedup_over_{n}": f"Speed-up of recdistill over {n}."
            for n in _SIDES
            if n != "recdistill"
        },
        "loss_difference": "Largest difference between the losses of the first step.",
        "weight_difference": (
            "Largest difference between the item tables after the first step."
        ),
    },
    run=run,
    limit_s=150.0,
)
