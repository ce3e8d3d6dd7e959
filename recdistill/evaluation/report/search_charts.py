"""Charts of a search for settings, and of students of different size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.report.page_charts import (
    COLOURS,
    HEIGHT,
    INK,
    SOFT,
    WIDTH,
    figure,
    plain_log,
)

_APART = 3.0
"""Half the distance of a student and its baseline in a chart, in points."""

_DOTS, _BEST = COLOURS["distilled"], COLOURS["baseline"]


def trial_history(
    numbers: Sequence[int],
    values: Sequence[float],
    stopped: Sequence[bool],
    y_label: str,
) -> str:
    """The value of each trial, and the best one so far.

    Args:
        numbers: Numbers of the trials.
        values: Their values.
        stopped: Whether each was stopped early; these are drawn as circles.
        y_label: Name of the metric.

    Returns:
        The SVG element.
    """
    with figure(1.6 * WIDTH, HEIGHT) as (drawing, axes):
        _dots(axes, numbers, values, stopped)
        best, highest = [], -float("inf")
        for value, early in zip(values, stopped, strict=True):
            highest = highest if early else max(highest, value)
            best.append(highest)
        shown = [(n, b) for n, b in zip(numbers, best, strict=True) if b > -1e300]
        axes.step(
            [n for n, _ in shown],
            [b for _, b in shown],
            where="post",
            color=_BEST,
            label="best so far",
        )
        axes.set_title(f"{y_label} on validation")
        axes.set_xlabel("trial")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.grid(axis="y")
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    return drawing.svg


def importance_bars(title: str, shares: Mapping[str, float]) -> str:
    """Horizontal bars of shares, the first one at the top.

    Args:
        title: Title of the panel.
        shares: Share of each row.

    Returns:
        The SVG element.
    """
    with figure(1.3 * WIDTH, 0.32 * len(shares) + 0.8) as (drawing, axes):
        places = range(len(shares))
        axes.barh(places, list(shares.values()), color=_DOTS, height=0.6)
        axes.set_yticks(places, list(shares))
        axes.set_ylim(len(shares) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, 0))
        axes.grid(axis="x")
        axes.set_axisbelow(True)
    return drawing.svg


def values_by_setting(
    title: str,
    settings: Sequence[float] | Sequence[str],
    values: Sequence[float],
    stopped: Sequence[bool],
    *,
    order: Sequence[str] = (),
    log_x: bool = False,
) -> str:
    """The values of all trials over one setting.

    Args:
        title: Title of the panel.
        settings: The setting of each trial: numbers, or one of the names in `order`.
        values: The value of each trial.
        stopped: Whether each was stopped early.
        order: The names of the axis; empty for numbers.
        log_x: Whether the axis of numbers is logarithmic.

    Returns:
        The SVG element.
    """
    with figure(WIDTH, HEIGHT) as (drawing, axes):
        places = [order.index(str(s)) if order else float(s) for s in settings]
        _dots(axes, places, values, stopped)
        if order:
            axes.set_xticks(range(len(order)), order)
            axes.set_xlim(-0.6, len(order) - 0.4)
        elif log_x:
            axes.set_xscale("log")
            plain_log(axes.xaxis)
        axes.set_title(title)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g}"))
        axes.grid(axis="y")
    return drawing.svg


def _dots(
    axes: Axes,
    places: Sequence[float],
    values: Sequence[float],
    stopped: Sequence[bool],
) -> None:
    for early, colour, fill in ((False, _DOTS, "full"), (True, SOFT, "none")):
        chosen = [k for k, each in enumerate(stopped) if each is early]
        axes.plot(
            [places[k] for k in chosen],
            [values[k] for k in chosen],
            "o",
            color=colour,
            fillstyle=fill,
            markersize=5.5,
            alpha=0.85,
            label="stopped early" if early and chosen else None,
        )


@dataclass(frozen=True)
class SizedStudent:
    """A student in a chart of quality against cost.

    Attributes:
        label: Its settings.
        cost: Milliseconds or bytes.
        quality: Its metric.
        baseline: The metric of its baseline.
        on_front: Whether it is on the Pareto front.
        is_knee: Whether it is the knee of the front.
        is_rounded: Whether it is another student with rounded item embeddings. It is
            drawn as a small circle without its name, unless it is the knee.
    """

    label: str
    cost: float
    quality: Interval
    baseline: Interval
    on_front: bool
    is_knee: bool
    is_rounded: bool = False


def quality_against_cost(
    title: str, students: Sequence[SizedStudent], teacher: float | None, x_label: str
) -> str:
    """Quality of students and of their baselines against one cost, with the front.

    Args:
        title: Title of the panel.
        students: The students.
        teacher: The teacher's metric, drawn as a horizontal line; None for no line.
        x_label: Name of the cost.

    Returns:
        The SVG element.
    """
    with figure(1.2 * WIDTH, 1.3 * HEIGHT) as (drawing, axes):
        if teacher is not None:
            colour = COLOURS["teacher"]
            axes.axhline(teacher, color=colour, linestyle=":", label="teacher")
        ordered = sorted(students, key=lambda each: each.cost)
        front = [each for each in ordered if each.on_front]
        axes.plot(
            [each.cost for each in front],
            [each.quality.value or 0.0 for each in front],
            color=_DOTS,
            linewidth=1.0,
            alpha=0.6,
        )
        rounded = [each for each in ordered if each.is_rounded]
        if rounded:
            axes.plot(
                [each.cost for each in rounded],
                [each.quality.value or 0.0 for each in rounded],
                "o",
                color=_DOTS,
                fillstyle="none",
                markersize=3.5,
                label="rounded items",
            )
        whole = [each for each in ordered if not each.is_rounded]
        for place, each in enumerate(whole):
            first = not place
            names = ("baseline", "distilled") if first else (None, None)
            _estimate(axes, each.cost, each.baseline, _BEST, names[0], -_APART)
            _estimate(axes, each.cost, each.quality, _DOTS, names[1], _APART)
        for each in (one for one in ordered if one.is_knee or not one.is_rounded):
            axes.annotate(
                f"{each.label} (knee)" if each.is_knee else each.label,
                (each.cost, each.quality.value or 0.0),
                (7, 4),
                textcoords="offset points",
                fontsize=9,
                color=INK if each.on_front else SOFT,
                fontweight="bold" if each.is_knee else "normal",
            )
        axes.set_xscale("log")
        axes.margins(x=0.2, y=0.12)
        plain_log(axes.xaxis)
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y")
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    return drawing.svg


def _estimate(
    axes: Axes,
    place: float,
    one: Interval,
    colour: str,
    label: str | None,
    shift: float,
) -> None:
    """An estimate with its interval, beside its place by some points."""
    scale = axes.get_figure(root=True).dpi_scale_trans  # type: ignore[union-attr]
    moved = axes.transData + ScaledTranslation(shift / 72, 0, scale)
    look: Any = {"color": colour, "transform": moved}
    ends = [one.value, one.low, one.high]
    axes.update_datalim([(place, end) for end in ends if end is not None])
    if one.low is not None and one.high is not None:
        axes.plot([place] * 2, [one.low, one.high], linewidth=1.2, **look)
    axes.plot([place], [one.value or 0.0], "o", markersize=6, label=label, **look)
