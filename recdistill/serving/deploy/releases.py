"""Releases: move a label between versions, roll back, and remove old versions.

Labels are in the server's `models.config` (`recdistill.serving.deploy.models_config`),
which the server reloads every few seconds. A server moves a label only to a version
that it has loaded. A promotion to another version therefore takes two calls of
`promote`: the first one makes the server load the version, and the second one, after it
has done so, moves the label.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recdistill.atomic import locked_folder
from recdistill.errors import ReleaseError
from recdistill.export.layout import verified_manifest, versions
from recdistill.serving.deploy.model_server import MODELS_FILE
from recdistill.serving.deploy.models_config import STABLE, Models, read_models

__all__ = ["Release", "promote", "prune", "rollback"]


@dataclass(frozen=True)
class Release:
    """Result of moving a label.

    Attributes:
        label: The label.
        version: The version that has, or will have, the label.
        before: The version that had it before; None for a new label.
        state: "moved"; "loading" if the server must load the version first and the
            label has not moved yet; or "unchanged".
        config: The `models.config` with the label.
    """

    label: str
    version: int
    before: int | None
    state: Literal["moved", "loading", "unchanged"]
    config: Path


def promote(
    folder: Path,
    version: int | None = None,
    *,
    label: str = STABLE,
    config: Path | None = None,
    now: bool = False,
) -> Release:
    """Moves a label to a version whose files match its manifest.

    Args:
        folder: Folder of the model's versions, `…/name`.
        version: The version; None for the highest.
        label: The label; it is created if it does not exist.
        config: The server's `models.config`; None for `models.config` next to
            `folder`. It is created if it does not exist.
        now: Whether to move the label at once even if the server may not have loaded
            the version, for a server that is not running.

    Raises:
        ReleaseError: If the version does not exist or its files have changed.
        NotAnExportError: If the version has no manifest.
        BusyError: If another process is using the folder.
        ConfigError: If `models.config` is invalid.
    """
    path = config or folder.parent / MODELS_FILE
    with _locked(folder):
        version = _known(folder, version)
        _check_files(folder / str(version))
        models = read_models(path) if path.exists() else Models()
        if folder.name not in models.names:
            models = models.with_model(folder.name, str(folder.resolve()))
        served = models[folder.name]
        before = served.labels.get(label)
        if before == version:
            return Release(label, version, before, "unchanged", path)
        state: Literal["moved", "loading"] = "moved"
        if before is not None and version not in served.versions:
            models = models.with_versions(folder.name, {*served.versions, version})
            state = "moved" if now else "loading"
        if state == "moved":
            models = models.with_label(folder.name, label, version)
        models.write(path)
    return Release(label, version, before, state, path)


def rollback(
    folder: Path, *, label: str = STABLE, config: Path | None = None
) -> Release:
    """Moves a label back to the version that it left, which is still loaded.

    A second rollback reverts the first.

    Args:
        folder: Folder of the model's versions.
        label: The label.
        config: As in `promote`.

    Raises:
        ReleaseError: If the label does not exist, no loaded version is without a label,
            or the version's files have changed.
        NotAnExportError: If the version has no manifest.
        BusyError: If another process is using the folder.
        ConfigError: If `models.config` is invalid or does not have the model.
    """
    path = config or folder.parent / MODELS_FILE
    with _locked(folder):
        models = _models(path)
        served = models[folder.name]
        if label not in served.labels:
            raise ReleaseError(
                f"`label` must be one of {sorted(served.labels)}, the labels in "
                f"{path}. Received: label={label!r}"
            )
        before = served.labels[label]
        candidates = served.standby
        lower = [v for v in candidates if v < before]
        if not candidates:
            raise ReleaseError(
                "`label` must have a previous version that is loaded and has no label. "
                f"Received: label={label!r} at version {before}, loaded: "
                f"{list(served.versions)}"
            )
        version = max(lower or candidates)
        _check_files(folder / str(version))
        models.with_label(folder.name, label, version).write(path)
    return Release(label, version, before, "moved", path)


def prune(
    folder: Path, keep: int, *, config: Path | None = None, unlabelled: bool = False
) -> list[int]:
    """Removes old versions, except those that `models.config` loads or labels.

    Args:
        folder: Folder of the model's versions.
        keep: Number of highest versions to keep in any case, at least 1.
        config: As in `promote`.
        unlabelled: Whether the server has no `models.config` and therefore no labels.

    Returns:
        The removed versions, ascending.

    Raises:
        ReleaseError: If `keep` is below 1, or `models.config` does not exist and
            `unlabelled` is False.
        BusyError: If another process is using the folder.
        ConfigError: If `models.config` is invalid.
    """
    if keep < 1:
        raise ReleaseError(f"`keep` must be at least 1. Received: keep={keep}")
    path = config or folder.parent / MODELS_FILE
    with _locked(folder):
        stay: set[int] = set()
        if not unlabelled:
            models = _models(path)
            if folder.name in models.names:
                served = models[folder.name]
                stay = {*served.versions, *served.labels.values()}
                keep = max(keep, 1 if served.versions else served.latest)
        existing = versions(folder)
        gone = [v for v in existing[:-keep] if v not in stay]
        for version in gone:
            # Renamed first, so that no server sees an incomplete version.
            aside = folder / f".pruned-{version}"
            os.rename(folder / str(version), aside)
        for aside in folder.glob(".pruned-*"):
            shutil.rmtree(aside)
    return gone


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if not folder.is_dir() or not versions(folder):
        raise ReleaseError(
            f"`folder` must have the versions of a model. Received: {folder}"
        )
    with locked_folder(folder):
        yield


def _models(path: Path) -> Models:
    if not path.exists():
        raise ReleaseError(
            "`config` must be the server's models.config with the labels. "
            f"Received: {path}, which does not exist"
        )
    return read_models(path)


def _known(folder: Path, version: int | None) -> int:
    existing = versions(folder)
    if version is not None and version not in existing:
        raise ReleaseError(
            f"`version` must be one of {existing} in {folder}. "
            f"Received: version={version}"
        )
    return existing[-1] if version is None else version


def _check_files(version: Path) -> None:
    """Raises an error unless the files match the checksums in the manifest."""
    if not version.is_dir():
        raise ReleaseError(
            f"`version` must exist. Received: {version}, which was removed"
        )
    verified_manifest(version)
