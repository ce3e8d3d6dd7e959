"""Prometheus metrics of the embedded server, with TensorFlow Serving's names.

Names, labels and buckets are TensorFlow Serving's, so that one dashboard shows both
servers. `prometheus_client` cannot write them: it appends `_total` to the names of
counters, as in `:tensorflow:serving:request_count_total`.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable, Mapping

from recdistill.serving.deploy.model_server import COUNTERS, HISTOGRAMS

__all__ = ["ServerMetrics", "label_text"]

_BATCHING = ":tensorflow:serving:batching_session"

_SIZES = {
    f"{_BATCHING}:{name}": ()
    for name in ("input_batch_size", "processed_batch_size", "padding_size")
}
"""Histograms of numbers of rows."""

_LABEL_NAMES: Mapping[str, tuple[str, ...]] = {**COUNTERS, **HISTOGRAMS, **_SIZES}

_MICROSECONDS = tuple(10.0 * 1.8**k for k in range(33))
_ROWS = tuple(2.0**k for k in range(14))
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class ServerMetrics:
    """Counters and histograms. They are thread-safe.

    Examples:
        >>> metrics = ServerMetrics()
        >>> metrics.count(":tensorflow:serving:request_count", "films", "OK")
        >>> print(metrics.render())
        # TYPE :tensorflow:serving:request_count counter
        :tensorflow:serving:request_count{model_name="films",status="OK"} 1
        <BLANKLINE>
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[tuple[str, ...], float]] = {}
        self._samples: dict[str, dict[tuple[str, ...], list[float]]] = {}

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Increments a counter.

        Args:
            name: A name in `model_server.COUNTERS`.
            labels: Values of its labels, in order.
            by: Increment.
        """
        with self._lock:
            series = self._counts.setdefault(name, {})
            series[labels] = series.get(labels, 0) + by

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Adds a value to a histogram.

        Args:
            name: A name in `model_server.HISTOGRAMS`, or of a histogram of rows.
            value: Microseconds, or number of rows.
            labels: Values of its labels, in order.
        """
        bounds = _bounds(name)
        place = bisect.bisect_left(bounds, value)
        with self._lock:
            series = self._samples.setdefault(name, {})
            # One count per bucket, one for larger values, and the sum of all values.
            sample = series.setdefault(labels, [0.0] * (len(bounds) + 2))
            sample[place] += 1
            sample[-1] += value

    def render(self) -> str:
        """The metrics in Prometheus's text format."""
        with self._lock:
            counts = {name: dict(series) for name, series in self._counts.items()}
            samples = {
                name: {labels: list(s) for labels, s in series.items()}
                for name, series in self._samples.items()
            }
        lines: list[str] = []
        for name, series in sorted(counts.items()):
            lines.append(f"# TYPE {name} counter")
            for labels, value in sorted(series.items()):
                shown = label_text(_LABEL_NAMES[name], labels)
                lines.append(f"{name}{shown} {value:.17g}")
        for name, sampled in sorted(samples.items()):
            lines.append(f"# TYPE {name} histogram")
            for labels, sample in sorted(sampled.items()):
                lines += _histogram(name, labels, sample)
        return "\n".join([*lines, ""])


def _bounds(name: str) -> tuple[float, ...]:
    return _ROWS if name in _SIZES else _MICROSECONDS


def _histogram(name: str, labels: tuple[str, ...], sample: list[float]) -> list[str]:
    names, lines, total = _LABEL_NAMES[name], [], 0.0
    edges = [f"{bound:g}" for bound in _bounds(name)] + ["+Inf"]
    for edge, count in zip(edges, sample[:-1], strict=True):
        total += count
        shown = label_text((*names, "le"), (*labels, edge))
        lines.append(f"{name}_bucket{shown} {total:.17g}")
    shown = label_text(names, labels)
    return [
        *lines,
        f"{name}_sum{shown} {sample[-1]:.17g}",
        f"{name}_count{shown} {total:.17g}",
    ]


def label_text(names: Iterable[str], values: Iterable[str]) -> str:
    """The labels of a sample in Prometheus's text format.

    Examples:
        >>> print(label_text(["model", "version"], ["films", "3"]))
        {model="films",version="3"}
    """
    pairs = zip(names, values, strict=True)
    return "{" + ",".join(f'{n}="{v.translate(_ESCAPES)}"' for n, v in pairs) + "}"
