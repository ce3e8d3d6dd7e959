"""Writes the configuration of a run into its folder, so that it can be opened again."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from recdistill.atomic import atomic_write
from recdistill.pipeline.config.pipeline_config import Config

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
