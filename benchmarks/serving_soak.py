"""Soak test of the embedded server: load while versions are swapped.

    python -m benchmarks.serving_soak --requests 200000 --clients 32 --swaps 5

The published results are from a run of this size. The server batches requests, and one
in a hundred requests is malformed. Every answer is compared with the result of
TensorFlow's other loader for the version that the answer names.
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
from recdistill.evaluation.latency.percentiles import percentiles
from recdistill.export.parity import Request, write_requests

NAME = "films"
DIM, HISTORY, TOP_K = 32, 20, 10
QUERIES = 64
POLL_S = 0.2
MALFORMED_EVERY = 100
BATCHING = """
max_batch_size { value: 32 }
batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 64 }
num_batch_threads { value: 2 }
pad_variable_length_inputs: true
"""
TOLERANCE = 1e-5

Inputs = dict[str, np.ndarray]


class Recommender(tf.Module):
    """Model like an exported student: looks up ids, averages them, scores all items.

    Args:
        items: Number of items.
        seed: Seed of the vectors; it differs between versions.
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
        """Top items for histories `(batch, n)`, padded after their lengths."""
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
class SoakRecord:
    """Record of all requests of the clients.

    Attributes:
        seconds: Latency of each answered request.
        failures: Messages of failed requests.
        wrong: Number of answers that differ from the version that they name.
        versions: Number of answers by version.
        difference: Largest relative difference of a score from the expected one.
        resident: Pairs of the number of requests and the server's memory in MiB.
    """

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    refused: int = 0
    accepted: int = 0
    wrong: int = 0
    versions: dict[int, int] = field(default_factory=dict)
    difference: float = 0.0
    resident: list[tuple[int, float]] = field(default_factory=list)


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Runs the benchmark; `BENCHMARK.reading` explains the figures."""
    return measure(
        {
            "requests": sized(200_000, scale),
            "clients": sized(32, max(scale, 0.25)),
            "swaps": sized(5, scale, least=1),
            "items": sized(10_000, scale, least=100),
        }
    )


def measure(sizes: dict[str, int]) -> dict[str, dict[str, float]]:
    """Figures of one run with these sizes."""
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
            record = asyncio.run(
                drive(sizes, base, port, process.pid, queries, expected)
            )
            seconds = time.perf_counter() - started
    p50, p99 = percentiles(record.seconds, [50, 99])
    settled = [mib for done, mib in record.resident if done > sizes["requests"] * 0.2]
    return {
        "sizes": sizes,
        "figures": {
            "requests_per_second": len(record.seconds) / seconds,
            "p50_ms": p50 * 1e3,
            "p99_ms": p99 * 1e3,
            "slowest_ms": max(record.seconds) * 1e3,
            "failed_requests": len(record.failures),
            "wrong_answers": record.wrong,
            "malformed_refused": record.refused,
            "malformed_accepted": record.accepted,
            "versions_that_answered": len(record.versions),
            "difference": record.difference,
            "resident_start_mib": settled[0],
            "resident_end_mib": settled[-1],
            "resident_peak_mib": max(mib for _, mib in record.resident),
        },
    }


def make_queries(items: int) -> list[Inputs]:
    """Queries with histories of all lengths."""
    rng = np.random.default_rng(0)
    queries = []
    for k in range(QUERIES):
        length = k % HISTORY + 1
        # Requests of different widths share batches.
        history = np.full((1, rng.integers(length, HISTORY + 1)), "", object)
        history[0, :length] = [f"film-{i}" for i in rng.integers(0, items, length)]
        lengths = np.array([length], "int32")
        queries.append({"history": history, "history_length": lengths})
    return queries


def prepare_version(
    base: Path, number: int, items: int, queries: list[Inputs]
) -> list[tuple[list[bytes], np.ndarray]]:
    """Stages a version with its warm-up and returns its expected answers."""
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
    """Publishes a staged version."""
    (base / f".staging-{number}").rename(base / str(number))


@contextmanager
def served(base: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Embedded server, started from the command line on a free port."""
    command = [sys.executable, "-m", "recdistill", "serve", str(base)]
    batching = base.parent / "batching.config"
    batching.write_text(BATCHING, encoding="utf-8")
    command += ["--engine=embedded", "--port=0", "--rest-port=0"]
    command += [f"--batching={batching}"]
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
) -> SoakRecord:
    """Runs all clients, each with one request at a time, until all swaps are done."""
    record, total = SoakRecord(), sizes["requests"]
    requests = [as_request(each) for each in queries]
    wrong = make_malformed(queries[HISTORY - 1])
    malformed = {MALFORMED_EVERY * place: each for place, each in enumerate(wrong)}

    def swapping() -> bool:
        return max(expected) not in record.versions and not record.failures

    async def client(number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            place = sent = number
            while len(record.seconds) + len(record.failures) < total or swapping():
                place, sent = (place + 7) % len(requests), sent + 1
                data = malformed.get(sent % (MALFORMED_EVERY * len(malformed)))
                await ask_malformed(channel, data, record)
                await ask(stub, requests[place], place, expected, record)

    async def swaps() -> None:
        for number in sorted(expected)[1:]:
            share = (number - 1) / len(expected)
            while (
                len(record.seconds) < total * share or number - 1 not in record.versions
            ):
                await asyncio.sleep(0.01)
            publish(base, number)

    async def watch() -> None:
        while True:
            record.resident.append((len(record.seconds), resident_mib(server)))
            await asyncio.sleep(0.1)

    others = [asyncio.create_task(swaps()), asyncio.create_task(watch())]
    await asyncio.gather(*(client(number) for number in range(sizes["clients"])))
    record.resident.append((len(record.seconds), resident_mib(server)))
    for task in others:
        task.cancel()
    return record


async def ask(
    stub: Any,
    request: predict_pb2.PredictRequest,
    place: int,
    expected: dict[int, list[tuple[list[bytes], np.ndarray]]],
    record: SoakRecord,
) -> None:
    """Sends one request, and records its latency and whether the answer is right."""
    started = time.perf_counter()
    try:
        response = await stub.Predict(request, timeout=60)
    except grpc.RpcError as error:
        record.failures.append(f"{error.code().name}: {error.details()}")
        return
    record.seconds.append(time.perf_counter() - started)
    version = response.model_spec.version.value
    record.versions[version] = record.versions.get(version, 0) + 1
    ids, scores = expected[version][place]
    got = np.array(response.outputs["scores"].float_val, "float32")
    largest = max(1.0, float(np.abs(scores).max()))
    difference = float(np.abs(got - scores).max()) / largest
    record.difference = max(record.difference, difference)
    same = list(response.outputs["item_ids"].string_val) == ids
    if not same or difference > TOLERANCE:
        record.wrong += 1


async def ask_malformed(channel: Any, data: bytes | None, record: SoakRecord) -> None:
    """Sends a malformed message, if any, and records whether it is refused."""
    if data is None:
        return
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    try:
        await call(data, timeout=60)
    except grpc.RpcError as error:
        refusals = ("INVALID_ARGUMENT", "INTERNAL", "FAILED_PRECONDITION", "NOT_FOUND")
        if error.code().name in refusals:
            record.refused += 1
        else:
            record.failures.append(f"{error.code().name}: {error.details()}")
    else:
        record.accepted += 1


def make_malformed(query: Inputs) -> list[bytes]:
    """Messages that have to be refused."""
    history, length = query["history"], query["history_length"]
    wrong: list[Inputs] = [
        {"history": history[0], "history_length": length},
        {"history": history[None], "history_length": length},
        {"history": history[:0], "history_length": length[:0]},
        {"history": history[:, :0], "history_length": length},
        {"history": history, "history_length": length + 1},
        {"history": history, "history_length": -length},
        {"history": history, "history_length": length[None]},
        {"history": history, "history_length": np.concatenate([length, length])},
        {"history": history, "history_length": length.astype("float32")},
        {"history": history},
        {"history": history, "history_length": length, "other": length},
    ]
    messages = [as_request(each).SerializeToString() for each in wrong]
    unknown = as_request(query)
    unknown.model_spec.name = "books"
    whole = as_request(query).SerializeToString()
    return [*messages, unknown.SerializeToString(), whole[:-3], b"\xff" * 20]


def as_request(inputs: Inputs) -> predict_pb2.PredictRequest:
    """`PredictRequest` of a query."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = NAME
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def resident_mib(process: int) -> float:
    """Resident memory of a process in MiB; 0 if the system does not report it."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except OSError:
        return 0.0
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Command line: prints the figures as JSON; fails if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, size in (("requests", 200_000), ("clients", 32), ("swaps", 5)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--items", type=int, default=10_000)
    outcome = measure(vars(parser.parse_args()))
    print(json.dumps(outcome, indent=1))
    figures = outcome["figures"]
    problems = ("failed_requests", "wrong_answers", "malformed_accepted")
    if any(figures[each] for each in problems):
        sys.exit("Some requests failed or were answered wrongly")


BENCHMARK = Benchmark(
    name="serving_soak",
    title="Embedded server under load while versions are swapped",
    equal=(
        "Every answer is compared with the result of TensorFlow's other loader for the "
        "same files and the version that the answer names."
    ),
    other_side=(
        "None. Clients, server and TensorFlow share the machine's cores. The clients "
        "run in one Python process over gRPC, each with its own connection and one "
        "request at a time."
    ),
    reading={
        "requests_per_second": "Answered requests per second, over the whole run.",
        "p50_ms": "Median latency in milliseconds, measured by the client.",
        "p99_ms": "99th percentile of the latency, including swaps.",
        "slowest_ms": "Slowest request.",
        "failed_requests": "Number of requests without an answer.",
        "wrong_answers": "Number of answers that differ from those of their version.",
        "malformed_refused": "Number of malformed requests that were refused.",
        "malformed_accepted": "Number of malformed requests that were answered.",
        "versions_that_answered": "Number of versions; one more than the swaps.",
        "difference": "Largest relative difference of a score from the expected one.",
        "resident_start_mib": "Memory of the server after a fifth of the requests.",
        "resident_end_mib": "Memory of the server after the last request.",
        "resident_peak_mib": "Peak memory of the server, with two versions loaded.",
    },
    run=run,
)


if __name__ == "__main__":
    main()
