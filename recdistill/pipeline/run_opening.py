"""Opens a run that was evaluated before, without running a step."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from recdistill.atomic import atomic_write
from recdistill.data.dataset import Progress, no_progress
from recdistill.errors import ArtefactError, ReportError
from recdistill.pipeline.config import Config
from recdistill.pipeline.config.config_loading import parse_config
from recdistill.pipeline.finished_runs import EvaluatedRun
from recdistill.pipeline.run_context import RunContext
from recdistill.pipeline.workspace import Artefact, open_artefact

CONFIGURATION = "configuration.json"
"""File in a run's folder: the keys that were set, with absolute paths."""


def save_configuration(config: Config, folder: Path) -> None:
    """Writes the configuration into a run's folder, if it changed."""
    document = _absolute(config)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    target = folder / CONFIGURATION
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        return
    try:
        with atomic_write(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        # A finished run can be opened, and copied, on a disk that is read-only.
        if error.errno != errno.EROFS or not target.is_file():
            raise


def _absolute(config: Config) -> dict[str, Any]:
    """The keys that are set, with absolute paths, for a reader in another folder.

    URLs stay as they are.
    """
    # With all defaults it would not be valid: some keys exclude each other.
    document = config.model_dump(mode="json", exclude_unset=True)
    if isinstance(config.workdir, Path):
        document["workdir"] = os.path.abspath(config.workdir)
    export = document.setdefault("export", {})
    export["path"] = os.path.abspath(config.export.path)
    teacher = document["teacher"]
    for part in (document["dataset"], teacher, *teacher.get("members", ())):
        path = part.get("path")
        if path is not None and "://" not in path:
            part["path"] = os.path.abspath(path)
    return document


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
    config = parse_config(json.loads(path.read_text(encoding="utf-8")), (), str(path))
    run = RunContext(config, progress, lambda message: None)
    run.artefacts["evaluate"] = evaluated.artefact
    unread = [evaluated.artefact]
    while unread:
        for step, key in unread.pop().record["needs"].items():
            if step not in run.artefacts:
                run.artefacts[step] = found = _artefact(folder, step, key)
                unread.append(found)
    return run


def _artefact(folder: Path, step: str, key: str) -> Artefact:
    """An artefact of a run, which may lie in another run of the same folder."""
    name = f"{step}-{key[:12]}"
    for path in (folder / name, *sorted(folder.resolve().parent.glob(f"*/{name}"))):
        found = open_artefact(path)
        if found is not None and found.key == key:
            return found
    raise ArtefactError(
        f"The run {folder} needs the artefact {name}, which is in no folder of "
        f"{folder.resolve().parent}. Run `recdistill evaluate` again with its "
        "configuration."
    )
