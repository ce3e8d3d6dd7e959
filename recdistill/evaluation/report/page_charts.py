"""Charts of the report page, as SVG whose colours follow the page's theme.

Matplotlib draws them, because they are static, it is a dependency already, and an SVG
needs no script. Colours are written as CSS variables, so one figure serves the light
and the dark theme; text stays text, in the font of the page.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    ScalarFormatter,
)

from recdistill.evaluation.intervals import Interval

_VARIABLES = {
    "#010101": "--ink",
    "#020202": "--soft",
    "#030303": "--line",
    "#040404": "--popularity",
    "#050505": "--baseline",
    "#060606": "--distilled",
    "#070707": "--teacher",
    "#080808": "--good",
    "#090909": "--bad",
}
INK, SOFT, LINE, *_MODELS, GOOD, BAD = _VARIABLES
COLOURS = dict(
    zip(("popularity", "baseline", "distilled", "teacher"), _MODELS, strict=True)
)
"""Placeholder of each model's colour, replaced by a CSS variable."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "recdistill",
    "font.size": 10.0,
    "text.color": INK,
    "text.parse_math": False,  # Names of slices may have dollar signs.
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


WIDTH, HEIGHT = 4.1, 2.5
"""Size of a panel in inches; panels stand side by side where the screen is wide."""


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        label: Its entry in the legend; None for no entry.
        colour: A placeholder of this module.
        x: Horizontal positions.
        y: Values; None and NaN interrupt the line.
        strong: Whether it is wide and opaque.
        dashed: Whether it is dashed.
        mark: Horizontal position of a dot on the line; None for no dot.
    """

    label: str | None
    colour: str
    x: Sequence[float]
    y: Sequence[float | None]
    strong: bool = True
    dashed: bool = False
    mark: float | None = None


@dataclass(frozen=True)
class Point:
    """A model in the chart of quality against latency.

    Attributes:
        label: Its name.
        colour: A placeholder of this module.
        latency: Milliseconds.
        quality: Estimate of the metric.
        strong: Whether the point is filled.
    """

    label: str
    colour: str
    latency: float
    quality: Interval
    strong: bool = True


def colour_of(model: str) -> str:
    """The placeholder of a model's colour."""
    return COLOURS.get(model, INK)


def dots(title: str, estimates: Mapping[str, Interval]) -> str:
    """One metric of several models: dots with confidence intervals.

    Args:
        title: Title of the panel.
        estimates: The estimate of each model.

    Returns:
        The SVG element.
    """
    with figure(WIDTH, 0.4 * len(estimates) + 0.8) as (drawing, axes):
        for place, (name, one) in enumerate(estimates.items()):
            if one.value is None:
                continue
            _whisker(axes, place, one, colour_of(name), 7.0)
            axes.annotate(
                f"{one.value:.3f}",
                (one.value, place),
                (0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        _rows(axes, [name.capitalize() for name in estimates])
        axes.set_title(title)
        axes.margins(x=0.14)
    return drawing.svg


def forest(
    title: str, differences: Mapping[str, Interval], beyond_noise: Collection[str]
) -> str:
    """Differences with confidence intervals around a line at 0, one row each.

    Gains beyond noise are green, losses red, everything else grey.

    Args:
        title: Title of the panel.
        differences: The estimate of each row.
        beyond_noise: The rows whose difference is not noise. With many rows, some
            intervals exclude 0 by chance.

    Returns:
        The SVG element.
    """
    with figure(WIDTH, 0.27 * len(differences) + 0.85) as (drawing, axes):
        axes.axvline(0.0, color=SOFT, linewidth=1.0)
        for place, (name, one) in enumerate(differences.items()):
            if one.value is None:
                continue
            colour = SOFT
            if name in beyond_noise:
                colour = GOOD if one.value > 0 else BAD
            _whisker(axes, place, one, colour, 6.0)
        _rows(axes, [_short(name) for name in differences])
        axes.set_title(title)
        axes.margins(x=0.08)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+.2g}"))
    return drawing.svg


def lines(
    title: str,
    drawn: Sequence[Line],
    *,
    x_label: str,
    percent: bool = False,
    log_x: bool = False,
    log_y: bool = False,
    band: tuple[Sequence[float], Sequence[float], Sequence[float]] | None = None,
) -> str:
    """Lines over a common axis.

    Args:
        title: Title of the panel.
        drawn: The lines.
        x_label: Name of the horizontal axis.
        percent: Whether values are shares.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.
        band: Positions, lower and upper ends of a confidence band of the first line.

    Returns:
        The SVG element.
    """
    with figure(WIDTH, HEIGHT) as (drawing, axes):
        if band is not None:
            x, low, high = (np.asarray(each, np.float64) for each in band)
            axes.fill_between(
                x, low, high, color=drawn[0].colour, alpha=0.18, linewidth=0
            )
        for line in drawn:
            _line(axes, line)
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.grid(axis="y")
        if log_x:
            axes.set_xscale("log")
            plain_log(axes.xaxis)
        elif len(drawn) == 1 and len(drawn[0].x) <= 5:
            axes.set_xticks([float(x) for x in drawn[0].x])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if log_y:
            axes.set_yscale("log")
            plain_log(axes.yaxis)
        elif not percent:
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        else:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, None))
        if any(line.label for line in drawn):
            axes.legend(frameon=False, fontsize=9, handlelength=1.4)
    return drawing.svg


