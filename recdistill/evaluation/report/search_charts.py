"""Charts of a search for settings: trials, importances, and values by setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from recdistill.evaluation.report.page_charts import (
    COLOURS,
    HEIGHT,
    SOFT,
    WIDTH,
    figure,
    plain_log,
)

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
