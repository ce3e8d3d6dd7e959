"""Measurements of `benchmarks.retrieval`, on one core.

    python -m benchmarks.retrieval_process SIZES

SIZES is JSON. The last line of the output has the figures, as JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np
import scipy.sparse
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from benchmarks import tfrs_brute_force
from benchmarks.retrieval import HAS_FAISS
from recdistill import TwoTowerStudent
from recdistill.evaluation.latency.stopwatch import compare
from recdistill.export.signatures import Servable
from recdistill.export.student_export import StudentTowers
from recdistill.features.encoders import build_encoder
from recdistill.features.schema import Schema
from recdistill.features.specs import IdSpec, VectorSpec
from recdistill.retrieval.catalogue import Catalogue
from recdistill.retrieval.indexing import BuiltIndex, IndexSettings, build_index

Inputs = Mapping[str, np.ndarray]
Sizes = Mapping[str, int]

TARGET = 0.98

ANY = np.full((1, 1), "", object)


def make_embeddings(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of items and queries, from a factorisation of simulated choices."""
    items, dim, rng = sizes["items"], sizes["dim"], np.random.default_rng(3)
    users, each, topics = items // 3 + sizes["queries"], 40, max(20, round(items**0.5))
    # Topics are points in a space of tastes, in groups; a user likes neighbouring
    # topics.
    groups = rng.normal(size=(max(4, topics // 20), 24))
    places = groups[rng.integers(0, len(groups), topics)]
    places = places + 0.5 * rng.normal(size=(topics, 24))
    squares = (places**2).sum(axis=1)
    distance = squares[:, None] + squares[None] - 2 * places @ places.T
    nearest = np.argsort(distance, axis=1)[:, :10]
    weight = np.arange(1, topics + 1) ** -0.7
    weight /= weight.sum()
    topic = np.sort(rng.choice(topics, items, p=weight))
    starts = np.searchsorted(topic, np.arange(topics + 1))
    sizes_of = np.maximum(np.diff(starts), 1)
    home = rng.choice(topics, users, p=weight)
    steps = np.minimum(rng.geometric(0.3, (users, 4)) - 1, 9)
    tastes = nearest[home[:, None], steps]
    tastes[:, 0] = home
    taste = np.take_along_axis(tastes, rng.integers(0, 4, (users, each)), axis=1)
    # Within a topic, popularity is about one over the rank.
    place = np.expm1(rng.random((users, each)) * np.log1p(sizes_of[taste])).astype(int)
    chosen = starts[taste] + np.minimum(place, sizes_of[taste] - 1)
    chosen = np.minimum(chosen, items - 1)
    stray = rng.random((users, each)) < 0.1
    chosen[stray] = rng.integers(0, items, int(stray.sum()))
    matrix = scipy.sparse.csr_array(
        (
            np.ones(chosen.size, "float32"),
            chosen.ravel(),
            np.arange(0, chosen.size + 1, each),
        ),
        shape=(users, items),
    )
    seen = np.maximum(np.bincount(chosen.ravel(), minlength=items), 1)
    discounted = matrix * (seen**-0.5).astype("float32")[None, :]
    basis = rng.normal(size=(users, dim)).astype("float32")
    for _ in range(3):  # Iterations of a randomised SVD; the spectrum decays.
        basis, _ = np.linalg.qr(discounted @ (discounted.T @ basis))
    left, values, _ = np.linalg.svd(discounted.T @ basis, full_matrices=False)
    vectors = (left * np.sqrt(values)).astype("float32")
    vectors /= np.linalg.norm(vectors, axis=1).mean()
    queries = matrix[-sizes["queries"] :] @ vectors
    return vectors, (queries / np.sqrt(each)).astype("float32")


def save_servable(built: BuiltIndex, ids: list[str], k: int, folder: Path) -> None:
    """Saves an export of a student whose query tower returns the given vector."""
    dim = built.index.dim
    item = build_encoder("item_id", IdSpec(), {"vocabulary": []})
    query = build_encoder("vector", VectorSpec(size=dim), {})
    schema = Schema([query], [item], {}, "item_id")
    student = TwoTowerStudent(
        schema, {}, dim=dim, embedding_dim=dim, hidden=(), popularity_bias=False
    )
    student.encode_query({"vector": tf.zeros([1, dim])})
    student.encode_candidates({"item_id": tf.zeros([1], tf.int32)})
    student.query_tower.linear.set_weights([np.eye(dim), np.zeros(dim)])
    towers = StudentTowers(student, schema)
    Servable(towers, Catalogue(ids, built.index), k).save(folder)


def save_plain_graphs(
    embeddings: np.ndarray, ids: list[str], k: int, folder: Path
) -> None:
    """Saves plain graphs: a matrix product, and a gather with dot products."""
    module = tf.Module()
    module.items = tf.Variable(embeddings, trainable=False)
    rows = tf.lookup.KeyValueTensorInitializer(
        tf.constant(ids), tf.range(len(ids), dtype=tf.int32)
    )
    module.table = tf.lookup.StaticHashTable(rows, -1)
    vector = tf.TensorSpec([None, embeddings.shape[1]], name="vector")

    @tf.function(input_signature=[vector])
    def matmul(vector: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scores": tf.matmul(vector, module.items, transpose_b=True)[:, :k]}

    def dot(vector: tf.Tensor, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scores": tf.linalg.matvec(tf.gather(module.items, rows), vector)}

    @tf.function(
        input_signature=[vector, tf.TensorSpec([None, None], tf.int32, "rows")]
    )
    def gather(vector: tf.Tensor, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return dot(vector, rows)

    @tf.function(
        input_signature=[vector, tf.TensorSpec([None, None], tf.string, "ids")]
    )
    def by_id(vector: tf.Tensor, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        return dot(vector, module.table.lookup(ids))

    signatures = {"matmul": matmul, "gather": gather, "by_id": by_id}
    tf.saved_model.save(module, str(folder), signatures=signatures)


class Served:
    """A SavedModel in the session loader with one thread, as in a server."""

    def __init__(self, folder: Path) -> None:
        settings = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=1,
            inter_op_parallelism_threads=1,
            use_per_session_threads=True,
        )
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=settings)
        with self._session.graph.as_default():
            self._graph = tf.compat.v1.saved_model.load(
                self._session, ["serve"], str(folder)
            )

    def signature(self, name: str, output: str) -> Callable[[Inputs], np.ndarray]:
        """Returns a function that calls a signature and returns one output."""
        contract = self._graph.signature_def[name]
        options = config_pb2.CallableOptions()
        options.feed.extend(info.name for info in contract.inputs.values())
        options.fetch.append(contract.outputs[output].name)
        call = self._session._make_callable_from_options(options)
        return lambda inputs: call(*(inputs[each] for each in contract.inputs))[0]


def in_turn(call: Callable[[int], Any], count: int) -> Callable[[], Any]:
    """Returns a function that calls `call` with the next query each time."""
    state = [0]

    def call_next() -> Any:
        state[0] = (state[0] + 1) % count
        return call(state[0])

    return call_next


def keras_rs_search(embeddings: np.ndarray, queries: np.ndarray, k: int) -> Any:
    """Search with the compiled keras-rs layer."""
    from keras_rs.layers import BruteForceRetrieval

    layer = BruteForceRetrieval(embeddings, k=k, return_scores=False)
    compiled = tf.function(lambda query: layer(query))
    return lambda row: compiled(tf.constant(queries[[row]])).numpy()


def faiss_search(
    embeddings: np.ndarray, queries: np.ndarray, truth: np.ndarray, recall: float
) -> tuple[Any, float]:
    """Search with FAISS with the fewest probes that reach `recall`, and its recall."""
    import faiss

    faiss.omp_set_num_threads(1)
    dim, lists = embeddings.shape[1], round(2 * len(embeddings) ** 0.5)
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter, index.cp.max_points_per_centroid = 10, 64
    index.train(embeddings)
    index.add(embeddings)
    found = 0.0
    for probes in range(1, lists + 1):
        index.nprobe = probes
        found = overlap(index.search(queries, truth.shape[1])[1], truth)
        if found >= recall:
            break
    return (lambda row: index.search(queries[[row]], truth.shape[1])[1]), found


def overlap(rows: np.ndarray, truth: np.ndarray) -> float:
    """Recall@k."""
    shared = [len(np.intersect1d(*pair)) for pair in zip(rows, truth, strict=True)]
    return float(np.mean(shared) / truth.shape[1])


def true_top(embeddings: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Rows of the true top k `(queries, k)`, computed one query at a time."""
    return np.stack([np.argpartition(-(embeddings @ q), k - 1)[:k] for q in queries])


def measure(sizes: Sizes, folder: Path) -> dict[str, float]:
    """Measures all figures."""
    k, repeats = sizes["k"], sizes["calls_timed"]
    embeddings, queries = make_embeddings(sizes)
    ids = [f"item-{row:07d}" for row in range(len(embeddings))]
    truth = true_top(embeddings, queries, k)
    figures: dict[str, float] = {}

    settings = {
        "exact": IndexSettings(),
        "bfloat16": IndexSettings(storage="bfloat16"),
        "ivf": IndexSettings("ivf", target_recall=TARGET),
    }
    for name, wanted in settings.items():
        start = time.perf_counter()
        built = build_index(embeddings, queries, k, wanted)
        if name == "ivf":
            figures["ivf_build_s"] = time.perf_counter() - start
            figures["ivf_recall"] = built.facts["recall"]
            figures["ivf_share_read"] = built.facts["share_read"]
        save_servable(built, ids, k, folder / name)
        del built
    save_plain_graphs(embeddings, ids, k, folder / "bare")
    np.save(folder / "items.npy", embeddings)
    np.save(folder / "queries.npy", queries)

    asked = {
        "k": np.array([k], "int32"),
        "exclude_ids": ANY,
        "allow_ids": ANY,
    }
    served = {name: Served(folder / name) for name in (*settings, "bare")}

    def recommend(name: str, output: str = "item_ids") -> Callable[[int], Any]:
        call = served[name].signature("recommend", output)
        return lambda row: call({**asked, "vector": queries[[row]]})

    count = len(queries)
    figures |= _exact(served, recommend, queries, repeats)
    search = recommend("bfloat16")
    rounded = np.concatenate([search(row) for row in range(count)])
    names = np.array([name.encode() for name in ids], object)
    figures["bfloat16_recall"] = overlap(rounded, names[truth])
    figures |= _against_peers(
        recommend("ivf"), embeddings, queries, truth, sizes, folder
    )
    figures |= _rank(served, queries, ids, sizes)
    figures["difference"] = _difference(served, recommend, embeddings, queries, ids, k)
    return figures


def _exact(
    served: Mapping[str, Served],
    recommend: Callable[..., Callable[[int], Any]],
    queries: np.ndarray,
    repeats: int,
) -> dict[str, float]:
    matmul = served["bare"].signature("matmul", "scores")
    calls = {
        "matmul": lambda row: matmul({"vector": queries[[row]]}),
        "exact": recommend("exact"),
        "bfloat16": recommend("bfloat16"),
    }
    timed = compare(
        {name: in_turn(call, len(queries)) for name, call in calls.items()},
        warmup=3,
        repeats=repeats,
        budget_s=60.0,
    )
    return {
        "matmul_ms": timed.latencies["matmul"].p50,
        "exact_ms": timed.latencies["exact"].p50,
        "exact_over_matmul": 1 / timed.speedup["exact"],
        "bfloat16_ms": timed.latencies["bfloat16"].p50,
    }


def _against_peers(
    ivf: Callable[[int], Any],
    embeddings: np.ndarray,
    queries: np.ndarray,
    truth: np.ndarray,
    sizes: Sizes,
    folder: Path,
) -> dict[str, float]:
    files = [str(folder / "items.npy"), str(folder / "queries.npy")]
    script = str(Path(tfrs_brute_force.__file__))
    figures: dict[str, float] = {}
    with subprocess.Popen(
        [sys.executable, script, *files, str(sizes["k"])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as tfrs:

        def ask(row: int) -> str:
            assert tfrs.stdin is not None and tfrs.stdout is not None
            tfrs.stdin.write(f"{row}\n")
            tfrs.stdin.flush()
            return tfrs.stdout.readline()

        first = np.array([ask(0).split()], int)
        assert overlap(first, truth[:1]) > 0.98, "the results of TFRS differ"
        calls: dict[str, Callable[[int], Any]] = {
            "keras_rs": keras_rs_search(embeddings, queries, sizes["k"]),
            "tfrs": ask,
            "ivf": ivf,
        }
        if HAS_FAISS:
            found = np.char.lstrip(
                np.concatenate([ivf(row) for row in range(len(queries))]).astype(str),
                "item-",
            ).astype(int)
            faiss, recall = faiss_search(
                embeddings, queries, truth, overlap(found, truth)
            )
            calls["faiss"], figures["faiss_recall"] = faiss, recall
        timed = compare(
            {name: in_turn(call, len(queries)) for name, call in calls.items()},
            warmup=3,
            repeats=sizes["calls_timed"],
            budget_s=90.0,
        )
        assert tfrs.stdin is not None
        tfrs.stdin.close()
    speedup = timed.speedup
    figures |= {f"{name}_ms": timed.latencies[name].p50 for name in calls}
    figures["ivf_speedup_over_keras_rs"] = speedup["ivf"]
    figures["ivf_speedup_over_tfrs"] = speedup["ivf"] / speedup["tfrs"]
    if HAS_FAISS:
        figures["ivf_over_faiss"] = speedup["faiss"] / speedup["ivf"]
    return figures


def _rank(
    served: Mapping[str, Served], queries: np.ndarray, ids: list[str], sizes: Sizes
) -> dict[str, float]:
    rng = np.random.default_rng(1)
    lists = rng.integers(0, len(ids), (len(queries), 1, sizes["candidates"]), "int32")
    named = np.array([name.encode() for name in ids], object)[lists]
    gather = served["bare"].signature("gather", "scores")
    by_id = served["bare"].signature("by_id", "scores")
    rank = served["exact"].signature("rank", "scores")
    calls = {
        "gather": lambda row: gather({"vector": queries[[row]], "rows": lists[row]}),
        "by_id": lambda row: by_id({"vector": queries[[row]], "ids": named[row]}),
        "rank": lambda row: rank(
            {"vector": queries[[row]], "candidate_ids": named[row]}
        ),
    }
    timed = compare(
        {name: in_turn(call, len(queries)) for name, call in calls.items()},
        repeats=sizes["calls_timed"] * 5,
    )
    return {
        "gather_ms": timed.latencies["gather"].p50,
        "rank_ms": timed.latencies["rank"].p50,
        "rank_over_gather": 1 / timed.speedup["rank"],
        "rank_over_gather_by_id": timed.speedup["by_id"] / timed.speedup["rank"],
    }


def _difference(
    served: Mapping[str, Served],
    recommend: Callable[..., Callable[[int], Any]],
    embeddings: np.ndarray,
    queries: np.ndarray,
    ids: list[str],
    k: int,
) -> float:
    largest, exact = 0.0, recommend("exact", "scores")
    rank = served["ivf"].signature("rank", "scores")
    rows = np.arange(0, len(ids), max(1, len(ids) // 50))
    for row in range(8):
        scores = embeddings.astype(float) @ queries[row]
        want = -np.sort(-scores)[:k]
        got = exact(row)[0]
        ranked = rank(
            {
                "vector": queries[[row]],
                "candidate_ids": np.array([[ids[r].encode() for r in rows]], object),
            }
        )[0]
        both = max(np.abs(got - want).max(), np.abs(ranked - scores[rows]).max())
        largest = max(largest, float(both / scores.std()))
    return largest


def main(sizes: str) -> None:
    """Measures and prints the figures."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(json.loads(sizes), Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1])
