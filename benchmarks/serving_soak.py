"""The embedded server under load while versions are swapped.

    python -m benchmarks.serving_soak --requests 200000 --clients 32 --swaps 5

The published run has the sizes above. Every answer is compared with what TensorFlow's
other loader computes for the version that the answer claims to come from.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from benchmarks import Benchmark, sized
from recdistill.export.parity import Request, write_requests

NAME = "films"
DIM, HISTORY, TOP_K = 32, 20, 10
QUERIES = 64
POLL_S = 0.2
TOLERANCE = 1e-5

Inputs = dict[str, np.ndarray]


class Recommender(tf.Module):
    """What an exported student does: look ids up, average, score all, take the best.

    Args:
        items: Number of items.
        seed: Another version has another one.
    """

    def __init__(self, items: int, seed: int) -> None:
        super().__init__()
        vectors = np.random.default_rng(seed).normal(size=(items, DIM))
        self.vectors = tf.Variable(vectors.astype("float32"))
        self.ids = tf.constant([f"film-{k}" for k in range(items)])
        self.rows = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                self.ids, tf.range(items, dtype=tf.int32)
            ),
            default_value=-1,
        )

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.string, "history"),
            tf.TensorSpec([None], tf.int32, "history_length"),
        ]
    )
    def recommend(
        self, history: tf.Tensor, history_length: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The best items for histories `(batch, n)`, of which a length is real."""
        rows = self.rows.lookup(history)
        real = tf.sequence_mask(history_length, tf.shape(history)[1]) & (rows >= 0)
        weights = tf.cast(real, tf.float32)[..., None]
        vectors = tf.gather(self.vectors, tf.maximum(rows, 0))
        query = tf.reduce_sum(vectors * weights, 1)
        scores, best = tf.math.top_k(
            tf.matmul(query, self.vectors, transpose_b=True), TOP_K
        )
        return {"item_ids": tf.gather(self.ids, best), "scores": scores}


@dataclass
class Load:
    """What the clients saw, and when.

    Attributes:
        seconds: Of each request.
        failures: What failed requests said.
        wrong: Answers that are not those of the version that they claim.
        versions: Answers of each version.
        difference: The largest of a score from the right one, relative.
        resident: MiB of the server after so many requests.
    """

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    wrong: int = 0
    versions: dict[int, int] = field(default_factory=dict)
    difference: float = 0.0
    resident: list[tuple[int, float]] = field(default_factory=list)


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Measure; see `BENCHMARK.reading` for the figures."""
    return measure(
        {
            "requests": sized(200_000, scale),
            "clients": sized(32, max(scale, 0.25)),
            "swaps": sized(5, scale, least=1),
            "items": sized(10_000, scale, least=100),
        }
    )


def measure(sizes: dict[str, int]) -> dict[str, dict[str, float]]:
    """One run of these sizes."""
    queries = make_queries(sizes["items"])
    with tempfile.TemporaryDirectory(prefix="serving-soak-") as folder:
        base = Path(folder) / NAME
        expected = {
            number: prepare_version(base, number, sizes["items"], queries)
            for number in range(1, sizes["swaps"] + 2)
        }
        publish(base, 1)
        with served(base) as (process, port):
            started = time.perf_counter()
            load = asyncio.run(drive(sizes, base, port, process.pid, queries, expected))
            seconds = time.perf_counter() - started
    settled = [mib for done, mib in load.resident if done > sizes["requests"] * 0.2]
    return {
        "sizes": sizes,
        "figures": {
            "requests_per_second": len(load.seconds) / seconds,
            "p50_ms": float(np.percentile(load.seconds, 50)) * 1e3,
            "p99_ms": float(np.percentile(load.seconds, 99)) * 1e3,
            "slowest_ms": max(load.seconds) * 1e3,
            "failed_requests": len(load.failures),
            "wrong_answers": load.wrong,
            "versions_that_answered": len(load.versions),
            "difference": load.difference,
            "resident_start_mib": settled[0],
            "resident_end_mib": settled[-1],
            "resident_peak_mib": max(mib for _, mib in load.resident),
        },
    }


def make_queries(items: int) -> list[Inputs]:
    """Histories of all lengths, one a query."""
    rng = np.random.default_rng(0)
    queries = []
    for k in range(QUERIES):
        length = k % HISTORY + 1
        history = np.full((1, HISTORY), "", object)
        history[0, :length] = [f"film-{i}" for i in rng.integers(0, items, length)]
        lengths = np.array([length], "int32")
        queries.append({"history": history, "history_length": lengths})
    return queries


def prepare_version(
    base: Path, number: int, items: int, queries: list[Inputs]
) -> list[tuple[list[bytes], np.ndarray]]:
    """Stages a version with its warm-up, and says what it has to answer."""
    folder = base / f".staging-{number}"
    model = Recommender(items, number)
    tf.saved_model.save(model, str(folder), signatures=model.recommend)
    extra = folder / "assets.extra"
    extra.mkdir(exist_ok=True)
    warm_up = [Request("serving_default", each, np.array([0])) for each in queries[:8]]
    write_requests(extra / "tf_serving_warmup_requests", warm_up, NAME)
    answer = tf.saved_model.load(str(folder)).signatures["serving_default"]
    expected = []
    for each in queries:
        got = answer(**{name: tf.constant(value) for name, value in each.items()})
        expected.append((got["item_ids"].numpy()[0].tolist(), got["scores"].numpy()[0]))
    return expected


def publish(base: Path, number: int) -> None:
    """Makes a staged version appear."""
    (base / f".staging-{number}").rename(base / str(number))


@contextmanager
def served(base: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The embedded server as a user starts it, on a free port."""
    command = [sys.executable, "-m", "recdistill", "serve", str(base)]
    command += ["--engine=embedded", "--port=0", "--rest-port=0"]
    process = subprocess.Popen(
        [*command, f"--poll-seconds={POLL_S}"], stdout=subprocess.PIPE, text=True
    )
    try:
        for line in process.stdout or ():
            if found := re.match(r"gRPC .*:(\d+)$", line):
                yield process, int(found[1])
                break
        else:
            raise RuntimeError(f"The server ended with {process.wait()}")
    finally:
        process.terminate()
        process.communicate(timeout=60)


