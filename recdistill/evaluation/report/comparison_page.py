"""The comparison of models as one self-contained HTML page, without a script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from markupsafe import Markup

from recdistill.evaluation.comparison import Comparison, ModelComparison
from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.paired_tests import FEWEST_RESAMPLES, p_value_text
from recdistill.evaluation.report.comparison_tables import NOTE, slice_label
from recdistill.evaluation.report.page_template import page_style, page_template
from recdistill.evaluation.report.terminal_tables import (
    MISSING,
    interval_text,
    metric_label,
)

_WIDTH, _MIDDLE = 160, 80  # of a drawn interval, in units of the SVG


def render_comparison_page(comparison: Comparison, facts: Mapping[str, str]) -> str:
    """Renders the page.

    Args:
        comparison: The comparison.
        facts: What was compared, by name.

    Returns:
        The HTML document.
    """
    return page_template("comparison_page.html.jinja").render(
        comparison=comparison,
        facts=facts,
        slice_resamples=min(comparison.resamples, FEWEST_RESAMPLES),
        note=NOTE,
        style=Markup(page_style()),
        label=metric_label,
        slice_label=slice_label,
        number=interval_text,
        mean=lambda one: MISSING if one.value is None else f"{one.value:.4f}",
        p=lambda value: p_value_text(value).removeprefix("= "),
        bar=_interval_bar,
        scales=[_scales(pair) for pair in comparison.pairs],
        MISSING=MISSING,
    )


def _scales(pair: ModelComparison) -> tuple[float, float]:
    """The largest absolute ends of the intervals: of all metrics, and of all slices."""
    return (
        _largest(test.difference for test in pair.metrics.values()),
        _largest(each.test.difference for each in pair.slices),
    )


def _largest(intervals: Iterable[Interval]) -> float:
    ends = [
        abs(end)
        for one in intervals
        for end in (one.value, one.low, one.high)
        if end is not None
    ]
    return max(ends, default=0.0)


def _interval_bar(one: Interval, scale: float) -> Markup:
    """A difference with its interval, drawn left and right of zero."""
    if one.value is None or not scale:
        return Markup("")

    def place(value: float) -> float:
        return round(_MIDDLE + value / scale * (_MIDDLE - 6), 1)

    low, high = (one.value if end is None else end for end in (one.low, one.high))
    colour = "--soft"
    if one.excludes(0.0):
        colour = "--good" if one.value > 0 else "--bad"
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} 16" width="{_WIDTH}" height="16" '
        'aria-hidden="true">'
        f'<path d="M{_MIDDLE} 0V16" stroke="var(--line)" stroke-width="1"/>'
        f'<path d="M{place(low)} 8H{place(high)}" stroke="var({colour})" '
        'stroke-width="2.5" stroke-linecap="round"/>'
        f'<circle cx="{place(one.value)}" cy="8" r="4" fill="var({colour})"/></svg>'
    )
