"""server_metrics: Prometheus text with TensorFlow Serving's names."""

import re
import threading

import pytest

from recdistill.serving.deploy.model_server import metric_names
from recdistill.serving.server.server_metrics import ServerMetrics
from tests.serving.calls import refused

pytestmark = pytest.mark.slow

COUNT = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"


def value(page, line):
    [found] = re.findall(f"^{re.escape(line)} (.*)$", page, re.MULTILINE)
    return float(found)


def test_buckets_are_cumulative():
    metrics = ServerMetrics()
    for microseconds in (5, 10, 11, 1e12):
        metrics.observe(LATENCY, microseconds, "films", "Predict", "GRPC")
    page = metrics.render()
    labels = 'model_name="films",API="Predict",entrypoint="GRPC"'
    for edge, count in (("10", 2), ("18", 3), ("+Inf", 4)):
        assert value(page, f'{LATENCY}_bucket{{{labels},le="{edge}"}}') == count
    assert value(page, f"{LATENCY}_count{{{labels}}}") == 4
    assert value(page, f"{LATENCY}_sum{{{labels}}}") == 26 + 1e12


def test_large_counts_have_all_digits():
    metrics = ServerMetrics()
    metrics.count(COUNT, "films", "OK", by=123_456_789)
    assert value(metrics.render(), COUNT + '{model_name="films",status="OK"}') == (
        123_456_789
    )


def test_labels_are_escaped():
    metrics = ServerMetrics()
    metrics.count(COUNT, 'a"b\\c\nd', "OK")
    assert r'{model_name="a\"b\\c\nd",status="OK"}' in metrics.render()


def test_concurrent_counts_are_not_lost():
    metrics = ServerMetrics()

    def add():
        for _ in range(2_000):
            metrics.count(COUNT, "films", "OK")
            metrics.observe(LATENCY, 5, "films", "Predict", "GRPC")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    page = metrics.render()
    assert value(page, COUNT + '{model_name="films",status="OK"}') == 8_000


def test_requests_are_counted_by_model_status_and_protocol(serve):
    from recdistill.serving.deploy.batching_config import Batching

    client = serve(batching=Batching(4, 0, 4, 1)).client
    for _ in range(3):
        client.predict(x=[1.0])
    client.rest({"inputs": [1.0]})
    client.rest({"inputs": ["?"]})
    for made_up in ("nowhere", "nobody"):
        with refused("NOT_FOUND"):
            client.predict(model=made_up, x=[1.0])
    status, page = client.http("GET", "/monitoring/prometheus/metrics")
    assert status == 200
    series = {re.split(r"[{ ]", line)[0] for line in page.splitlines()}
    assert metric_names() <= series
    assert value(page, COUNT + '{model_name="toy",status="OK"}') == 4
    assert value(page, COUNT + '{model_name="toy",status="INVALID_ARGUMENT"}') == 1
    # Unknown model names are counted together.
    assert value(page, COUNT + '{model_name="",status="NOT_FOUND"}') == 2
    grpc_labels = '{model_name="toy",API="Predict",entrypoint="GRPC"}'
    assert value(page, f"{LATENCY}_count{grpc_labels}") == 3
    rest_labels = '{model_name="toy",API="predict",entrypoint="REST"}'
    assert value(page, f"{LATENCY}_count{rest_labels}") == 2