async def drive(
    sizes: dict[str, int],
    base: Path,
    port: int,
    server: int,
    queries: list[Inputs],
    expected: dict[int, list[tuple[list[bytes], np.ndarray]]],
) -> Load:
    """All clients at once, each waiting for its answer, until all swaps were seen."""
    load, total = Load(), sizes["requests"]
    requests = [as_request(each) for each in queries]

    def swapping() -> bool:
        return max(expected) not in load.versions and not load.failures

    async def client(number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            place = number
            while len(load.seconds) + len(load.failures) < total or swapping():
                place = (place + 7) % len(requests)
                await ask(stub, requests[place], place, expected, load)

    async def swaps() -> None:
        for number in sorted(expected)[1:]:
            share = (number - 1) / len(expected)
            while len(load.seconds) < total * share or number - 1 not in load.versions:
                await asyncio.sleep(0.01)
            publish(base, number)

    async def watch() -> None:
        while True:
            load.resident.append((len(load.seconds), resident_mib(server)))
            await asyncio.sleep(0.1)

    others = [asyncio.create_task(swaps()), asyncio.create_task(watch())]
    await asyncio.gather(*(client(number) for number in range(sizes["clients"])))
    load.resident.append((len(load.seconds), resident_mib(server)))
    for task in others:
        task.cancel()
    return load


async def ask(
    stub: Any,
    request: predict_pb2.PredictRequest,
    place: int,
    expected: dict[int, list[tuple[list[bytes], np.ndarray]]],
    load: Load,
) -> None:
    """One request, timed and checked."""
    started = time.perf_counter()
    try:
        response = await stub.Predict(request, timeout=60)
    except grpc.RpcError as error:
        load.failures.append(f"{error.code().name}: {error.details()}")
        return
    load.seconds.append(time.perf_counter() - started)
    version = response.model_spec.version.value
    load.versions[version] = load.versions.get(version, 0) + 1
    ids, scores = expected[version][place]
    got = np.array(response.outputs["scores"].float_val, "float32")
    largest = max(1.0, float(np.abs(scores).max()))
    difference = float(np.abs(got - scores).max()) / largest
    load.difference = max(load.difference, difference)
    same = list(response.outputs["item_ids"].string_val) == ids
    if not same or difference > TOLERANCE:
        load.wrong += 1


def as_request(inputs: Inputs) -> predict_pb2.PredictRequest:
    """A query as a message."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = NAME
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def resident_mib(process: int) -> float:
    """Memory of a process, in MiB; 0 where the system does not say."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except OSError:
        return 0.0
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """The command line: sizes in, figures as JSON out; fails where an answer did."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, size in (("requests", 200_000), ("clients", 32), ("swaps", 5)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--items", type=int, default=10_000)
    outcome = measure(vars(parser.parse_args()))
    print(json.dumps(outcome, indent=1))
    figures = outcome["figures"]
    if figures["failed_requests"] or figures["wrong_answers"]:
        sys.exit("Some requests failed or were answered wrongly")


BENCHMARK = Benchmark(
    name="serving_soak",
    title="The embedded server under load, while versions are swapped",
    equal=(
        "Every answer is compared with what TensorFlow's other loader computes from "
        "the same files, for the version that the answer claims."
    ),
    other_side=(
        "None: clients, server and TensorFlow share the machine's cores. All clients "
        "are one Python process over gRPC, each on a connection of its own, each "
        "waiting for its answer before it asks again."
    ),
    reading={
        "requests_per_second": "Answered in a second, over all of the run.",
        "p50_ms": "Median of a request, as its client saw it, in milliseconds.",
        "p99_ms": "The 99th percentile, swaps included.",
        "slowest_ms": "The slowest request of all.",
        "failed_requests": "Requests without an answer.",
        "wrong_answers": "Answers that are not those of the version that they claim.",
        "versions_that_answered": "One more than there were swaps.",
        "difference": "Largest difference of a score from the right one, relative.",
        "resident_start_mib": "Memory of the server after a fifth of the requests.",
        "resident_end_mib": "Memory of the server after the last request.",
        "resident_peak_mib": "The most that it had, with two versions loaded.",
    },
    run=run,
)


if __name__ == "__main__":
    main()
