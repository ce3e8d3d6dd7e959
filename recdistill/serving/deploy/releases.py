"""Which version of a model gets which traffic: labels moved, old versions removed.

Labels live in the server's `models.config`
(`recdistill.serving.deploy.models_config`), which it
reads again every few seconds. A server moves a label only to a version that it has
loaded; so a promotion to a version that it does not load yet takes two turns: the first
has it loaded, the second, once the server has it, moves the label. Both are the same
call.
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
from recdistill.export.layout import read_manifest, versions
from recdistill.export.publishing import hashes
from recdistill.serving.deploy.models_config import STABLE, Models, read_models

__all__ = ["Release", "ReleaseError", "promote", "prune", "rollback"]

MODELS_CONFIG = "models.config"
"""Beside the folders of all models, unless the caller says otherwise."""


@dataclass(frozen=True)
class Release:
    """What a label did.

    Attributes:
        label: The label.
        version: Where it is, or will be.
        before: Where it was; None for a new label.
        state: "moved"; "loading" where the server must load the version first, and the
            label is still where it was; "unchanged".
        config: The `models.config` that says so.
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
    """Moves a label to a version, if the version's files are those of its manifest.

    Args:
        folder: The folder of the model's versions, `…/name`.
        version: The version; the highest if not given.
        label: The label; a new one is made.
        config: The server's `models.config`; `models.config` beside `folder` if not
            given. Made where it is missing.
        now: Whether to move the label in one turn, though the server may not have
            loaded the version: for a server that is not running.

    Raises:
        ReleaseError: If there is no such version, or its files changed.
        BusyError: If another process is at work there.
        ConfigError: If `models.config` is none.
    """
    path = config or folder.parent / MODELS_CONFIG
    with _holding(folder):
        version = _known(folder, version)
        _check_whole(folder / str(version))
        models = read_models(path) if path.exists() else Models()
        if folder.name not in models.names:
            models = models.with_model(folder.name, str(folder.resolve()))
        served = models[folder.name]
        before = served.labels.get(label)
        if before == version:
            return Release(label, version, before, "unchanged", path)
        loaded = served.versions
        state: Literal["moved", "loading"] = "moved"
        if before is not None and version not in loaded:
            models = models.with_versions(folder.name, {*loaded, version})
            state = "moved" if now else "loading"
        if state == "moved":
            models = models.with_label(folder.name, label, version)
        models.write(path)
    return Release(label, version, before, state, path)


def rollback(
    folder: Path, *, label: str = STABLE, config: Path | None = None
) -> Release:
    """Moves a label back to the version that it left, which is loaded still.

    Args:
        folder: The folder of the model's versions.
        label: The label.
        config: As in `promote`.

    Raises:
        ReleaseError: If there is no such label, or no loaded version without a label.
        BusyError: If another process is at work there.
        ConfigError: If `models.config` is none, or does not have the model.
    """
    path = config or folder.parent / MODELS_CONFIG
    with _holding(folder):
        served = _models(path)[folder.name]
        if label not in served.labels:
            raise ReleaseError(
                f"`label` must be one of {sorted(served.labels)}, the labels in "
                f"{path}. Received: label={label!r}"
            )
        before = served.labels[label]
        # A second rollback takes back the first.
        candidates = served.standby
        lower = [v for v in candidates if v < before]
        if not candidates:
            raise ReleaseError(
                "`label` must have a version to go back to, loaded and without a label "
                f"of its own. Received: label={label!r} at version {before}, loaded: "
                f"{list(served.versions)}"
            )
        version = max(lower or candidates)
        _check_whole(folder / str(version))
        _models(path).with_label(folder.name, label, version).write(path)
    return Release(label, version, before, "moved", path)


def prune(
    folder: Path, keep: int, *, config: Path | None = None, unlabelled: bool = False
) -> list[int]:
    """Removes old versions; those that a server loads, labelled ones first, stay.

    Args:
        folder: The folder of the model's versions.
        keep: How many of the highest versions stay in any case, at least 1.
        config: As in `promote`.
        unlabelled: Whether the server has no `models.config`, and so no labels.

    Returns:
        The removed versions, ascending.

    Raises:
        ReleaseError: If `keep` is below 1, or there is no `models.config` though
            `unlabelled` is not set: what is labelled is then not known.
        BusyError: If another process is at work there.
        ConfigError: If `models.config` is none.
    """
    if keep < 1:
        raise ReleaseError(f"`keep` must be at least 1. Received: keep={keep}")
    path = config or folder.parent / MODELS_CONFIG
    with _holding(folder):
        stay: set[int] = set()
        if not unlabelled:
            models = _models(path)
            if folder.name in models.names:
                served = models[folder.name]
                stay = {*served.versions, *served.labels.values()}
                keep = max(keep, 1 if served.versions else served.latest)
        there = versions(folder)
        gone = [v for v in there[:-keep] if v not in stay]
        for version in gone:
            # In one step, and to a name that no server loads: never half a version.
            aside = folder / f".pruned-{version}"
            os.rename(folder / str(version), aside)
        for aside in folder.glob(".pruned-*"):
            shutil.rmtree(aside)
    return gone


@contextmanager
def _holding(folder: Path) -> Iterator[None]:
    if not folder.is_dir() or not versions(folder):
        raise ReleaseError(
            f"`folder` must hold the versions of a model. Received: {folder}"
        )
    with locked_folder(folder):
        yield


def _models(path: Path) -> Models:
    if not path.exists():
        raise ReleaseError(
            "`config` must be the server's models.config, which has the labels. "
            f"Received: {path}, which does not exist"
        )
    return read_models(path)


def _known(folder: Path, version: int | None) -> int:
    there = versions(folder)
    if version is not None and version not in there:
        raise ReleaseError(
            f"`version` must be one of {there} in {folder}. Received: version={version}"
        )
    return there[-1] if version is None else version


def _check_whole(version: Path) -> None:
    """The files are those that were proven."""
    if not version.is_dir():
        raise ReleaseError(f"`version` must be there still. Received: {version}")
    want = read_manifest(version)["sha256"]
    got = hashes(version)
    if got != want:
        wrong = sorted(n for n in {*got, *want} if got.get(n) != want.get(n))
        raise ReleaseError(
            "`version` must have the files that were proven at export. Received: "
            f"{version} with {wrong[0]} changed, missing or new"
        )
