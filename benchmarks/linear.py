"""EASE without one training row: the closed form, compared with refitting."""

from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.sparse
import tensorflow as tf

from benchmarks import Benchmark, sized
from recdistill.evaluation.latency.stopwatch import compare
from recdistill.features.encoders import FIRST
from recdistill.models.linear import Affinity

DECAY, FLOOR, L2 = 0.9, 0.05, 20.0


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Runs the benchmark; `BENCHMARK.reading` describes the figures."""
    sizes = {
        "queries": sized(300, scale, least=30),
        "items": sized(600, scale, least=40),
        "rounds_timed": sized(5, scale, least=1),
    }
    training_rows, histories = make_training_rows(sizes)
    closed_form = make_closed_form(training_rows, histories)

    def refit() -> np.ndarray:
        return refitted_scores(training_rows, histories)

    timed = compare(
        {"refit": refit, "closed_form": closed_form},
        warmup=1,
        repeats=sizes["rounds_timed"],
        budget_s=30.0,
    )
    return {
        "sizes": sizes,
        "figures": {
            "refit_ms": timed.latencies["refit"].p50,
            "closed_form_ms": timed.latencies["closed_form"].p50,
            "speedup": timed.speedup["closed_form"],
            "difference": float(np.abs(refit() - closed_form()).max()),
        },
    }


def make_training_rows(sizes: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """A random 0/1 matrix with popular items, and its rows as histories.

    Returns:
        The matrix `(queries, items)` float64, and the histories `(queries, longest)` as
        vocabulary indices in random order, padded with 0.
    """
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.01, 0.1, sizes["items"])
    training_rows = (rng.random((sizes["queries"], sizes["items"])) < chance) * 1.0
    training_rows[
        np.arange(len(training_rows)), np.arange(len(training_rows)) % sizes["items"]
    ] = 1.0
    rows = [rng.permutation(np.flatnonzero(row)) + FIRST for row in training_rows]
    histories = np.zeros((len(rows), max(map(len, rows))), "int32")
    for history, row in zip(histories, rows, strict=True):
        history[: len(row)] = row
    return training_rows, histories


def make_closed_form(
    training_rows: np.ndarray, histories: np.ndarray
) -> Callable[[], np.ndarray]:
    """Fits once, then scores all queries, each as if it had not been trained on."""
    items = training_rows.shape[1]
    layer = Affinity(items, DECAY, FLOOR)
    layer.build()
    candidates = np.arange(FIRST, FIRST + items, dtype="int32")
    score = tf.function(lambda rows: layer(rows, candidates, training_row=rows))
    matrix = scipy.sparse.csr_array(training_rows)

    def scores() -> np.ndarray:
        layer.set_weights(layer.fitted(matrix, L2))
        return score(tf.constant(histories)).numpy()

    return scores


def refitted_scores(training_rows: np.ndarray, histories: np.ndarray) -> np.ndarray:
    """Scores each query with a model refitted on all other rows, in float64.

    The matrices are symmetric, so only lower triangles are computed and read.
    """
    gram = np.asfortranarray(
        training_rows.T @ training_rows + L2 * np.eye(training_rows.shape[1])
    )
    scores = np.zeros_like(training_rows)
    for k, (own, history) in enumerate(zip(training_rows, histories, strict=True)):
        without = scipy.linalg.blas.dsyr(-1.0, own, a=gram, lower=True)
        factor, _ = scipy.linalg.lapack.dpotrf(without, lower=True, overwrite_a=True)
        inverse, _ = scipy.linalg.lapack.dpotri(factor, lower=True, overwrite_c=True)
        row = np.zeros(len(own))
        indices = history[history >= FIRST] - FIRST
        row[indices] = FLOOR + (1 - FLOOR) * DECAY ** np.arange(len(indices))
        product = scipy.linalg.blas.dsymv(1.0, inverse, row, lower=True)
        raw = row - product / np.diag(inverse)
        free = raw[row == 0.0]
        scores[k] = (raw - free.mean()) / free.std()
    return scores


BENCHMARK = Benchmark(
    name="linear",
    title="EASE without one training row: closed form compared with refitting",
    equal=(
        "The same random matrix, histories, penalty and recency; standardised scores "
        "of all items for each query, by a model that was not trained on the query. "
        "Both start from the matrix: the time of the closed form includes its one fit."
    ),
    other_side=(
        "The Gram matrix is computed once and the query's own row subtracted from it, "
        "a rank-one update; one triangle is inverted in place by Cholesky factors in "
        "float64. BLAS has one thread, TensorFlow all cores: at "
        "this size two threads save about a third of an inversion on idle cores and "
        "stall on busy ones. It is written in NumPy and SciPy, independently of the "
        "library, so it also checks the result. Refitting needs one inversion for each "
        "query, so the speed-up grows with the number of items."
    ),
    reading={
        "refit_ms": "Milliseconds for all queries, with one fit for each.",
        "closed_form_ms": "Milliseconds for all queries by `Affinity`, with its fit.",
        "speedup": "Speed-up of the closed form over refitting.",
        "difference": (
            "Largest difference between the scores of both, in standard deviations of "
            "a query's scores; the closed form computes in float32."
        ),
    },
    run=run,
)
