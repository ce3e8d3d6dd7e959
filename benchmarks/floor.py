"""The least time that a training step, scoring and a served request can take.

It follows from the arithmetic and the bytes that cannot be avoided, and from the speed
of this machine's matrix product and memory, which are measured in the same run.
"""

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks import Benchmark, sized
from benchmarks.distillation_step import catalogue_batch, distiller_step
from recdistill.evaluation.latency.stopwatch import compare
from recdistill.retrieval.exact import ExactIndex

STUDENT_DIM, DIM, TOP = 32, 64, 100
STEP_BYTES = 29
"""Bytes moved for one cell of a list in a step, if every array is touched once.

Teacher score 4, mask 1 and label 4 are read; the student's score is written by the
matrix product and read by the loss, 8; its gradient is written once and read by two
matrix products, 12.
"""
SCORE_BYTES = 8
"""Bytes for one scored candidate: the score is written, and read by the selection."""


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Run the benchmark; `BENCHMARK.reading` explains the figures."""
    sizes = {
        "lists": sized(256, scale, least=8),
        "items": sized(1_682, scale, least=16),
        "queries_scored": sized(2_048, scale, least=8),
        "items_scored": sized(20_000, scale, least=200),
        "items_served": sized(1_000_000, scale, least=2_000),
        "product_rows": sized(2_048, scale, least=64),
        "copied_floats": sized(64_000_000, scale, least=10_000),
        "calls_timed": sized(40, scale, least=2),
    }
    speed = machine_speed(sizes)
    flops, bytes_a_second = speed["matmul_gflops"] * 1e9, speed["memory_gb_s"] * 1e9
    cells = sizes["lists"] * sizes["items"]
    scored = sizes["queries_scored"] * sizes["items_scored"]
    read = 4.0 * sizes["items_served"] * DIM
    # (flops, bytes) of each; a step has three products: scores and two gradients.
    work = {
        "step": (6.0 * cells * STUDENT_DIM, float(STEP_BYTES * cells)),
        "scoring": (2.0 * scored * DIM, float(SCORE_BYTES * scored)),
        "request": (2.0 * sizes["items_served"] * DIM, read),
    }
    calls = {
        "step": step_call(sizes),
        "scoring": scoring_call(sizes),
        "request": request_call(sizes),
    }
    figures = dict(speed)
    for name, call in calls.items():
        timed = compare(
            {name: call}, warmup=2, repeats=sizes["calls_timed"], budget_s=30.0
        ).latencies[name]
        arithmetic, moved = work[name]
        floor = 1e3 * max(arithmetic / flops, moved / bytes_a_second)
        figures |= {
            f"{name}_mflop": arithmetic / 1e6,
            f"{name}_mb": moved / 1e6,
            f"{name}_floor_ms": floor,
            f"{name}_ms": timed.p50,
            f"{name}_over_floor": timed.p50 / floor,
        }
    figures["request_difference"] = request_difference()
    return {"sizes": sizes, "figures": figures}


def machine_speed(sizes: dict[str, int]) -> dict[str, float]:
    """Speed of a matrix product in float32, and of copying memory."""
    rows = sizes["product_rows"]
    matrix = tf.random.stateless_normal((rows, rows), (1, 2))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)))
    source = np.ones(sizes["copied_floats"], "float32")
    target = np.empty_like(source)
    seconds = (
        best_of(lambda: float(product())),
        best_of(lambda: np.copyto(target, source)),
    )
    return {
        "matmul_gflops": 2.0 * rows**3 / seconds[0] / 1e9,
        "memory_gb_s": 2.0 * source.nbytes / seconds[1] / 1e9,
    }


def best_of(call: Callable[[], object], repeats: int = 10) -> float:
    """Seconds of the fastest call: the speed of the machine when it is undisturbed."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return max(min(times), 1e-9)


def step_call(sizes: dict[str, int]) -> Callable[[], object]:
    """A distillation step on whole catalogues, without XLA."""
    batch = catalogue_batch(sizes["lists"], sizes["items"], 100)
    _, step = distiller_step(batch, sizes["items"], False)
    return lambda: float(step()["loss"])


def scoring_call(sizes: dict[str, int]) -> Callable[[], object]:
    """The highest scores of a dot-product teacher for each query."""
    rng = np.random.default_rng(0)
    queries, items = (
        tf.constant(rng.normal(size=(sizes[f"{name}_scored"], DIM)), tf.float32)
        for name in ("queries", "items")
    )
    index = ExactIndex(items.numpy())
    search = tf.function(lambda: index.top_k(queries, TOP)[0])
    return lambda: search().numpy()


def request_call(sizes: dict[str, int]) -> Callable[[], object]:
    """One query against the exact index."""
    rng = np.random.default_rng(0)
    index = ExactIndex(rng.normal(size=(sizes["items_served"], DIM)).astype("float32"))
    query = tf.constant(rng.normal(size=(1, DIM)), tf.float32)
    search = tf.function(lambda: index.top_k(query, TOP)[0])
    return lambda: search().numpy()


def request_difference() -> float:
    """Rows of the index's answer that a sorted product does not have."""
    rng = np.random.default_rng(1)
    items = rng.normal(size=(500, DIM)).astype("float32")
    query = rng.normal(size=(1, DIM)).astype("float32")
    rows = ExactIndex(items).top_k(tf.constant(query), 20)[0].numpy()[0]
    want = np.argsort(-(items @ query[0]), kind="stable")[:20]
    return float(len(np.setdiff1d(rows, want)))


_WORK = {
    "step": "a distillation step",
    "scoring": "scoring and selecting the highest scores",
    "request": "a served request with the exact index",
}

BENCHMARK = Benchmark(
    name="floor",
    title="Floor: the least time of a step, of scoring and of a request",
    equal=(
        "The floor is the larger of two times: the arithmetic at the speed of a large "
        "matrix product, and the bytes at the speed of copying memory, both measured "
        "in this run with all cores. A step is a step on whole catalogues without XLA; "
        "scoring is a dot product of width 64 with the top 100 of each query; a "
        "request is one query against the exact index. The request's rows are compared "
        "with a sorted product."
    ),
    other_side=(
        "A machine that does only what cannot be left out. For a step: three matrix "
        "products, and each array of a list read or written once, 29 bytes a cell. For "
        "scoring: one product, 8 bytes a score. For a request: the table, once. Query "
        "towers, optimizers and lookups are above the floor."
    ),
    reading={
        "matmul_gflops": "Matrix product in float32, 10⁹ operations per second.",
        "memory_gb_s": "Copy of memory, 10⁹ bytes read or written per second.",
        **{
            f"{name}_{figure}": f"{text} {what}."
            for name, what in _WORK.items()
            for figure, text in {
                "mflop": "Millions of operations that cannot be avoided in",
                "mb": "Megabytes that must be moved in",
                "floor_ms": "Least milliseconds of",
                "ms": "Measured milliseconds of",
                "over_floor": "Measured time divided by the floor of",
            }.items()
        },
        "request_difference": "Rows of an answer that a sorted product does not have.",
    },
    run=run,
    limit_s=120.0,
)
