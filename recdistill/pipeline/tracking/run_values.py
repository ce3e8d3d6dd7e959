"""Values of a finished step that are tracked: training curves and report figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.report.run_report import Report
from recdistill.pipeline.artefacts.artefact import Artefact

Values = dict[str, float]


def training_points(record: Mapping[str, Any]) -> Iterator[tuple[str, int, Values]]:
    """Points of all training curves in the record of a step.

    Args:
        record: The record of a step; only those of `baseline`, `teacher` and `distill`
            have curves.

    Yields:
        Name of the training run, training step, and values by name: losses,
        "learning_rate", "gradient_norm" or "validation".
    """
    for result in [*record.get("trials", ()), *record.get("trained", ())]:
        series = result.get("model") or f"learning_rate_{result['learning_rate']:g}"
        curve = result["curve"]
        for place, step in enumerate(curve["step"]):
            values = {k: v[place] for k, v in curve.items() if k != "step"}
            yield series, int(step), {k: v for k, v in values.items() if v is not None}
        for epoch, value in enumerate(result["history"], 1):
            if value is not None:
                yield series, epoch * result["epoch_steps"], {"validation": value}


def report_of(artefact: Artefact) -> Report | None:
    """The report that a step has written; None if it has written none."""
    path = artefact.path / "report.json"
    return Report.load(path) if path.is_file() else None


def report_figures(report: Report) -> Values:
    """The figures of a report by name, such as "distilled/ndcg@10"."""
    figures: Values = {}
    for model, part in report.models.items():
        figures |= _values(model, part.metrics)
        for size, latency in part.latency_ms.items():
            for name in ("p50", "p90", "p99"):
                figures[f"{model}/latency_ms_{name}_{size}"] = getattr(latency, name)
    for name, estimates in (
        ("gap_closed", report.gap_closed),
        ("kept", report.kept),
        ("agreement", report.agreement),
        *report.differences.items(),
    ):
        figures |= _values(name, estimates)
    return figures | {f"speedup/{size}": v for size, v in report.speedup.items()}


def _values(prefix: str, estimates: Mapping[str, Interval]) -> Values:
    return {
        f"{prefix}/{name}": one.value
        for name, one in estimates.items()
        if one.value is not None
    }
