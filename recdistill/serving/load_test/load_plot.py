"""A picture of a load test: latency over time, and the curve of percentiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from recdistill.serving.load_test.load_runs import LoadResult, latency_over_time

__all__ = ["plot_load_test"]

_MEDIAN, _SLOW, _BAD, _SWAP = "#1f5fa8", "#d9822b", "#b3202c", "#8a8f98"
_MOST_POINTS = 20_000


def plot_load_test(result: LoadResult, path: Path) -> None:
    """Draws a load test.

    Left every request by when it was due, with median and p99 of short spans of the
    test; requests that failed are ticks at the upper edge, and the swap of a version is
    shaded. Right the latency at each percentile, its axis stretched towards 100 as far
    as there are requests to tell.

    Args:
        result: What was measured.
        path: Where to; the ending says the format, such as ".png" or ".svg".

    Raises:
        ValueError: If matplotlib does not know the ending.
        OSError: If the file cannot be written.
    """
    figure = Figure(figsize=(11, 4.2), dpi=130, layout="constrained")
    time, curve = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    _draw_time(time, result)
    _draw_curve(curve, result)
    load = result.load
    how = (
        f"open loop, {load.rate:,.4g} requests a second"
        if load.rate
        else f"closed loop, {load.clients} clients"
    )
    work = result.workload
    figure.suptitle(f"{work.signature} of {work.target.model}, {how}", fontsize=12)
    figure.savefig(path)


def _draw_time(axes: Axes, result: LoadResult) -> None:
    samples = result.samples
    answered = np.flatnonzero(samples.answered)
    # A sample of them, but the slowest always: they are what one looks for.
    step = max(1, len(answered) // _MOST_POINTS)
    slowest = answered[np.argsort(samples.latency_s[answered])[-500:]]
    shown = np.union1d(answered[::step], slowest)
    axes.plot(
        samples.due_s[shown],
        samples.latency_s[shown] * 1e3,
        ".",
        color=_MEDIAN,
        alpha=float(np.clip(600 / max(1, len(shown)), 0.15, 0.6)),
        markersize=3.5,
        markeredgewidth=0,
        rasterized=True,
    )
    spans = int(np.clip(len(answered) / 50, 8, 60))
    middle, median, slow = latency_over_time(samples, spans)
    axes.plot(middle, slow, color=_SLOW, linewidth=1.6, label="p99")
    axes.plot(middle, median, color=_MEDIAN, linewidth=1.6, label="median")
    failed = samples.due_s[~samples.answered]
    if len(failed):
        axes.plot(
            failed,
            np.full(len(failed), 0.98),
            "|",
            color=_BAD,
            markersize=9,
            transform=axes.get_xaxis_transform(),
            label=f"failed ({len(failed):,})",
        )
    if result.swap is not None:
        end = result.swap.available_s
        last = samples.elapsed_s if end is None else end
        axes.axvspan(
            result.swap.published_s,
            last,
            color=_SWAP,
            alpha=0.25,
            linewidth=0,
            label=f"version {result.swap.version} loads",
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.margins(y=0.12)
    axes.set_xlabel("due, seconds since the start")
    axes.set_ylabel("latency, ms")
    axes.grid(alpha=0.25)
    # Above, for the peaks are what one looks for.
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=9, frameon=False
    )
    axes.set_xlim(0, max(result.load.seconds, float(samples.due_s.max(initial=0.0))))


def _draw_curve(axes: Axes, result: LoadResult) -> None:
    latency = np.sort(result.samples.latency_s[result.samples.answered]) * 1e3
    axes.set_xlabel("percentile")
    axes.grid(alpha=0.25)
    if not len(latency):
        axes.text(0.5, 0.5, "no answers", transform=axes.transAxes, ha="center")
        return
    ranks = (np.arange(len(latency)) + 0.5) / len(latency)
    nines = -np.log10(1 - ranks)  # 0.9 is one nine, 0.99 two.
    axes.plot(nines, latency, color=_MEDIAN, linewidth=1.8, drawstyle="steps-post")
    marks = {
        50.0: result.latency.p50,
        90.0: result.latency.p90,
        99.0: result.latency.p99,
        99.9: result.latency.p99_9,
    }
    shown = {p: v for p, v in marks.items() if v is not None}
    shown = {p: v for p, v in shown.items() if len(latency) * (100 - p) >= 100}
    places = {p: -np.log10(1 - p / 100) for p in shown}
    for percent, value in shown.items():
        axes.plot(places[percent], value, "o", color=_SLOW, markersize=5)
        median = percent == 50  # Left of it there is no room.
        axes.annotate(
            f"{value:,.2f} ms",
            (places[percent], value),
            xytext=(7, -11) if median else (-5, 6),
            textcoords="offset points",
            fontsize=9,
            ha="left" if median else "right",
        )
    axes.set_xticks(list(places.values()), [f"p{percent:g}" for percent in places])
    axes.set_xlim(0, float(nines[-1]) * 1.02)
