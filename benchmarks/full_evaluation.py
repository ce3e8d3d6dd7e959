"""Evaluation over the whole catalogue, compared with the bare product and top K."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import Benchmark, sized
from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.evaluation.rows import measure_ranks
from recdistill.models.candidate_table import CandidateTable
from recdistill.pipeline.ranking.catalogue_ranking import (
    SCORES_AT_ONCE,
    in_blocks,
)
from recdistill.pipeline.ranking.two_tower_catalogue import TwoTowerCatalogue
from recdistill.retrieval.exact import best

WIDTH, SEEN, TOP = 64, 20, 100
METRICS = ("ndcg@10", "recall@10", "mrr", "map@10")


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Runs the benchmark; `BENCHMARK.reading` describes the figures."""
    sizes = {
        "queries": sized(10_000, scale, least=32),
        "items": sized(100_000, scale, least=256),
        "rounds": sized(3, scale, least=2),
    }
    rng = np.random.default_rng(0)
    queries, items = sizes["queries"], sizes["items"]
    vectors = rng.standard_normal((items, WIDTH), "float32")
    lists = random_lists(rng, queries, items)
    model: Any = SimpleNamespace(
        candidate_table=CandidateTable({"vector": vectors}),
        encode_candidates=lambda features: features["vector"],
        encode_query=lambda query: query["vector"],
    )
    catalogue = TwoTowerCatalogue(model)
    score = catalogue.scores
    times: dict[str, list[float]] = {"product": [], "bare": [], "evaluation": []}
    top = np.zeros(0)
    for number in range(1 + sizes["rounds"]):
        clock = [time.process_time()]
        for block in in_blocks(lists, SCORES_AT_ONCE // items):
            score(block)
        clock.append(time.process_time())
        top = np.concatenate(
            [
                best(tf.constant(score(block)), min(TOP, items))[1].numpy()
                for block in in_blocks(lists, SCORES_AT_ONCE // items)
            ]
        )
        clock.append(time.process_time())
        ranking = catalogue.rank(lists, min(TOP, items))
        measure_ranks(ranking.ranks, METRICS)
        clock.append(time.process_time())
        if number:  # The first round is not timed.
            for name, seconds in zip(times, np.diff(clock), strict=True):
                times[name].append(float(seconds))
    ratio = np.array(times["evaluation"]) / np.array(times["bare"])
    figures = {f"{name}_s": float(np.median(each)) for name, each in times.items()}
    return {
        "sizes": sizes,
        "figures": {
            **figures,
            "ratio": float(np.median(ratio)),
            "ratio_lowest": float(ratio.min()),
            "ratio_highest": float(ratio.max()),
            "difference": different(top, ranking.top, lists),
        },
    }


def random_lists(rng: np.random.Generator, queries: int, items: int) -> Lists:
    """Lists with a random query vector, one positive and random seen items."""
    positive = rng.integers(0, items, queries)
    seen = rng.integers(0, items, (queries, SEEN))
    return Lists(
        list_id=np.arange(queries),
        query_id=np.arange(queries).astype(str),
        query={"vector": rng.standard_normal((queries, WIDTH), "float32")},
        positives=Ragged(positive.astype("int32"), np.arange(queries + 1)),
        relevance=Ragged(np.ones(queries, "float32"), np.arange(queries + 1)),
        seen=Ragged(seen.ravel().astype("int32"), np.arange(queries + 1) * SEEN),
        weight=np.ones(queries, "float32"),
        query_row=np.arange(queries),
    )


def different(bare: np.ndarray, ranked: np.ndarray, lists: Lists) -> float:
    """Lists whose first item is not that of the bare ranking without seen items."""
    left = ~lists.seen.holds(bare)
    first = np.take_along_axis(bare, left.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float((first != ranked[:, 0])[left.any(axis=1)].sum())


BENCHMARK = Benchmark(
    name="full_evaluation",
    title="Full evaluation of a two-tower model compared with the bare product",
    equal=(
        "The same random vectors of width 64 and the same queries over the whole "
        "catalogue, in blocks. Processor time of all threads, in turns."
    ),
    other_side=(
        "Computes the products and their exact top 100 with TensorFlow "
        "(`recdistill.retrieval.exact.best`). Evaluation also leaves out 20 seen items "
        "a query, checks that the scores are numbers, counts the rank of the positive "
        "and computes four metrics."
    ),
    reading={
        "product_s": "Seconds of the products alone.",
        "bare_s": "Seconds of the products with their top 100.",
        "evaluation_s": "Seconds of the evaluation.",
        "ratio": "Evaluation divided by the products with their top 100, median.",
        "ratio_lowest": "The lowest ratio of a round.",
        "ratio_highest": "The highest ratio of a round.",
        "difference": "Lists whose first item differs between the sides; 0 if equal.",
    },
    run=run,
)
