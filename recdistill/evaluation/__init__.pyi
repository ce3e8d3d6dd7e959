from .intervals import (
    Interval,
    Slice,
    bootstrap,
    gap_closed,
    kept,
    paired_difference,
)
from .report.run_report import Report
from .rows import ListRows, agreement, measure

__all__ = [
    "Interval",
    "ListRows",
    "Report",
    "Slice",
    "agreement",
    "bootstrap",
    "gap_closed",
    "kept",
    "measure",
    "paired_difference",
]
