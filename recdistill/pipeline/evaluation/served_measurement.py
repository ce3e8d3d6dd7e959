"""Latency and size of an exported SavedModel: one query on one thread."""

from __future__ import annotations

from pathlib import Path

from recdistill.evaluation.latency.saved_model_timing import Call, time_model

SIGNATURE, SECONDS = "serving_default", 2.0
"""The signature that is timed with one query, and the duration of the measurement."""

_P95 = 19
"""Place of the 95th percentile among the percentiles 0, 5, …, 100."""


def measure_served(version: Path) -> dict[str, float]:
    """Latency and size of a SavedModel, measured in a fresh process.

    The signature `serving_default` answers one query with the top items of the whole
    catalogue, on one thread.

    Args:
        version: Folder of the SavedModel, with its warm-up requests.

    Returns:
        p50, p90, p95 and p99 in milliseconds, the number of timed calls `n`, and the
        size of all files in bytes.

    Raises:
        TimingError: If it cannot be measured.
    """
    times = time_model(version, [Call(SIGNATURE)], threads=1, seconds=SECONDS)
    latency = times.calls[0].throughput.latency
    return {
        "p50": latency.p50,
        "p90": latency.p90,
        "p95": latency.quantiles[_P95] if latency.quantiles else latency.p99,
        "p99": latency.p99,
        "n": latency.n,
        "bytes": times.size_bytes,
    }
