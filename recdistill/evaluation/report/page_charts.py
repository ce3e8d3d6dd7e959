"""Charts of the report page, as SVG whose colours follow the page's theme.

Matplotlib draws them, because they are static, it is a dependency already, and an SVG
needs no script. Colours are written as CSS variables, so one figure serves the light
and the dark theme; text stays text, in the font of the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.latency.stopwatch import Latency

_VARIABLES = {
    "#010101": "--ink",
    "#020202": "--soft",
    "#030303": "--line",
    "#040404": "--popularity",
    "#050505": "--baseline",
    "#060606": "--distilled",
    "#070707": "--teacher",
}
INK, SOFT, LINE, *_MODELS = _VARIABLES
COLOURS = dict(
    zip(("popularity", "baseline", "distilled", "teacher"), _MODELS, strict=True)
)
"""Placeholder of each model's colour, replaced by a CSS variable."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "recdistill",
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.5,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
}


def interval_chart(
    panels: Mapping[str, Mapping[str, Interval]], *, percent: bool = False
) -> str:
    """Dots with confidence intervals: one panel for each metric, one row per model.

    Args:
        panels: Title of each panel, with the estimate of each model.
        percent: Whether the numbers are shares, to be shown in per cent.

    Returns:
        The SVG element.
    """
    rows = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    with _figure(3.0 * len(panels) + 0.8, 0.42 * len(rows) + 0.85) as figure:
        shape = figure.axes_grid(1, len(panels), sharey=True)
        for axes, (title, estimates) in zip(shape, panels.items(), strict=True):
            _intervals(axes, rows, estimates, percent)
            axes.set_title(title)
    return figure.svg


def _intervals(
    axes: Axes, rows: Sequence[str], estimates: Mapping[str, Interval], percent: bool
) -> None:
    for place, name in enumerate(rows):
        one = estimates.get(name)
        if one is None or one.value is None:
            continue
        colour = COLOURS.get(name, INK)
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [place] * 2, color=colour, linewidth=2.2)
        axes.plot([one.value], [place], "o", color=colour, markersize=6.5)
        text = f"{one.value:.0%}" if percent else f"{one.value:.3f}"
        axes.annotate(
            text,
            (one.value, place),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(rows)), [name.capitalize() for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.75)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.14)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if percent:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, 0))


def survival_chart(shares: Mapping[int, Interval]) -> str:
    """Survival curve: share of the teacher's top items in the student's first n.

    Args:
        shares: Estimate for each n; each has a value.
    """
    numbers = sorted(shares)
    with _figure(6.0, 2.6) as figure:
        (axes,) = figure.axes_grid(1, 1)
        values, low, high = np.array(
            [(shares[n].value, shares[n].low, shares[n].high) for n in numbers],
            np.float64,
        ).T
        colour = COLOURS["distilled"]
        axes.fill_between(numbers, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(numbers, values, "o-", color=colour, linewidth=2, markersize=5)
        for n, value in zip(numbers, values, strict=True):
            axes.annotate(
                f"{value:.1%}",
                (n, value),
                (0, -15),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        axes.set_xticks(numbers)
        axes.set_xlabel("n, candidates that the student passes on")
        axes.set_title("Share of the teacher's top items in the student's top n")
        axes.margins(x=0.08)
        axes.set_ylim(min(0.9, np.nanmin([low, values])) - 0.12, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y")
    return figure.svg


def training_chart(curves: Mapping[str, Sequence[Sequence[float]]], label: str) -> str:
    """Validation metric after each epoch: one line for each learning rate tried.

    Args:
        curves: For each model its curves, the chosen one first.
        label: Name of the metric.
    """
    with _figure(6.0, 2.6) as figure:
        (axes,) = figure.axes_grid(1, 1)
        for name, trials in curves.items():
            for number, values in enumerate(trials):
                epochs = np.arange(1, len(values) + 1)
                axes.plot(
                    epochs,
                    values,
                    color=COLOURS.get(name, INK),
                    linewidth=2.2 if number == 0 else 1.0,
                    alpha=1.0 if number == 0 else 0.45,
                    label=name.capitalize() if number == 0 else None,
                )
            best = int(np.nanargmax(trials[0]))
            axes.plot([best + 1], [trials[0][best]], "o", color=COLOURS.get(name, INK))
        axes.set_xlabel("epoch")
        axes.set_title(f"{label} on validation; dots mark the checkpoints kept")
        axes.legend(frameon=False, fontsize=9)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    return figure.svg


def latency_chart(latencies: Mapping[str, Mapping[str, Latency]]) -> str:
    """Latency of a query by number of candidates: median to p99, on a log scale.

    Args:
        latencies: For each model, the latency by number of candidates.
    """
    counts = sorted({n for part in latencies.values() for n in part}, key=int)
    rows = [(n, name) for n in counts for name in latencies if n in latencies[name]]
    with _figure(6.0, 0.42 * len(rows) + 0.9) as figure:
        (axes,) = figure.axes_grid(1, 1)
        for place, (n, name) in enumerate(rows):
            one, colour = latencies[name][n], COLOURS.get(name, INK)
            axes.plot([one.p50, one.p99], [place] * 2, color=colour, linewidth=2.2)
            axes.plot([one.p50], [place], "o", color=colour, markersize=6.5)
            axes.plot([one.p99], [place], "|", color=colour, markersize=9)
            axes.annotate(
                f"{one.p50:.3g} ms",
                (one.p50, place),
                (0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        axes.set_xscale("log")
        axes.set_yticks(
            range(len(rows)), [f"{name.capitalize()}, {int(n):,}" for n, name in rows]
        )
        axes.set_ylim(len(rows) - 0.5, -0.75)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.set_title("Median to 99th percentile, milliseconds, by candidates")
        axes.margins(x=0.12)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
    return figure.svg


class _Drawing:
    """A figure, and its SVG once it is finished."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), layout="constrained")
        self.svg = ""

    def axes_grid(self, rows: int, columns: int, *, sharey: bool = False) -> list[Axes]:
        """Axes in a row, left to right."""
        made = self.figure.subplots(rows, columns, squeeze=False, sharey=sharey)
        for axes in made.flat:
            axes.patch.set_alpha(0)
        return list(made.flat)


@contextmanager
def _figure(width: float, height: float) -> Iterator[_Drawing]:
    with mpl.rc_context(_STYLE):
        drawing = _Drawing(width, height)
        yield drawing
        drawing.figure.patch.set_alpha(0)
        file = io.StringIO()
        drawing.figure.savefig(file, format="svg", metadata={"Date": None})
    drawing.svg = _themed(file.getvalue())


def _themed(svg: str) -> str:
    """The SVG element alone, with CSS variables for colours and the page's font."""
    svg = svg[svg.index("<svg") :]
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', svg)
    if size is not None:
        width = f'style="max-width:{float(size[1]) * 4 / 3:.0f}px"'
        svg = svg.replace(size[0], width, 1)
    return svg
