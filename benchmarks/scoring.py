"""Scoring of training lists, compared with the teacher's bare forward pass."""

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

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
from recdistill.pipeline.candidates.candidate_selection import mixed
from recdistill.pipeline.candidates.retriever import Retriever
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.models.scorers import compiled
from recdistill.pipeline.scores.content_hashes import ContentHashes
from recdistill.pipeline.scores.score_parts import planned_parts, write_store
from recdistill.pipeline.scores.score_writing import PAIRS_SCORED, ScoreWriter

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
        if candidates.shape.rank == 2:  # The whole catalogue.
            return tf.matmul(query, candidates, transpose_b=True)
        return tf.linalg.matvec(candidates, query)


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Runs the benchmark; `BENCHMARK.reading` describes the figures."""
    sizes = {
        "lists": sized(4_096, scale, least=16),
        "catalogue_lists": sized(1_024, scale, least=16),
        "items": sized(20_000, scale, least=128),
        "retriever_top": sized(300, scale, least=4),
        "tail": sized(500, scale, least=4),
        "rounds": sized(7, scale, least=2),
    }
    figures: dict[str, float] = {}
    for size, lists in (("retrieved", "lists"), ("catalogue", "catalogue_lists")):
        folder = Path(tempfile.mkdtemp())
        try:
            found = compared(folder, {**sizes, "lists": sizes[lists]}, size)
        finally:
            shutil.rmtree(folder)
        figures |= {f"{size}_{figure}": value for figure, value in found.items()}
    return {"sizes": sizes, "figures": figures}


def compared(
    folder: Path, sizes: dict[str, int], size: Literal["retrieved", "catalogue"]
) -> dict[str, float]:
    """Times both sides in turns, on the lists of one shard."""
    shard = folder / "lists" / "train-00000.parquet"
    shard.parent.mkdir()
    write_lists(shard, sizes["lists"], sizes["items"])
    prepared: Any = SimpleNamespace(
        folder=folder,
        shards=lambda split: [shard],
        catalogue_size=sizes["items"],
        observed_sizes=np.ones(sizes["lists"], int),
    )
    top, popularity = sizes["retriever_top"], np.zeros(sizes["items"])
    settings = ListsConfig(size=size, retriever_top=top, popular=0, tail=sizes["tail"])
    score = compiled(DotProduct(sizes["items"]))

    def items(lists: Lists) -> np.ndarray:
        """Random items in place of the baseline's highest ones."""
        drawn = np.random.default_rng(SEED).permutation(sizes["items"])[:top]
        return np.tile(drawn.astype("int32"), (len(lists), 1))

    ids = mixed(np.arange(sizes["items"], dtype="uint64"))
    hashes = ContentHashes(ids, ids)
    propose = Retriever(items, popularity, settings, 1, ids)
    lists, width = read_lists(shard), sizes["items"]
    if size == "retrieved":
        found = propose(
            lists, hashes.draw_keys(lists.list_key, lists.positives, SEED), ""
        )
        lists, width = replace(lists, candidates=found.items), found.items.shape[1]
    proposer = propose if size == "retrieved" else None
    writer = ScoreWriter(score, prepared, settings, SEED, hashes, proposer)
    parts = planned_parts([shard], None, sizes["lists"], hashes, SEED)
    collate = Collator(sizes["items"], with_teacher=True)
    batch = max(1, PAIRS_SCORED // width)
    batches = [
        collate(lists.take(rows), np.random.default_rng(0))[0]
        for rows in np.split(np.arange(len(lists)), np.arange(batch, len(lists), batch))
    ]
    times: dict[str, list[float]] = {"bare": [], "scoring": []}
    for number in range(1 + sizes["rounds"]):
        store = folder / f"store-{number}"
        store.mkdir()
        start = time.process_time()
        for x in batches:
            np.asarray(score(x))
        middle = time.process_time()
        write_store(
            store,
            parts,
            lambda each: zip(each, map(writer, each), strict=True),
            lambda *_: None,
        )
        end = time.process_time()
        if number:  # The first round is not timed.
            times["bare"].append(middle - start)
            times["scoring"].append(end - middle)
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
    stored = lists.teacher_scores
    assert stored is not None
    largest, row = 0.0, 0
    for x in batches:
        part = slice(row, row + len(x["mask"]))
        row += len(x["mask"])
        real = x["mask"]
        if lists.candidates is not None:
            expected = np.where(real, x["candidate_index"], -1)
            if not np.array_equal(expected, lists.candidates[part]):
                return float("inf")
        bare = np.asarray(score(x)).astype("float16").astype("float32")
        gaps = np.abs(stored[part].astype("float32") - bare)
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
        "and the same batches of lists: with candidates of their own, or with the "
        "whole catalogue. Processor time of all threads, in turns."
    ),
    other_side=(
        "Calls the teacher with batches that are ready in memory and reads the scores. "
        "Scoring also reads the lists from a file, proposes candidates (random items "
        "in place of the baseline's highest ones, then a uniform tail), makes the "
        "batches, checks the scores, counts what rounding makes equal, and writes the "
        "files with their checksums. A dot product is the cheapest teacher; with any "
        "other the ratio is nearer to 1."
    ),
    reading={
        **{f"retrieved_{k}": f"Retrieved lists. {v}" for k, v in READING.items()},
        **{f"catalogue_{k}": f"Whole catalogue. {v}" for k, v in READING.items()},
    },
    run=run,
)
