"""Plot of a load test: latency over time, and latency by percentile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from recdistill.evaluation.latency.percentiles import percentiles
from recdistill.serving.load_test.load_report import headline
from recdistill.serving.load_test.load_result import LoadResult
from recdistill.serving.load_test.request_samples import Samples

__all__ = ["latency_over_time", "plot_load_test"]

_BLUE, _ORANGE, _RED, _GREY = "#1f5fa8", "#d9822b", "#b3202c", "#8a8f98"


def plot_load_test(result: LoadResult, path: Path) -> None:
    """Plots a load test and writes the figure to a file.

    The left panel shows each answered request by when it was due, with median and p99
    over time; failed requests are ticks at the upper edge, and the loading of a new
    version is shaded. The right panel shows the latency at each percentile; its axis is
    logarithmic towards 100 %.

    Args:
        result: Result of the load test.
        path: Output file; its suffix selects the format, such as ".png" or ".svg".

    Raises:
        ValueError: If matplotlib does not support the suffix.
        OSError: If the file cannot be written.
    """
    figure = Figure(figsize=(11, 4.2), dpi=130, layout="constrained")
    time, curve = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    _draw_time(time, result)
    _draw_curve(curve, result)
    figure.suptitle(headline(result), fontsize=10)
    figure.savefig(path)


def latency_over_time(
    samples: Samples, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median and p99 of the latency in equal intervals of time.

    Args:
        samples: Samples of a test.
        bins: Number of intervals.

    Returns:
        Midpoints of the intervals in seconds, median and p99 in milliseconds, `(bins,)`
        each; NaN for an interval without answers.
    """
    due, latency = samples.due_s[samples.answered], samples.latency_s[samples.answered]
    edges = np.linspace(0.0, float(samples.due_s.max(initial=1e-9)), bins + 1)
    place = np.clip(np.searchsorted(edges, due, side="right") - 1, 0, bins - 1)
    found = [
        percentiles(latency[place == n] * 1e3, [50, 99])
        if n in place
        else [np.nan, np.nan]
        for n in range(bins)
    ]
    median, slow = np.array(found).T
    return (edges[:-1] + edges[1:]) / 2, median, slow


def _draw_time(axes: Axes, result: LoadResult) -> None:
    samples, answered = result.samples, result.samples.answered
    axes.plot(
        samples.due_s[answered],
        samples.latency_s[answered] * 1e3,
        ".",
        color=_BLUE,
        alpha=0.3,
        markersize=3,
        markeredgewidth=0,
        rasterized=True,
    )
    bins = int(np.clip(result.answered / 50, 8, 60))
    middle, median, slow = latency_over_time(samples, bins)
    axes.plot(middle, slow, color=_ORANGE, label="p99")
    axes.plot(middle, median, color=_BLUE, label="median")
    failed = samples.due_s[~answered]
    if len(failed):
        height, label = np.full(len(failed), 0.98), f"failed ({len(failed):,})"
        axes.plot(
            failed,
            height,
            "|",
            color=_RED,
            markersize=9,
            transform=axes.get_xaxis_transform(),
            label=label,
        )
    if result.swap is not None:
        end = result.swap.available_s or samples.elapsed_s
        label = f"version {result.swap.version} loads"
        axes.axvspan(result.swap.published_s, end, color=_GREY, alpha=0.25, label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.margins(y=0.12)
    axes.set_xlabel("due, seconds since the start")
    axes.set_ylabel("latency, ms")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
    axes.set_xlim(0, max(result.load.seconds, float(samples.due_s.max(initial=0.0))))


def _draw_curve(axes: Axes, result: LoadResult) -> None:
    latency = np.sort(result.samples.latency_s[result.samples.answered]) * 1e3
    axes.set_xlabel("percentile")
    axes.grid(alpha=0.25)
    if not len(latency):
        axes.text(0.5, 0.5, "no answers", transform=axes.transAxes, ha="center")
        return
    # The axis counts nines: 0.9 is at 1 and 0.99 at 2.
    ranks = (np.arange(len(latency)) + 0.5) / len(latency)
    axes.plot(-np.log10(1 - ranks), latency, color=_BLUE, drawstyle="steps-post")
    # A percentile is marked only if at least one request lies above it.
    marks = [p for p in (50, 90, 99, 99.9) if len(latency) * (100 - p) >= 100]
    places = [float(-np.log10(1 - p / 100)) for p in marks]
    values = percentiles(latency, marks)
    axes.plot(places, values, "o", color=_ORANGE, markersize=5)
    for place, value in zip(places, values, strict=True):
        axes.annotate(f"{value:,.2f} ms", (place, value), ha="right", va="bottom")
    axes.set_xticks(places, [f"p{percent:g}" for percent in marks])
    axes.set_xlim(left=0)
