"""Files of a sweep: its document, its page, and the settings of the knee."""

from __future__ import annotations

from typing import Any

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.report.sweep_page import render_sweep_page, sweep_verdict
from recdistill.pipeline.variants.changed_settings import (
    with_settings,
    write_config,
    write_result,
)
from recdistill.pipeline.variants.student_sweep import (
    FOLDER,
    MeasuredStudent,
    SweepResult,
)


def write_sweep(result: SweepResult) -> dict[str, Any]:
    """Writes `sweep.json`, `sweep.html` and `knee.toml` into the sweep's folder.

    Args:
        result: The result of a sweep.

    Returns:
        The document of the sweep, which is also in `sweep.json`.
    """
    config = result.config
    folder = config.local_workdir / config.name / FOLDER
    files = {
        "knee": folder / "knee.toml",
        "page": folder / "sweep.html",
        "document": folder / "sweep.json",
    }
    found = {
        "name": config.name,
        "metric": result.metric,
        "lists": result.lists,
        "teacher": result.teacher,
        "knee": result.knee,
        "front": list(result.front),
        "students": [_student(each) for each in result.students],
        "environment": dict(result.environment),
        "files": {name: str(path) for name, path in files.items()},
    }
    knee = with_settings(config, result.students[result.knee].settings)
    comment = f"{sweep_verdict(found)} Written by `recdistill sweep`."
    named = knee.model_copy(update={"name": f"{config.name}_knee"})
    write_config(named, files["knee"], comment)
    write_result(files, render_sweep_page(found), found)
    return found


def _student(student: MeasuredStudent) -> dict[str, Any]:
    return {
        "settings": dict(student.settings),
        "quality": _estimate(student.quality),
        "baseline": _estimate(student.baseline),
        "gain": _estimate(student.gain),
        "parameters": student.parameters,
        "measured": dict(student.measured),
        "gate": student.gate,
    }


def _estimate(one: Interval) -> dict[str, Any]:
    return {
        "value": one.value or 0.0,
        "ci": None if one.low is None else [one.low, one.high],
    }
