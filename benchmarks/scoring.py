"""Scoring of training lists, compared with the teacher's bare forward pass."""

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from benchmarks import Benchmark, sized
from recdistill.data.batches import Lists
from recdistill.data.collation import Collator
from recdistill.data.shard_reading import read_lists
from recdistill.features.encoders import FIRST
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.list_hashes import list_hashes
from recdistill.pipeline.retriever import Retriever
from recdistill.pipeline.score_parts import planned_parts, write_store
from recdistill.pipeline.score_writing import PAIRS_SCORED, ScoreWriter
from recdistill.pipeline.scorers import compiled

WIDTH, HISTORY, SEED = 64, 20, 1


class DotProduct(keras.Model):  # type: ignore[misc]
    """The cheapest teacher: mean of the history's vectors times the candidates'."""

    def __init__(self, items: int) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        vectors = rng.standard_normal((FIRST + items, WIDTH), "float32")
        self.vectors = tf.constant(vectors / WIDTH**0.5)

    def call(self, batch: dict[str, Any], training: bool = False) -> tf.Tensor:
        """Scores of the candidates of each list, `(batch, list_size)`."""
        query = tf.reduce_mean(tf.gather(self.vectors, batch["query"]["history"]), 1)
        candidates = tf.gather(self.vectors, batch["candidate_index"] + FIRST)
        return tf.linalg.matvec(candidates, query)


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Runs the benchmark; `BENCHMARK.reading` describes the figures."""
    sizes = {
        "lists": sized(4_096, scale, least=16),
        "items": sized(12_000, scale, least=64),
        "items_of_the_large_catalogue": sized(20_000, scale, least=128),
        "retriever_top": sized(300, scale, least=4),
        "tail": sized(500, scale, least=4),
        "rounds": sized(7, scale, least=2),
    }
    figures: dict[str, float] = {}
    for name, items in (("", "items"), ("large_", "items_of_the_large_catalogue")):
        folder = Path(tempfile.mkdtemp())
        try:
            found = compared(folder, {**sizes, "items": sizes[items]})
        finally:
            shutil.rmtree(folder)
        figures |= {f"{name}{figure}": value for figure, value in found.items()}
    return {"sizes": sizes, "figures": figures}


def compared(folder: Path, sizes: dict[str, int]) -> dict[str, float]:
    """Times both sides in turns, on the lists of one shard."""
    shard = folder / "train-00000.parquet"
    write_lists(shard, sizes["lists"], sizes["items"])
    prepared: Any = SimpleNamespace(
        shards=lambda split: [shard],
        catalogue_size=sizes["items"],
        observed_sizes=np.ones(sizes["lists"], int),
    )
    top, popularity = sizes["retriever_top"], np.zeros(sizes["items"])
    settings = ListsConfig(
        size="retrieved", retriever_top=top, popular=0, tail=sizes["tail"]
    )
    score = compiled(DotProduct(sizes["items"]))

    def items(lists: Lists) -> np.ndarray:
        """Random items in place of the baseline's highest ones."""
        drawn = np.random.default_rng(SEED).permutation(sizes["items"])[:top]
        return np.tile(drawn.astype("int32"), (len(lists), 1))

    propose = Retriever(items, popularity, settings, 1)
    writer = ScoreWriter(score, prepared, settings, SEED, propose)
    parts = planned_parts([shard], None, sizes["lists"], SEED)
    lists, collate = read_lists(shard), Collator(sizes["items"], with_teacher=True)
    found = propose(lists, list_hashes(lists, SEED), "")
    lists = replace(lists, candidates=found.items)
    batch = max(1, PAIRS_SCORED // found.items.shape[1])
    batches = [
        collate(lists.take(rows), np.random.default_rng(0))[0]
        for rows in np.split(np.arange(len(lists)), np.arange(batch, len(lists), batch))
    ]
    times: dict[str, list[float]] = {"bare": [], "scoring": []}
    for number in range(1 + sizes["rounds"]):
        store = folder / f"store-{number}"
        store.mkdir()
        start = time.process_time(), time.perf_counter()
        for x in batches:
            np.asarray(score(x))
        middle = time.process_time(), time.perf_counter()
        write_store(
            store,
            parts,
            lambda each: zip(each, map(writer, each), strict=True),
            lambda *_: None,
        )
        end = time.process_time(), time.perf_counter()
        if number:  # The first round is not timed.
            times["bare"].append(middle[0] - start[0])
            times["scoring"].append(end[0] - middle[0])
    ratio = np.array(times["scoring"]) / np.array(times["bare"])
    return {
        "bare_ms": float(np.median(times["bare"])) * 1e3,
        "scoring_ms": float(np.median(times["scoring"])) * 1e3,
        "ratio": float(np.median(ratio)),
        "ratio_lowest": float(ratio.min()),
        "ratio_highest": float(ratio.max()),
        "difference": difference(store, batches, score),
    }


def write_lists(path: Path, lists: int, items: int) -> None:
    """A shard of lists with random histories, which are the seen items."""
    rng = np.random.default_rng(0)
    history = rng.integers(0, items, (lists, HISTORY))
    positive = rng.integers(0, items, lists)
    columns = {
        "list_id": np.arange(lists),
        "query_id": [f"u{k}" for k in range(lists)],
        "query.history": pa.FixedSizeListArray.from_arrays(
            pa.array((history + FIRST).astype("int32").ravel()), HISTORY
        ),
        "candidates": pa.array(positive[:, None].astype("int32").tolist()),
        "relevance": pa.array(np.ones((lists, 1), "float32").tolist()),
        "seen": pa.array(
            [np.setdiff1d(a, [b]) for a, b in zip(history, positive, strict=True)]
        ),
        "list_weight": np.ones(lists, "float32"),
        "query_row": np.arange(lists),
    }
    pq.write_table(pa.table(columns), path)


def difference(store: Path, batches: list[dict[str, Any]], score: Any) -> float:
    """Largest difference between stored and bare scores, both rounded to float16.

    Infinite if the stored candidates are not those of the batches.
    """
    (path,) = store.glob("scores-*.parquet")
    lists = read_lists(path)
    assert lists.candidates is not None
    assert lists.teacher_scores is not None
    largest, row = 0.0, 0
    for x in batches:
        part = slice(row, row + len(x["mask"]))
        row += len(x["mask"])
        candidates, real = lists.candidates[part], x["mask"]
        if not np.array_equal(np.where(real, x["candidate_index"], -1), candidates):
            return float("inf")
        bare = np.asarray(score(x)).astype("float16").astype("float32")
        gaps = np.abs(lists.teacher_scores[part].astype("float32") - bare)
        largest = max(largest, float(gaps[real].max()))
    return largest


READING = {
    "bare_ms": "Milliseconds of processor time of the forward pass over all lists.",
    "scoring_ms": "Milliseconds of processor time of the score store, with its files.",
    "ratio": "Scoring divided by the forward pass: median of the rounds.",
    "ratio_lowest": "The smallest ratio of a round.",
    "ratio_highest": "The largest ratio of a round.",
    "difference": (
        "Largest difference between a stored score and the forward pass, both rounded "
        "to float16; the candidates of every list were compared as well."
    ),
}

BENCHMARK = Benchmark(
    name="scoring",
    title="Score store: scoring training lists compared with the bare forward pass",
    equal=(
        "The same teacher, a dot product of width 64, in the same compiled function, "
        "and the same batches of lists with all items as candidates. Processor time of "
        "all threads, in turns."
    ),
    other_side=(
        "Calls the teacher with batches that are ready in memory and reads the scores. "
        "Scoring also reads the lists from a file, makes the batches, checks the "
        "scores, selects the highest ones and a uniform tail, and writes them. A "
        "dot product is the cheapest teacher; with any other the ratio is nearer to 1."
    ),
    reading={
        **READING,
        **{f"large_{k}": f"The same, large catalogue. {v}" for k, v in READING.items()},
    },
    run=run,
)
