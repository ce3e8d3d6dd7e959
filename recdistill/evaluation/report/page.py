"""The report page (`report.html`): a run's report as one self-contained HTML file.

The page needs no network and no other file; its content security policy forbids both.
It follows the light or dark theme of the system, and can be printed.
"""

from __future__ import annotations

import json
from typing import Any, get_args

from markupsafe import Markup

from recdistill.evaluation.paired_tests import LEVEL, p_value_text
from recdistill.evaluation.report.page_details import PageDetails
from recdistill.evaluation.report.page_figures import figures
from recdistill.evaluation.report.page_template import page_template
from recdistill.evaluation.report.receipt import (
    candidate_set,
    evaluated_lists,
    largest_speedup,
    retrieval_line,
    seeds_line,
    verdict,
)
from recdistill.evaluation.report.run_report import ModelName, Report
from recdistill.evaluation.report.terminal_tables import (
    BYTES,
    COUNTS,
    MISSING,
    metric_label,
    number_text,
    short_number,
    soft_targets_line,
    teacher_line,
)

MODELS: tuple[str, ...] = get_args(ModelName)

_SECTIONS = {
    "quality": "Quality",
    "tradeoff": "Quality and latency",
    "slices": "Slices",
    "examples": "See for yourself",
    "beyond-accuracy": "Beyond accuracy",
    "agreement": "Agreement",
    "latency": "Latency",
    "training": "Training",
    "scores": "Teacher's scores",
    "data": "Data",
    "reproduce": "Environment",
}
"""Titles of the sections in the navigation, by anchor."""


def render_page(report: Report, details: PageDetails | None = None) -> str:
    """Renders the report page.

    Args:
        report: The report.
        details: Further content of the page.

    Returns:
        The HTML document.
    """
    details = details or PageDetails()
    parts = report.models.values()
    metrics = list(next(iter(parts)).metrics) if parts else []
    template = page_template("page.html.jinja")
    content: dict[str, Any] = {
        "report": report,
        "details": details,
        "models": [name for name in MODELS if name in report.models],
        "metrics": metrics,
        "verdict": verdict(report, metrics[0]) if metrics else "",
        "figures": figures(report, details),
        "examples": Markup(_script_json([vars(each) for each in details.examples])),
        "teacher": teacher_line(report.teacher.model_dump()) if report.teacher else "",
        "soft_targets": (
            soft_targets_line(report.soft_targets.model_dump())
            if report.soft_targets
            else None
        ),
        "seeds": (
            seeds_line(report.seeds, metrics[0]) if report.seeds and metrics else None
        ),
        "config": json.dumps(report.config, indent=2, ensure_ascii=False),
        "MISSING": MISSING,
        "label": metric_label,
        "p": lambda value: p_value_text(value).removeprefix("= "),
        "number": lambda value, spec: format(value, spec).replace(
            "-", "\N{MINUS SIGN}"
        ),
        "count": lambda value: short_number(value, COUNTS),
        "size": lambda value: short_number(value, BYTES),
        "short": number_text,
        "speedup": largest_speedup(report.speedup) if report.speedup else None,
        "candidates": candidate_set(report.protocol.candidates, report.dataset.items),
        "evaluated": evaluated_lists(report.protocol),
        "retrieval": retrieval_line(report),
        "level": LEVEL,
        "beyond_noise": report.guard.beyond_noise if report.guard else set(),
        "slice_metric": _slice_metric(report),
        "timed": any(part.latency_ms for part in parts),
        "largest": _largest(report),
        "unknown": _unknown(report),
    }
    page = template.render(content, sections=[])
    sections = [(k, v) for k, v in _SECTIONS.items() if f'<section id="{k}"' in page]
    return template.render(content, sections=sections).lstrip()


def _slice_metric(report: Report) -> str | None:
    """The metric of the slices: the first metric of the run."""
    for part in report.models.values():
        for slices in part.slices.values():
            for some in slices.values():
                return next(iter(some.metrics), None)
    return None


def _largest(report: Report) -> str:
    """The largest number of candidates with a latency, as text."""
    sizes = [int(n) for part in report.models.values() for n in part.latency_ms]
    return f"{max(sizes):,}" if sizes else MISSING


def _unknown(report: Report) -> dict[str, dict[str, float]]:
    """Shares of unknown values by feature and part, without features that have none."""
    found: dict[str, dict[str, float]] = {}
    for part, shares in report.dataset.unknown.items():
        for feature, share in shares.items():
            found.setdefault(feature, {})[part] = share
    return {name: shares for name, shares in found.items() if any(shares.values())}


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element around it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
