"""A figure of a report page: charts, their content in words, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from recdistill.evaluation.report.terminal_tables import MISSING, number_text


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        headings: Headings of the columns.
        rows: Cells of each row; the first one names the row.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        panels: SVG elements, which stand side by side where there is space.
        alternative: The content in words, for those who cannot see the charts.
        numbers: The numbers of the charts; None if a table next to it has them.
    """

    panels: Sequence[Markup]
    alternative: str
    numbers: Table | None = None


def figure_of(
    panels: Sequence[str], alternative: str, numbers: Table | None = None
) -> Figure:
    """A figure of SVG texts."""
    return Figure([Markup(svg) for svg in panels], alternative, numbers)


def cell(value: float | None) -> str:
    """A number in a table; a dash if there is none."""
    return MISSING if value is None else number_text(value)
