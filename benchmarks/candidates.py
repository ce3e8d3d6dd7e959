"""Training step: candidates shared by the batch against candidates of each list."""

from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import Benchmark, sized
from recdistill import (
    Distiller,
    ListwiseCrossEntropy,
    ListwiseKLDivergence,
    TwoTowerStudent,
)
from recdistill.evaluation.latency.stopwatch import compare
from recdistill.features.encoders import FIRST, build_encoder
from recdistill.features.schema import Schema
from recdistill.features.specs import HistorySpec, IdSpec

DIM = 32


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Run the benchmark; `BENCHMARK.reading` describes the figures."""
    sizes = {
        "batch": sized(128, scale),
        "list_size": sized(1_000, scale, least=4),
        "items": sized(10_000, scale, least=8),
        "history": sized(20, scale),
        "steps_timed": sized(40, scale, least=1),
    }
    x, y = make_batch(sizes)
    shape = (sizes["batch"], sizes["list_size"])
    per_list = {
        **x,
        "candidate_index": tf.tile(x["candidate_index"][None], [shape[0], 1]),
    }
    inputs = {"per_list": per_list, "shared": x}
    models = {name: make_distiller(sizes) for name in inputs}
    models["shared"].student(x)
    models["per_list"].student(x)
    models["per_list"].student.set_weights(models["shared"].student.get_weights())
    scores = {name: models[name].student(inputs[name]).numpy() for name in inputs}
    timed = compare(
        {
            name: lambda name=name: models[name].train_on_batch(inputs[name], y)
            for name in inputs
        },
        warmup=2,
        repeats=sizes["steps_timed"],
        budget_s=30.0,
    )
    difference = np.abs(scores["shared"] - scores["per_list"]).max()
    return {
        "sizes": sizes,
        "figures": {
            "per_list_ms": timed.latencies["per_list"].p50,
            "shared_ms": timed.latencies["shared"].p50,
            "speedup": timed.speedup["shared"],
            "difference": float(difference / scores["per_list"].std()),
        },
    }


def make_batch(sizes: dict[str, int]) -> tuple[dict[str, Any], dict[str, tf.Tensor]]:
    """Batch of the tensor contract whose lists share their candidates."""
    rng = np.random.default_rng(0)
    shape = (sizes["batch"], sizes["list_size"])
    history = rng.integers(FIRST, FIRST + sizes["items"], (shape[0], sizes["history"]))
    candidates = rng.choice(sizes["items"], shape[1], replace=False)
    mask = tf.ones(shape, tf.bool)
    x = {
        "query": {"history": tf.constant(history, tf.int32)},
        "candidate_index": tf.constant(candidates, tf.int32),
        "mask": mask,
        "teacher_scores": tf.constant(rng.normal(size=shape), tf.float32),
    }
    relevant = tf.one_hot(rng.integers(0, shape[1], shape[0]), shape[1])
    return x, {"labels": relevant, "mask": mask}


def make_distiller(sizes: dict[str, int]) -> Distiller:
    """Compiled distiller of a two-tower student with item ids and histories."""
    names = [f"item-{k}" for k in range(sizes["items"])]
    item = build_encoder("item_id", IdSpec(), {"vocabulary": names})
    history = HistorySpec(length=sizes["history"])
    schema = Schema(
        query=[build_encoder("history", history, {}, item)],
        candidate=[item],
        affinity={},
        item_id="item_id",
    )
    catalogue = {"item_id": np.arange(sizes["items"], dtype="int32") + FIRST}
    student = TwoTowerStudent(schema, catalogue, dim=DIM, embedding_dim=DIM)
    distiller = Distiller(None, student, ListwiseKLDivergence())
    distiller.compile("adam", loss=ListwiseCrossEntropy(), jit_compile=False)
    return distiller


BENCHMARK = Benchmark(
    name="candidates",
    title="Candidates shared by a batch against the same candidates in each list",
    equal=(
        "Student, initial weights, batch, losses, Adam, stored teacher scores and "
        "candidates. `candidate_index` is `(list_size,)` in one case and "
        "`(batch, list_size)` in the other."
    ),
    other_side=(
        "recdistill's path for lists with different candidates, which encodes each "
        "distinct candidate of the batch once and gathers. This is its easiest case: "
        "the batch has no more distinct candidates than one list. The difference is "
        "one matrix product against a gather for each list and its gradient."
    ),
    reading={
        "per_list_ms": "Milliseconds a step, `candidate_index` `(batch, list_size)`.",
        "shared_ms": "Milliseconds a step, `candidate_index` `(list_size,)`.",
        "speedup": "Speed-up by shared candidates.",
        "difference": (
            "Largest difference between the scores of both before training, in "
            "standard deviations of all scores."
        ),
    },
    run=run,
)
