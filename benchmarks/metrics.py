"""Ranking metrics over a whole catalogue, compared with ir_measures."""

from typing import Any

import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG

from benchmarks import Benchmark, sized
from recdistill.evaluation.latency.stopwatch import compare
from recdistill.evaluation.rows import measure

NAMES = {"ndcg@10": nDCG @ 10, "recall@10": R @ 10, "mrr": RR}
HIGHEST_GRADE = 3

Run = dict[str, dict[str, float]]


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Run the benchmark; `BENCHMARK.reading` explains the figures."""
    sizes = {
        "lists": sized(100, scale),
        "candidates": sized(5_000, scale, least=20),
        "relevant": sized(10, scale),
        "batches_timed": sized(20, scale, least=1),
    }
    scores, relevance = make_lists(sizes)
    mask = np.ones(scores.shape, bool)
    candidates = [str(k) for k in range(sizes["candidates"])]
    evaluator = ir_measures.pytrec_eval.evaluator(
        list(NAMES.values()), as_qrels(relevance, candidates)
    )
    ready = as_run(scores, candidates)

    def theirs(run: Run) -> dict[str, np.ndarray]:
        return by_list(evaluator.iter_calc(run), sizes["lists"])

    def ours() -> dict[str, np.ndarray]:
        return measure(scores, relevance, mask, list(NAMES))

    timed = compare(
        {
            "ir_measures_from_arrays": lambda: theirs(as_run(scores, candidates)),
            "ir_measures": lambda: theirs(ready),
            "recdistill": ours,
        },
        warmup=1,
        repeats=sizes["batches_timed"],
        budget_s=30.0,
    )
    mine, other = ours(), theirs(ready)
    per_second = {
        f"{name}_lists_per_second": sizes["lists"] / each.p50 * 1e3
        for name, each in timed.latencies.items()
    }
    from_arrays = timed.speedup["recdistill"]
    return {
        "sizes": sizes,
        "figures": {
            **per_second,
            "speedup_from_arrays": from_arrays,
            "speedup": from_arrays / timed.speedup["ir_measures"],
            **{f"mean_{name}": float(mine[name].mean()) for name in NAMES},
            **{
                f"difference_{name}": float(np.abs(mine[name] - other[name]).max())
                for name in NAMES
            },
        },
    }


def make_lists(sizes: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Graded relevance of a few random candidates, and noisy scores for them.

    The scores are ranks, so there are no ties, and they are exact in float32.
    """
    rng = np.random.default_rng(0)
    shape = (sizes["lists"], sizes["candidates"])
    relevance = np.zeros(shape, "float32")
    for row in relevance:
        relevant = rng.choice(shape[1], sizes["relevant"], replace=False)
        row[relevant] = rng.integers(1, HIGHEST_GRADE + 1, len(relevant))
    noisy = relevance + rng.normal(size=shape)
    return noisy.argsort(axis=1).argsort(axis=1).astype("float32"), relevance


def as_run(scores: np.ndarray, candidates: list[str]) -> Run:
    """Scores in the form of pytrec_eval, a dictionary of dictionaries."""
    return {
        str(k): dict(zip(candidates, row, strict=True))
        for k, row in enumerate(scores.tolist())
    }


def as_qrels(relevance: np.ndarray, candidates: list[str]) -> dict[str, dict[str, int]]:
    """The relevant candidates in the form of pytrec_eval, without the others."""
    return {
        str(k): {candidates[c]: int(row[c]) for c in np.flatnonzero(row)}
        for k, row in enumerate(relevance)
    }


def by_list(found: Any, lists: int) -> dict[str, np.ndarray]:
    """Values `(lists,)` by metric."""
    name_of = {str(other): name for name, other in NAMES.items()}
    values = {name: np.full(lists, np.nan) for name in NAMES}
    for one in found:
        values[name_of[str(one.measure)]][int(one.query_id)] = one.value
    return values


BENCHMARK = Benchmark(
    name="metrics",
    title="Metrics over whole catalogues, compared with ir_measures",
    equal=(
        "The same scores (relevance plus noise) without ties, so that both sides "
        "rank identically; the same graded relevance with linear gain; ndcg@10, "
        "recall@10 and mrr, one value for each list. MRR needs the whole list, so the "
        "list cannot be truncated first."
    ),
    other_side=(
        "Its compiled provider, pytrec_eval, called directly; one evaluator created "
        "beforehand and used for all runs; all three measures in one pass. A model's "
        "scores are an array, and pytrec_eval takes dictionaries, so the conversion is "
        "timed in `ir_measures_from_arrays` and not timed in `ir_measures`."
    ),
    reading={
        "ir_measures_from_arrays_lists_per_second": (
            "Lists evaluated per second by ir_measures, from an array of scores."
        ),
        "ir_measures_lists_per_second": ("The same from existing dictionaries."),
        "recdistill_lists_per_second": (
            "Lists evaluated per second by `evaluation.measure`, from an array of "
            "scores."
        ),
        "speedup_from_arrays": (
            "Speedup over ir_measures, both starting from the array."
        ),
        "speedup": "Speedup over ir_measures starting from dictionaries.",
        **{
            f"mean_{name}": f"Mean {name} by recdistill; the lists are not trivial."
            for name in NAMES
        },
        **{
            f"difference_{name}": f"Largest difference in {name} over the lists."
            for name in NAMES
        },
    },
    run=run,
)
