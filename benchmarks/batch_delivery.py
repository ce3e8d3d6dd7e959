"""Benchmark: training batches delivered from shards, and consumed by the step."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from benchmarks import Benchmark, sized
from benchmarks.distillation_step import distiller_step, queries
from recdistill.data.collation import Collator
from recdistill.data.dense_columns import with_matrix
from recdistill.data.shard_reading import batches, read_lists

BATCH = 256
TAIL = 800
BUFFERED = 5


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Run the benchmark; `BENCHMARK.reading` describes the figures."""
    sizes = {
        "lists": sized(8_192, scale, least=2 * BATCH),
        "shards": 4,
        "items": sized(1_682, scale, least=32),
        "items_of_drawn_lists": sized(200_000, scale, least=2_000),
        "seen": sized(100, scale, least=4),
        "batches_timed": sized(80, scale, least=8),
    }
    figures: dict[str, float] = {}
    ways = {
        "scored": (sizes["items"], Collator(sizes["items"], with_teacher=True)),
        "drawn": (
            sizes["items_of_drawn_lists"],
            Collator(sizes["items_of_drawn_lists"], TAIL, shared=True),
        ),
    }
    for name, (items, collate) in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            shards = write_shards(Path(folder), sizes, items, name == "scored")
            data = batches(shards, collate, BATCH, seed=1)
            figures |= {
                f"{name}_{key}": value
                for key, value in compared(
                    data, items, sizes["batches_timed"], name == "scored"
                ).items()
            }
            figures[f"{name}_difference"] = difference(shards[0], collate)
    return {"sizes": sizes, "figures": figures}


def write_shards(
    folder: Path, sizes: dict[str, int], items: int, scored: bool
) -> list[Path]:
    """Shards with the columns of a prepared data set."""
    rng = np.random.default_rng(0)
    lists = sizes["lists"] // sizes["shards"]
    paths = []
    for number in range(sizes["shards"]):
        query = queries(lists, items, sizes["seen"])
        offsets = np.arange(lists + 1, dtype="int32")
        seen = rng.integers(0, items, lists * sizes["seen"]).astype("int32")
        columns: dict[str, Any] = {
            "list_id": np.arange(lists) + number * lists,
            "query_id": [f"q{k}" for k in range(lists)],
            "query_row": np.arange(lists),
            "candidates": pa.ListArray.from_arrays(
                offsets, rng.integers(0, items, lists).astype("int32")
            ),
            "relevance": pa.ListArray.from_arrays(offsets, np.ones(lists, "float32")),
            "list_weight": np.ones(lists, "float32"),
            "seen": pa.ListArray.from_arrays(offsets * np.int32(sizes["seen"]), seen),
            "query.gender": query["gender"],
            "query.occupation": query["occupation"],
            "query.history": fixed(query["history"]),
        }
        table = pa.table(columns)
        if scored:
            scores = rng.normal(size=(lists, items)).astype("float16")
            table = with_matrix(table, "teacher_scores", scores)
        paths.append(folder / f"{number:05d}.parquet")
        pq.write_table(table, paths[-1])
    return paths


def fixed(values: np.ndarray) -> pa.Array:
    """A column of lists that all have the same length."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def compared(
    data: tf.data.Dataset, items: int, repeats: int, distil: bool
) -> dict[str, float]:
    """Lists that a second of CPU time delivers, and that the step consumes in it."""
    iterator = iter(data)
    _, step = distiller_step(next(iterator), items, False, distil=distil)
    step()
    turn = max(2, repeats // 4)
    made, used = [], []
    for _ in range(4):
        for _ in range(BUFFERED):
            next(iterator)
        start = time.process_time()
        for _ in range(turn):
            next(iterator)
        made.append((time.process_time() - start) / turn)
        time.sleep(0.5)  # The buffer is full again, so no batch is made beside a step.
        start = time.process_time()
        for _ in range(turn):
            last = step()
        float(last["loss"])
        used.append((time.process_time() - start) / turn)
    return {
        "delivered_per_second": BATCH / float(np.median(made)),
        "consumed_per_second": BATCH / float(np.median(used)),
        "ratio": float(np.median(np.array(used) / np.array(made))),
    }


def difference(shard: Path, collate: Collator) -> float:
    """Number of masked cells that differ from those of a plain loop over the rows."""
    lists = read_lists(shard).take(np.arange(32))
    x, _, _ = collate(lists, np.random.default_rng(0))
    rows = pq.read_table(shard).slice(0, 32).to_pylist()
    wrong = 0
    own = len(x["candidate_index"]) - TAIL if collate.tail else 0
    for row, mask in zip(rows, x["mask"], strict=True):
        gone = {*row["seen"], *(row["candidates"] if collate.tail else ())}
        drawn = x["candidate_index"][own:].tolist()
        wrong += sum(
            bool(real) == (item in gone)
            for item, real in zip(drawn, mask[own:], strict=True)
        )
    return float(wrong)


_WAYS = {
    "scored": "stored scores of whole catalogues",
    "drawn": "drawn candidates that the lists share, from a large catalogue",
}

BENCHMARK = Benchmark(
    name="batch_delivery",
    title="Training batches: delivered from shards, against consumed by the step",
    equal=(
        f"Batches of {BATCH} lists of the same shards. Both sides are measured in CPU "
        "time, all threads together, in turns."
    ),
    other_side=(
        "The step that reads these batches, without XLA: a distillation step for "
        "stored scores, and a step of the baseline for drawn candidates."
    ),
    reading={
        f"{name}_{figure}": f"{text}: {what}."
        for name, what in _WAYS.items()
        for figure, text in {
            "delivered_per_second": "Lists delivered in a second of CPU time",
            "consumed_per_second": "Lists that the step consumes in a second of it",
            "ratio": "Ratio of delivery to consumption, median",
            "difference": (
                "Cells of a mask that differ from a plain loop over the rows"
            ),
        }.items()
    },
    run=run,
)
