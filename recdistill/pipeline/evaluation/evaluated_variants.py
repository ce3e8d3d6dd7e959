"""Earlier reports of the same evaluation with other settings, for the Pareto front."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recdistill.errors import ReportError
from recdistill.evaluation.report.run_report import ModelPart, Report

MOST = 24
"""Largest number of variants in one report."""

_IGNORED = {"evaluate", "sweep", "tune", "guard", "name", "distill.gate"}
"""Sections and keys of the configuration that do not change the student."""


def evaluated_variants(workdir: Path, report: Report) -> dict[str, ModelPart]:
    """Distilled students in a work folder that can be compared with that of a report.

    Their reports have the same data, protocol and machine, and other settings.
    A sweep is a number of runs with `--set` or with configurations of their own.

    Args:
        workdir: Folder of the artefacts of all runs.
        report: The report to compare with.

    Returns:
        Students by the settings that differ, such as "student.dim=64".
    """
    own = _settings(report.config)
    found = {}
    for path in sorted(workdir.glob("*/evaluate-*/report.json")):
        other = _comparable(path, report)
        if other is None:
            continue
        theirs = _settings(other.config)
        changed = sorted(
            key for key in own.keys() | theirs.keys() if own.get(key) != theirs.get(key)
        )
        if changed:
            label = ", ".join(f"{key}={theirs.get(key, 'default')}" for key in changed)
            student = other.models["distilled"]
            found[label] = student.model_copy(update={"slices": {}})
    return dict(list(found.items())[:MOST])


def _comparable(path: Path, report: Report) -> Report | None:
    """The report of a file, if it describes the same evaluation on this machine."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["dataset"]["fingerprint"] != report.dataset.fingerprint:
            return None
        other = Report.load(path)
    except (OSError, ValueError, KeyError, TypeError, ReportError):
        return None  # of an older version, or damaged
    same_machine = all(
        other.environment.get(key) == report.environment.get(key)
        for key in ("cpu", "cores")
    )
    same = other.protocol == report.protocol and same_machine
    return other if same and "distilled" in other.models else None


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration by dotted key."""

    def flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for name, each in value.items():
                yield from flat(each, f"{key}.{name}" if key else name)
        else:
            yield key, value

    return {
        key: value
        for key, value in flat(config, "")
        if not {key, key.partition(".")[0]} & _IGNORED
    }
