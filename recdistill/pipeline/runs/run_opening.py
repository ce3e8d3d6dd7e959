"""Opens a run that was evaluated before, without running a step."""

from __future__ import annotations

import json
from pathlib import Path

from recdistill.allocation import return_large_arrays
from recdistill.data.dataset import Progress, no_progress
from recdistill.errors import ArtefactError, ReportError
from recdistill.pipeline.artefacts.artefact import Artefact, find_artefact
from recdistill.pipeline.config.config_loading import parse_config
from recdistill.pipeline.config.config_saving import CONFIGURATION
from recdistill.pipeline.run_context import RunContext
from recdistill.pipeline.runs.finished_runs import EvaluatedRun


def open_run(folder: Path, progress: Progress = no_progress) -> RunContext:
    """Opens a run that was evaluated: its configuration and its artefacts.

    Args:
        folder: The folder of the run.
        progress: Callback for progress.

    Raises:
        ReportError: If it is not the folder of a run, or the run has no report.
        ArtefactError: If an artefact is missing or damaged.
        ConfigError: If its configuration does not fit this version of recdistill.
    """
    evaluated = EvaluatedRun.open(folder)
    path = folder / CONFIGURATION
    if not path.is_file():
        raise ReportError(
            f"The run {folder} has no file {CONFIGURATION}, which newer versions of "
            "recdistill write. Run `recdistill evaluate` again with its configuration."
        )
    document = json.loads(path.read_text(encoding="utf-8"))
    for section in ("engine", "tracking"):  # Of the run, not of what it has made.
        document.pop(section, None)
    config = parse_config(document, (), str(path))
    run = RunContext(config, progress, lambda message: None)
    run.artefacts["evaluate"] = evaluated.artefact
    unread = [evaluated.artefact]
    while unread:
        for step, key in unread.pop().record["needs"].items():
            if step not in run.artefacts:
                run.artefacts[step] = found = _artefact(folder, step, key)
                unread.append(found)
    return_large_arrays(run.artefacts["prepare"].record["items"])
    return run


def _artefact(folder: Path, step: str, key: str) -> Artefact:
    """An artefact of a run, which may lie in another run of the same folder."""
    found = find_artefact(folder, step, key)
    if found is not None:
        return found
    raise ArtefactError(
        f"The run {folder} needs the artefact {step}-{key[:12]}, which is in no folder "
        f"of {folder.resolve().parent}. Run `recdistill evaluate` again with its "
        "configuration."
    )
