"""Served retrieval, compared with brute force, FAISS and plain TensorFlow graphs.

`benchmarks.retrieval_process` measures, in a process with one core and one thread.
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
"""FAISS is an optional dependency, installed by the extra `bench`."""


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Runs the benchmark; `BENCHMARK.reading` describes the figures."""
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
    "faiss_ms": "Milliseconds per query of FAISS's `IndexIVFFlat`, called from Python.",
    "faiss_recall": "Its recall@k, with the fewest probes that reach our recall.",
    "ivf_over_faiss": "Our time divided by that of FAISS; target: at most 10.",
}

BENCHMARK = Benchmark(
    name="retrieval",
    title="Served retrieval, compared with brute force, FAISS and plain graphs",
    equal=(
        "Item embeddings, queries, k, one core and one thread. The embeddings are a "
        "factorisation of simulated choices. Topics form groups in a space of 24 "
        "dimensions. A user likes one topic and some near it, and chooses items of "
        "these topics by popularity, and one item in ten at random. The vectors are a "
        "truncated SVD of the choices, with items weighted by the inverse root of "
        "their popularity. A query is the sum of a user's chosen items. (Independent "
        "Gaussian vectors have no neighbours: no index can search them faster than "
        "brute force.)"
    ),
    other_side=(
        "keras-rs `BruteForceRetrieval` and TFRS `BruteForce`, built as in their "
        "guides and compiled with `tf.function`: the input is the embedding, the "
        "output row numbers. TFRS needs Keras 2, so it runs in a separate process. "
        "FAISS's `IndexIVFFlat` with inner product and 2√items lists. The plain graphs "
        "are SavedModels of one line. Ours is the complete served signature, run "
        "through the session loader as in a server: features, a linear tower, "
        "exclusions, ids."
    ),
    reading={
        "matmul_ms": "Milliseconds of a SavedModel with one matrix product.",
        "exact_ms": "Milliseconds of `recommend` with the exact index.",
        "exact_over_matmul": "`exact_ms` divided by `matmul_ms`; target: at most 1.15.",
        "keras_rs_ms": "Milliseconds per query of keras-rs `BruteForceRetrieval`.",
        "tfrs_ms": "Milliseconds per query of TFRS `BruteForce`.",
        "ivf_ms": "Milliseconds of `recommend` with the IVF index.",
        "ivf_recall": "Its recall@k, on queries that did not choose the probes.",
        "ivf_share_read": "Share of the lists that a search reads.",
        "ivf_build_s": "Seconds to cluster all items and choose the probes.",
        "ivf_speedup_over_keras_rs": "Speed-up over keras-rs; target: at least 15.",
        "ivf_speedup_over_tfrs": "Speed-up over TFRS; target: at least 15.",
        "gather_ms": "Milliseconds of a SavedModel with a gather and dot products.",
        "rank_ms": "Milliseconds of `rank`, which looks up ids and encodes the query.",
        "rank_over_gather": "`rank_ms` divided by `gather_ms`.",
        "rank_over_gather_by_id": (
            "The same for a plain graph that looks up ids in a table, as `rank` does; "
            "target: at most 2."
        ),
        "bfloat16_ms": "Milliseconds of `recommend` with the exact index in bfloat16.",
        "bfloat16_recall": "Its recall@k.",
        "difference": (
            "Largest difference between served scores (exact `recommend` and `rank`) "
            "and NumPy's float64 scores, in standard deviations of all scores."
        ),
        **_FAISS,
    },
    run=run,
)
