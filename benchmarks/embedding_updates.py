"""One update of an embedding table, compared with Keras's Adam and Adagrad."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from benchmarks import Benchmark, sized
from recdistill.evaluation.latency.stopwatch import compare
from recdistill.models import LazyAdam, RowwiseAdagrad

RATE = 0.01
WIDTH = 64


class Update:
    """An optimizer with a table of its own, and batches of distinct ids."""

    def __init__(
        self, optimizer: keras.optimizers.Optimizer, rows: int, ids: int
    ) -> None:
        self.table = keras.Variable(tf.zeros((rows, WIDTH)))
        self.optimizer = optimizer
        optimizer.build([self.table])
        rng = np.random.default_rng(0)
        self.batches = [
            tf.constant(rng.choice(rows, ids, replace=False)) for _ in range(8)
        ]
        self.gradient = tf.constant(rng.standard_normal((ids, WIDTH)), tf.float32)
        self.shape = tf.constant([rows, WIDTH])
        self.count = 0
        self.apply = tf.function(self._apply)

    def _apply(self, ids: tf.Tensor) -> None:
        slices = tf.IndexedSlices(self.gradient, ids, self.shape)
        self.optimizer.apply([slices], [self.table])

    def step(self) -> None:
        """One update; the next call takes the next batch."""
        self.apply(self.batches[self.count % len(self.batches)])
        self.count += 1


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Run the benchmark; `BENCHMARK.reading` explains the figures."""
    sizes = {
        "rows": sized(500_000, scale, least=100),
        "rows_of_the_small_table": sized(10_000, scale, least=100),
        "rows_of_the_large_table": sized(4_000_000, scale, least=100),
        "ids": sized(20_000, scale, least=40),
        "ids_for_growth": sized(8_000, scale, least=40),
        "updates_timed": sized(40, scale, least=2),
    }
    rows, ids, repeats = sizes["rows"], sizes["ids"], sizes["updates_timed"]

    def timed(optimizers: dict[str, Callable[[], Update]]) -> dict[str, float]:
        updates = {name: make() for name, make in optimizers.items()}
        compared = compare(
            {name: update.step for name, update in updates.items()},
            warmup=1,
            repeats=repeats,
            budget_s=60.0,
        )
        return {
            **{f"{name}_ms": each.p50 for name, each in compared.latencies.items()},
            "speedup": compared.speedup[list(optimizers)[1]],
        }

    adam = timed(
        {
            "keras_adam": lambda: Update(keras.optimizers.Adam(RATE), rows, ids),
            "lazy_adam": lambda: Update(LazyAdam(RATE), rows, ids),
        }
    )
    adagrad = timed(
        {
            "keras_adagrad": lambda: Update(keras.optimizers.Adagrad(RATE), rows, ids),
            "rowwise_adagrad": lambda: Update(RowwiseAdagrad(RATE), rows, ids),
        }
    )
    few = sizes["ids_for_growth"]
    small, large = (sizes[f"rows_of_the_{name}_table"] for name in ("small", "large"))
    growth = timed(
        {
            "large_table": lambda: Update(LazyAdam(RATE), large, few),
            "small_table": lambda: Update(LazyAdam(RATE), small, few),
        }
    )
    return {
        "sizes": sizes,
        "figures": {
            "keras_adam_ms": adam["keras_adam_ms"],
            "lazy_adam_ms": adam["lazy_adam_ms"],
            "speedup_adam": adam["speedup"],
            "keras_adagrad_ms": adagrad["keras_adagrad_ms"],
            "rowwise_adagrad_ms": adagrad["rowwise_adagrad_ms"],
            "speedup_adagrad": adagrad["speedup"],
            "ratio_large_to_small": growth["speedup"],
            "difference": first_update_difference(),
        },
    }


def first_update_difference() -> float:
    """Largest difference between both Adams after one update of a small table.

    Their first updates agree in every row, since a row without a gradient has no
    momentum yet. Later ones differ on purpose: see `LazyAdam`.
    """
    ours, theirs = (
        Update(each, 1_000, 200)
        for each in (LazyAdam(RATE), keras.optimizers.Adam(RATE))
    )
    ours.step()
    theirs.step()
    return float(np.abs(ours.table.numpy() - theirs.table.numpy()).max())


BENCHMARK = Benchmark(
    name="embedding_updates",
    title="Updates of embedding tables, compared with Keras Adam and Adagrad",
    equal=(
        f"Tables of width {WIDTH} in float32, the same ids and gradients, each side "
        "with a table and a state of its own, both compiled. Row-wise Adagrad has one "
        "accumulator for each row and Keras's Adagrad one for each weight, so those "
        "two do not compute the same."
    ),
    other_side="Keras's optimizers with their defaults and the same learning rate.",
    reading={
        "keras_adam_ms": "One update by `keras.optimizers.Adam`, median.",
        "lazy_adam_ms": "One update by `LazyAdam`, median.",
        "speedup_adam": "Speedup of `LazyAdam`.",
        "keras_adagrad_ms": "One update by `keras.optimizers.Adagrad`, median.",
        "rowwise_adagrad_ms": "One update by `RowwiseAdagrad`, median.",
        "speedup_adagrad": "Speedup of `RowwiseAdagrad`.",
        "ratio_large_to_small": (
            "Time of a `LazyAdam` update in the large table over that in the small "
            "one, with the same number of distinct ids."
        ),
        "difference": "Largest difference in the table after the first update of Adam.",
    },
    run=run,
)
