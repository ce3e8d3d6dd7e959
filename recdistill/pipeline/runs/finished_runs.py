"""Runs that were made before, read from their folders without running a step."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.atomic import file_checksum
from recdistill.errors import ArtefactError, ReportError
from recdistill.evaluation.report.run_report import Report
from recdistill.pipeline.artefacts.artefact import (
    RECORD,
    Artefact,
    artefact_of_file,
    open_artefact,
)
from recdistill.pipeline.evaluation.evaluated_lists import slices_of
from recdistill.pipeline.steps import STEPS
from recdistill.pipeline.steps.evaluate import DETAILS, LISTS

REPORT = "report.json"


@dataclass(frozen=True)
class EvaluatedRun:
    """A run with a report: its report and what the step `evaluate` stored.

    Attributes:
        folder: The folder of the run.
        report: The report in that folder.
        artefact: The artefact of the step `evaluate` that wrote this report.
    """

    folder: Path
    report: Report
    artefact: Artefact

    @classmethod
    def open(cls, folder: Path) -> EvaluatedRun:
        """Opens the folder of a run.

        Raises:
            ReportError: If it is not the folder of a run, the run has no report yet, or
                the report's artefact is missing.
            ArtefactError: If a record is damaged.
        """
        report = folder / REPORT
        if not report.is_file():
            raise ReportError(_why_no_report(folder))
        artefact = artefact_of_file("evaluate", report)
        if artefact is None:
            raise ReportError(
                f"No artefact of the step `evaluate` in {folder} belongs to its "
                f"{REPORT}. The report was edited, or the artefact was removed. Run "
                "`recdistill evaluate` again with its configuration."
            )
        if DETAILS not in artefact.record["sha256"]:
            raise ReportError(
                f"An earlier version of recdistill evaluated the run {folder} and did "
                "not store what this command needs. Run `recdistill evaluate` again "
                "with its configuration."
            )
        return cls(folder, Report.load(report), artefact)

    def rows(self, model: str) -> pa.Table:
        """The metrics of a model, one row for each test list, in the order of `lists`.

        Raises:
            ArtefactError: If the file is damaged or missing.
        """
        return pq.read_table(self.artefact.file(f"{model}.parquet"))

    def lists(self) -> pa.Table:
        """The test lists, as `evaluated_lists` stores them.

        Raises:
            ArtefactError: If the file is damaged or missing.
        """
        return pq.read_table(self.artefact.file(LISTS))

    def slices(self) -> dict[str, dict[str, Any]]:
        """For each kind of slice and each slice, the lists that belong to it."""
        return slices_of(self.lists())

    def page(self) -> str:
        """The report page, rendered again from what the run stored.

        Raises:
            ArtefactError: If a file is damaged or missing.
            ReportError: If another version stored other content.
        """
        from recdistill.evaluation.report.page import render_page
        from recdistill.evaluation.report.page_details import load_details

        return render_page(self.report, load_details(self.artefact.file(DETAILS)))


@dataclass(frozen=True)
class RunState:
    """A run in a folder of runs, finished or not.

    Attributes:
        name: Name of the run's folder.
        folder: The folder.
        changed: When the run last wrote a result, in UTC.
        state: "finished", or the step that the run has reached.
        report: The report; None if there is none yet, or it cannot be read.
    """

    name: str
    folder: Path
    changed: datetime
    state: str
    report: Report | None

    @property
    def teacher(self) -> str | None:
        """Kind of the teacher, with the members of an ensemble."""
        return None if self.report is None else _teacher(self.report.config)


def list_runs(folder: Path) -> list[RunState]:
    """All runs in a folder, the latest first.

    Args:
        folder: The `workdir` of the runs, or the folder of one run.

    Raises:
        ReportError: If the folder does not exist or has no run.
    """
    if not folder.is_dir():
        raise ReportError(
            f"`FOLDER` must be the folder of runs (`workdir` of their configurations). "
            f"Received: {folder}, which does not exist"
        )
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    runs = [state for path in places if (state := _state(path)) is not None]
    if not runs:
        raise ReportError(
            f"`FOLDER` must be the folder of runs (`workdir` of their configurations). "
            f"Received: {folder}, which has no run"
        )
    return sorted(runs, key=lambda run: (run.changed, run.name), reverse=True)


def _state(folder: Path) -> RunState | None:
    """State of one run; None if the folder is not that of a run."""
    times = _times(folder)
    if not times:
        return None
    report, problem, written = None, None, 0.0
    if (folder / REPORT).is_file():
        written = (folder / REPORT).stat().st_mtime
        try:
            report = Report.load(folder / REPORT)
        except (ReportError, OSError):
            problem = "unreadable report"
    unfinished = [name for name in times if name.startswith(".")]
    latest = max(unfinished, key=lambda name: times[name], default=None)
    if latest is not None and times[latest] > written:
        state = f"in {_step(latest)}"
    elif report is None:
        done = {_step(name) for name in times if not name.startswith(".")}
        state = f"after {[step for step in STEPS if step in done][-1]}"
    else:
        stopped = report.guard is not None and bool(report.guard.fallen)
        unexported = "stopped by the guard" if stopped else "not exported"
        state = "finished" if _is_exported(folder) else unexported
    return RunState(
        name=folder.resolve().name,
        folder=folder,
        changed=datetime.fromtimestamp(max(written, *times.values()), UTC),
        state=problem or state,
        report=report,
    )


def _is_exported(folder: Path) -> bool:
    """Whether there is an export of the student in the run's report."""
    sought = file_checksum(folder / REPORT)
    with suppress(ArtefactError):
        evaluated = {
            artefact.key
            for artefact in map(open_artefact, folder.glob("evaluate-*"))
            if artefact is not None and artefact.record["sha256"].get(REPORT) == sought
        }
        return any(
            artefact is not None
            and artefact.record.get("needs", {}).get("evaluate") in evaluated
            for artefact in map(open_artefact, folder.glob("export-*"))
        )
    return False


def _times(folder: Path) -> dict[str, float]:
    """Time of each artefact of a run by name, finished or unfinished."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if _step(path.name) in STEPS and path.is_dir():
            record = path / RECORD
            found[path.name] = (record if record.is_file() else path).stat().st_mtime
    return found


def _step(name: str) -> str:
    """The step of an artefact's folder: "evaluate" of ".partial-evaluate-0a1b"."""
    return name.removeprefix(".partial-").partition("-")[0]


def _teacher(config: Mapping[str, Any]) -> str:
    teacher = config.get("teacher") or {}
    members = ", ".join(each["kind"] for each in teacher.get("members") or ())
    return f"{teacher.get('kind', '-')}{f' ({members})' if members else ''}"


def _why_no_report(folder: Path) -> str:
    start = "`RUN` must be the folder of a run that was evaluated, such as runs/films. "
    if not folder.exists():
        return f"{start}Received: {folder}, which does not exist"
    state = _state(folder) if folder.is_dir() else None
    if state is None:
        return f"{start}Received: {folder}, which is not the folder of a run"
    return f"{start}Received: {folder}, which has no report; its state: {state.state}"
