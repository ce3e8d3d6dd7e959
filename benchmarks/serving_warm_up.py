"""Latency of the first request after a load, with and without warm-up requests."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from benchmarks import Benchmark, sized
from benchmarks.serving_soak import (
    NAME,
    Recommender,
    as_request,
    make_queries,
    served,
)
from recdistill.export.parity import Request, write_requests


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Runs the benchmark; `BENCHMARK.reading` explains the figures."""
    sizes = {
        "loads": sized(10, scale),
        "requests_after_a_load": sized(200, scale, least=10),
        "items": sized(10_000, scale, least=100),
    }
    with tempfile.TemporaryDirectory(prefix="serving-warm-up-") as folder:
        cold, warm = Path(folder) / "cold", Path(folder) / "warm"
        request = make_version(cold, warm, sizes["items"])
        with_warm_up = np.array(loads(warm, request, sizes))
        without = np.array(loads(cold, request, sizes))
        apart = difference(cold, warm, request)
    return {
        "sizes": sizes,
        "figures": {
            "median_ms": float(np.median(with_warm_up[:, 1])),
            "first_with_warm_up_ms": float(np.median(with_warm_up[:, 0])),
            "first_without_warm_up_ms": float(np.median(without[:, 0])),
            "ratio_with_warm_up": ratio(with_warm_up),
            "ratio_without_warm_up": ratio(without),
            "difference": apart,
        },
    }


def ratio(times: np.ndarray) -> float:
    """Ratio of the first request's time to that of later ones; median over loads."""
    return float(np.median(times[:, 0] / times[:, 1]))


def make_version(cold: Path, warm: Path, items: int) -> predict_pb2.PredictRequest:
    """Writes the model without and with warm-up requests; returns a request for it."""
    model, query = Recommender(items, 1), make_queries(items)[10]
    tf.saved_model.save(model, str(cold), signatures=model.recommend)
    shutil.copytree(cold, warm)
    extra = warm / "assets.extra"
    extra.mkdir(exist_ok=True)
    requests = [
        Request(
            "serving_default",
            {name: np.repeat(value, rows, axis=0) for name, value in query.items()},
            np.zeros(rows, int),
        )
        for rows in (1, 8)
    ]
    write_requests(extra / "tf_serving_warmup_requests", requests, NAME)
    return as_request(query)


def loads(
    model: Path, request: predict_pb2.PredictRequest, sizes: dict[str, int]
) -> list[tuple[float, float]]:
    """Times in ms for each load: the first request, and the median of later ones."""
    times = []
    with tempfile.TemporaryDirectory(prefix="serving-warm-up-") as folder:
        base = Path(folder) / NAME
        publish(model, base, 1)
        with (
            served(base) as (_, port),
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for number in range(2, sizes["loads"] + 2):
                publish(model, base, number)
                first = answered_by(stub, request, number)
                rest = []
                for _ in range(sizes["requests_after_a_load"]):
                    started = time.perf_counter()
                    stub.Predict(request, timeout=60)
                    rest.append(time.perf_counter() - started)
                times.append((first * 1e3, float(np.median(rest)) * 1e3))
    return times


def answered_by(stub: Any, request: predict_pb2.PredictRequest, number: int) -> float:
    """Latency in seconds of the first request that a version answers."""
    asked = predict_pb2.PredictRequest()
    asked.CopyFrom(request)
    asked.model_spec.version.value = number
    while True:
        started = time.perf_counter()
        try:
            stub.Predict(asked, timeout=60)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            time.sleep(0.002)
        else:
            return time.perf_counter() - started


def difference(cold: Path, warm: Path, request: predict_pb2.PredictRequest) -> float:
    """Largest relative difference of a score between both versions."""
    inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
    scores = [
        tf.saved_model.load(str(folder))
        .signatures["serving_default"](
            **{name: tf.constant(value) for name, value in inputs.items()}
        )["scores"]
        .numpy()
        for folder in (cold, warm)
    ]
    return float(np.abs(scores[0] - scores[1]).max() / np.abs(scores[0]).max())


def publish(model: Path, base: Path, number: int) -> None:
    """Publishes a complete version."""
    staging = base / f".staging-{number}"
    shutil.copytree(model, staging)
    staging.rename(base / str(number))


BENCHMARK = Benchmark(
    name="serving_warm_up",
    title="First request after a load, with and without warm-up requests",
    equal="Model, request, server and number of loads.",
    other_side=(
        "The same SavedModel without warm-up requests. The first request then includes "
        "the preparation that TensorFlow does once for each signature."
    ),
    reading={
        "median_ms": "Median latency in milliseconds after the first requests.",
        "first_with_warm_up_ms": "First request after a load; median over loads.",
        "first_without_warm_up_ms": "The same without warm-up requests.",
        "ratio_with_warm_up": (
            "First request divided by the median of later ones; median over loads."
        ),
        "ratio_without_warm_up": "The same without warm-up requests.",
        "difference": "Largest relative difference between the scores of both.",
    },
    run=run,
)
