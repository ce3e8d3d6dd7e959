"""Made-up samples and results of load tests."""

import numpy as np

from recdistill.serving.client.protocols import Target
from recdistill.serving.load_test.load_generator import Load
from recdistill.serving.load_test.load_result import LoadResult
from recdistill.serving.load_test.request_samples import Samples
from recdistill.serving.load_test.workload import Workload


def samples(latency_ms, due_s=None, code=None, version=None, lag_ms=0.0):
    """Samples of requests that are due every 10 ms unless `due_s` is given."""
    count = len(latency_ms)
    return Samples(
        due_s=np.arange(count) / 100 if due_s is None else np.array(due_s, "float64"),
        latency_s=np.float32(latency_ms) / 1e3,
        lag_s=np.full(count, lag_ms / 1e3, "float32"),
        code=np.zeros(count, "int16") if code is None else np.array(code, "int16"),
        version=np.full(count, -1) if version is None else np.array(version),
        codes=["OK", "UNAVAILABLE", "INTERNAL"],
    )


def result_of(seen, swap=None, **load):
    """Result of an open loop of 2 s at 100 requests a second, with these samples."""
    work = Workload([], "recommend", 1, 5, Target("films"))
    load = Load(**{"seconds": 2.0, "rate": 100.0, **load})
    return LoadResult("grpc://a:1", work, load, seen, swap)