def _line(axes: Axes, line: Line) -> None:
    values = np.array([np.nan if y is None else y for y in line.y], np.float64)
    axes.plot(
        line.x,
        values,
        linestyle="--" if line.dashed else "-",
        color=line.colour,
        linewidth=2.0 if line.strong else 1.0,
        alpha=1.0 if line.strong else 0.5,
        marker="o" if len(values) == 1 else None,
        label=line.label,
    )
    if line.mark is not None:
        place = int(np.abs(np.asarray(line.x, np.float64) - line.mark).argmin())
        axes.plot([line.x[place]], [values[place]], "o", color=line.colour)


def histogram(
    title: str, low: float, high: float, counts: Sequence[int], colour: str
) -> str:
    """Histogram with bins of equal width.

    Args:
        title: Title of the panel.
        low: Lower edge of the first bin.
        high: Upper edge of the last bin.
        counts: Number of values in each bin.
        colour: A placeholder of this module.

    Returns:
        The SVG element.
    """
    with figure(WIDTH, HEIGHT) as (drawing, axes):
        edges = np.linspace(low, high if high > low else low + 1.0, len(counts) + 1)
        shares = np.asarray(counts, np.float64) / max(1, sum(counts))
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.85)
        axes.set_title(title)
        axes.set_xlabel("score")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    return drawing.svg


def tradeoff(
    points: Sequence[Point],
    front: Sequence[Point],
    floors: Mapping[str, Interval],
    y_label: str,
) -> str:
    """Quality against latency, with the Pareto front of several students.

    Args:
        points: The models.
        front: Points of the Pareto front; a line joins them.
        floors: Models without a latency, drawn as horizontal lines.
        y_label: Name of the metric.

    Returns:
        The SVG element.
    """
    with figure(1.1 * WIDTH, 1.2 * HEIGHT) as (drawing, axes):
        axes.set_xscale("log")
        for name, one in floors.items():
            if one.value is not None:
                axes.axhline(
                    one.value,
                    color=colour_of(name),
                    linestyle=":",
                    label=f"{name.capitalize()} (not timed)",
                )
        if len(front) > 1:
            path = sorted(front, key=lambda each: each.latency)
            axes.plot(
                [each.latency for each in path],
                [float(each.quality.value or 0.0) for each in path],
                color=COLOURS["distilled"],
                linewidth=1.2,
                alpha=0.7,
                drawstyle="steps-post",
                label="Pareto front",
            )
        for point in points:
            _point(axes, point, above=_is_highest(point, points))
        axes.set_xlabel("median latency of a query in milliseconds")
        axes.set_title(f"{y_label}: higher and further left is better")
        axes.margins(x=0.22, y=0.16)
        plain_log(axes.xaxis)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid()
        axes.set_axisbelow(True)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9, loc="lower right")
    return drawing.svg


def _is_highest(point: Point, points: Sequence[Point]) -> bool:
    """Whether no other point of about the same latency has a higher quality."""
    near = [p for p in points if 0.8 < p.latency / point.latency < 1.25]
    return max(near, key=lambda p: float(p.quality.value or 0.0)) is point


def _point(axes: Axes, point: Point, above: bool) -> None:
    one = point.quality
    if one.low is not None and one.high is not None:
        axes.plot(
            [point.latency] * 2,
            [one.low, one.high],
            color=point.colour,
            linewidth=2.0 if point.strong else 1.0,
        )
    axes.plot(
        [point.latency],
        [float(one.value or 0.0)],
        "o",
        color=point.colour,
        markersize=8 if point.strong else 6,
        fillstyle="full" if point.strong else "none",
    )
    axes.annotate(
        point.label,
        (point.latency, float(one.value or 0.0)),
        (9, 5) if above else (9, -13),
        textcoords="offset points",
        fontsize=9,
        color=INK if point.strong else SOFT,
    )


def _whisker(axes: Axes, place: int, one: Interval, colour: str, size: float) -> None:
    if one.low is not None and one.high is not None:
        axes.plot([one.low, one.high], [place] * 2, color=colour, linewidth=2.2)
    axes.plot([float(one.value or 0.0)], [place], "o", color=colour, markersize=size)


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """Names of the rows at the left, the first one at the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.75)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def plain_log(axis: Any) -> None:
    """Plain numbers, not powers of ten, on a logarithmic axis."""
    low, high = sorted(axis.get_view_interval())
    few = high / max(low, 1e-300) < 30
    subs = (1.0, 2.0, 5.0) if few else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_locator(NullLocator())


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


class Drawing:
    """The SVG of a chart; it is there after the block of `figure`."""

    svg = ""


@contextmanager
def figure(width: float, height: float) -> Iterator[tuple[Drawing, Axes]]:
    """Context manager that draws a chart in the style of the page.

    Args:
        width: Width in inches.
        height: Height in inches.

    Yields:
        The drawing, whose `svg` is set after the block, and the axes to draw on.
    """
    drawing = Drawing()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The browser's fonts have the characters that Matplotlib's font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        canvas = Figure(figsize=(width, height), layout="constrained")
        canvas.patch.set_alpha(0)
        axes = canvas.subplots()
        axes.patch.set_alpha(0)
        yield drawing, axes
        file = io.StringIO()
        canvas.savefig(file, format="svg", metadata={"Date": None})
    drawing.svg = _themed(file.getvalue())


def _themed(svg: str) -> str:
    """The SVG element alone, with CSS variables for colours and the page's font."""
    svg = svg[svg.index("<svg") :]
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    # Ids of groups would be the same in all charts of the page.
    svg = re.sub(r' id="[A-Za-z.]+\d*_\d+"', "", svg)
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', svg)
    if size is not None:
        width = f'style="max-width:{float(size[1]) * 4 / 3:.0f}px"'
        svg = svg.replace(size[0], width, 1)
    return svg
