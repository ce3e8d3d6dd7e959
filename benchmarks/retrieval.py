"""Retrieval as it is served, against brute force, FAISS and the bare arithmetic.

The measuring is done by `benchmarks.retrieval_process`, in a process that has one core
and one thread.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import Benchmark, sized

HAS_FAISS = importlib.util.find_spec("faiss") is not None
"""FAISS is no dependency: the extra `bench` brings it, to stand beside the others."""


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Measure; see `BENCHMARK.reading` for the figures."""
    sizes = {
        "items": sized(1_000_000, scale, least=2_000),
        "dim": 64,
        "queries": 256,
        "k": 100,
        "candidates": sized(1_000, scale, least=50),
        "calls_timed": sized(200, scale, least=10),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.retrieval_process", json.dumps(sizes)],
        cwd=Path(__file__).parents[1],
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"sizes": sizes, "figures": figures}


_FAISS = {
    "faiss_ms": "Milliseconds a query of FAISS's `IndexIVFFlat`, called from Python.",
    "faiss_recall": "Its recall@k: the fewest probes that find no less than ours.",
    "ivf_over_faiss": "Our time as a multiple of FAISS's; the bar is 10.",
}

BENCHMARK = Benchmark(
    name="retrieval",
    title="Retrieval as it is served, against brute force, FAISS and bare arithmetic",
    equal=(
        "Item embeddings, queries, k, one core and one thread. The embeddings are a "
        "factorisation of choices: topics lie in groups in a space of 24 dimensions, "
        "users like a topic and some beside it, choose items of theirs by popularity, "
        "and one in ten at random; the vectors are a truncated SVD of the choices, "
        "items weighed by the inverse root of their popularity. Queries are the sums "
        "of what users chose. (Independent Gaussian vectors have no neighbours: no "
        "index finds their best sooner than by looking at all.)"
    ),
    other_side=(
        "keras-rs `BruteForceRetrieval` and TFRS `BruteForce` as their guides build "
        "them, each compiled with `tf.function`, given the embedding and asked for row "
        "numbers; TFRS runs in a process of its own, for it needs Keras 2. FAISS's "
        "`IndexIVFFlat` with inner product and 2√items lists. The bare graphs are "
        "SavedModels of one line. Ours is the whole served signature, through the "
        "session loader as a server runs it: features, a linear tower, exclusions, ids."
    ),
    reading={
        "matmul_ms": "Milliseconds of a SavedModel that multiplies; k scores come out.",
        "exact_ms": "Milliseconds of `recommend` with the exact index.",
        "exact_over_matmul": "One as a multiple of the other; the bar is 1.15.",
        "keras_rs_ms": "Milliseconds a query of keras-rs `BruteForceRetrieval`.",
        "tfrs_ms": "Milliseconds a query of TFRS `BruteForce`.",
        "ivf_ms": "Milliseconds of `recommend` with the IVF index.",
        "ivf_recall": "Its recall@k, on queries that did not choose the probes.",
        "ivf_share_read": "The share of the lists that a search reads.",
        "ivf_build_s": "Seconds to cluster all items, choose the probes, and lay out.",
        "ivf_speedup_over_keras_rs": "Times faster than keras-rs; the bar is 15.",
        "ivf_speedup_over_tfrs": "Times faster than TFRS; the bar is 15.",
        "gather_ms": "Milliseconds of a SavedModel that gathers and multiplies.",
        "rank_ms": "Milliseconds of `rank`: ids are looked up, and the query encoded.",
        "rank_over_gather": "One as a multiple of the other.",
        "rank_over_gather_by_id": (
            "The same, where the bare graph is given ids as `rank` is, and looks them "
            "up in a table; the bar is 2."
        ),
        "bfloat16_ms": "Milliseconds of `recommend`, exact, stored as bfloat16.",
        "bfloat16_recall": "What it finds of the true top k.",
        "difference": (
            "Largest difference between served scores, exact and of `rank`, and those "
            "of NumPy in float64, in standard deviations of all scores."
        ),
        **(_FAISS if HAS_FAISS else {}),
    },
    run=run,
)
