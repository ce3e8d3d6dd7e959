"""Releases: move a label between versions, roll back, and remove old versions.

Labels are in the server's `models.config` (`recdistill.serving.deploy.models_config`),
which the server reloads every few seconds. A server moves a label only to a version
that it has loaded; if the file names another one, it rejects the whole file each time
it reads it, and loads no further versions. A promotion to another version therefore
takes two calls of `promote`: the first one makes the server load the version, and the
second one asks the server whether it has done so, and moves the label.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recdistill.atomic import locked_folder, remove
from recdistill.errors import ReleaseError
from recdistill.export.layout import verified_manifest, versions
from recdistill.serving.client.client import Client
from recdistill.serving.client.protocols import VersionStatus
from recdistill.serving.client.serving_errors import NotFoundError
from recdistill.serving.deploy.model_server import MODELS_FILE
from recdistill.serving.deploy.models_config import (
    STABLE,
    Models,
    ServedModel,
    read_models,
)

__all__ = ["Release", "promote", "prune", "rollback"]

_ANSWER_S, _LOCK_S = 10.0, 30.0
"""Longest waits for a server's answer and for the lock of `models.config`."""

State = Literal["moved", "loading", "unchanged"]


@dataclass(frozen=True)
class Release:
    """Result of moving a label.

    Attributes:
        label: The label.
        version: The version that has, or will have, the label.
        before: The version that had it before; None for a new label.
        state: "moved"; "loading" if a server has not loaded the version yet; or
            "unchanged".
        config: The `models.config` with the label.
    """

    label: str
    version: int
    before: int | None
    state: State
    config: Path


def promote(
    folder: Path,
    version: int | None = None,
    *,
    label: str = STABLE,
    config: Path | None = None,
    endpoints: Sequence[str] = (),
    now: bool = False,
) -> Release:
    """Moves a label to a version whose files match its manifest.

    Args:
        folder: Folder of the model's versions, `…/name`.
        version: The version; None for the highest.
        label: The label; it is created if it does not exist.
        config: The server's `models.config`; None for `models.config` next to
            `folder`. It is created if it does not exist.
        endpoints: The servers that read `config`, such as "localhost:8500". An existing
            label moves only if each of them has loaded the version.
        now: Whether to move the label without asking, because no server is running.

    Raises:
        ReleaseError: If the version does not exist, a server could not load it, an
            existing label is to move and neither `endpoints` nor `now` is given, or
            `config` has the model under another name, or does not have it and the path
            of its folder on the server is not known.
        NotAnExportError: If the version has no manifest.
        ArtefactError: If the files of the version have changed.
        ServingError: If a server does not answer.
        BusyError: If another process is using the folder.
        ConfigError: If `models.config` or an endpoint is invalid.
    """
    if now and endpoints:
        raise ReleaseError(
            "`--now` and `--endpoint` must not both be given: `--now` states that no "
            f"server is running. Received: {', '.join(endpoints)}"
        )
    folder, path = _absolute(folder), _config_path(folder, config)
    with _locked(folder):
        version = _known(folder, version)
        _check_files(folder / str(version))
        states = {server: _state(server, folder.name, version) for server in endpoints}
        with _locked_config(path, folder):
            models = read_models(path) if path.exists() else Models()
            _check_name(models, folder, path)
            if folder.name not in models.names:
                _check_paths(models, folder, path)
                models = models.with_model(folder.name, str(folder.resolve()))
            served = models[folder.name]
            before = served.labels.get(label)
            named = version in served.versions
            loaded = _loaded(states, version, named)
            if before == version:
                state: State = "unchanged" if loaded else "loading"
            elif before is None or now:
                state = "moved"
            elif not named:
                # Even if it is loaded: the server may be about to unload it.
                state = "loading"
            elif not endpoints:
                raise ReleaseError(_unasked(label, version))
            else:
                state = "moved" if loaded else "loading"
            if before is not None and not named:
                models = models.with_versions(folder.name, {*served.versions, version})
            if state == "moved":
                models = models.with_label(folder.name, label, version)
            if state == "moved" or not (named or before == version):
                models.write(path)
    return Release(label, version, before, state, path)


def rollback(
    folder: Path,
    *,
    label: str = STABLE,
    config: Path | None = None,
    endpoints: Sequence[str] = (),
) -> Release:
    """Moves a label back to the highest lower version that is still loaded.

    The version that the last `promote` left is still loaded. A label never moves
    forward, so that a rollback can be repeated if it is not certain that it finished.

    Args:
        folder: Folder of the model's versions.
        label: The label.
        config: As in `promote`.
        endpoints: Servers that are asked whether they have loaded that version; none
            to rely on `models.config`.

    Raises:
        ReleaseError: If the label does not exist, there is no such version, or several
            of a model with several labels, a server has not loaded it, its files are
            missing, or `config` has the model under another name.
        NotAnExportError: If the version has no manifest.
        ArtefactError: If the files of the version have changed.
        ServingError: If a server does not answer.
        BusyError: If another process is using the folder.
        ConfigError: If `models.config` is invalid or does not have the model.
    """
    folder, path = _absolute(folder), _config_path(folder, config)
    with _locked(folder), _locked_config(path, folder):
        models = _models(path)
        _check_name(models, folder, path)
        served = models[folder.name]
        if label not in served.labels:
            raise ReleaseError(
                f"`label` must be one of {sorted(served.labels)}, the labels in "
                f"{path}. Received: label={label!r}"
            )
        before = served.labels[label]
        lower = [v for v in served.standby if v < before]
        if not lower:
            raise ReleaseError(
                "`label` must have a lower version that is loaded and has no label. "
                f"Received: label={label!r} at version {before}, loaded: "
                f"{list(served.versions)}. If an earlier rollback was interrupted, it "
                "has finished; to move the label to another version, use `promote`."
            )
        if len(lower) > 1 and len(served.labels) > 1:
            raise ReleaseError(
                "`label` must have left the only lower version that is loaded and has "
                f"no label. Received: label={label!r} at version {before}, and the "
                f"versions {lower}, some of which another label has left. Move the "
                "label with `promote` and the number of the version."
            )
        version = max(lower)
        _check_files(folder / str(version))
        states = {server: _state(server, folder.name, version) for server in endpoints}
        if not _loaded(states, version, named=True):
            raise ReleaseError(
                f"`--endpoint` must name servers that have loaded version {version}, "
                "because a label can only move to a loaded version. Received: "
                f"{', '.join(endpoints)}, where it is not loaded. Use `promote` with "
                "this version, which makes the server load it first."
            )
        models.with_label(folder.name, label, version).write(path)
    return Release(label, version, before, "moved", path)


def prune(
    folder: Path, keep: int, *, config: Path | None = None, unlabelled: bool = False
) -> list[int]:
    """Removes old versions, except those that `models.config` loads or labels.

    A version that is a link is removed without its target. The target of a link that
    stays is not removed.

    Args:
        folder: Folder of the model's versions.
        keep: Number of highest versions to keep in any case, at least 1.
        config: As in `promote`.
        unlabelled: Whether the server has no `models.config` and therefore no labels.

    Returns:
        The removed versions, ascending.

    Raises:
        ReleaseError: If `keep` is below 1, or `unlabelled` is False and `models.config`
            does not exist or has no model in this folder.
        BusyError: If another process is using the folder.
        ConfigError: If `models.config` is invalid.
    """
    if keep < 1:
        raise ReleaseError(f"`keep` must be at least 1. Received: keep={keep}")
    folder, path = _absolute(folder), _config_path(folder, config)
    with _locked(folder):
        for leftover in folder.glob(".pruned-*"):  # Of a call that was killed.
            remove(leftover)
        stay: set[int] = set()
        if not unlabelled:
            models = _models(path)
            known = _served_from(models, folder)
            if not known:
                raise ReleaseError(
                    f"`config` must have a model in a folder called {folder.name!r}, "
                    f"so that none of its versions in use is removed. Received: {path} "
                    f"with {models.names}. If the server has no models.config, use "
                    "--unlabelled."
                )
            for served in known:
                if served.every:
                    stay.update(versions(folder))
                stay |= {*served.versions, *served.labels.values()}
                keep = max(keep, 1 if served.versions else served.latest)
        existing = versions(folder)
        stay |= set(existing[-keep:])
        linked = {path for v in stay for path in _targets(folder / str(v))}
        real = folder.resolve()
        gone = [v for v in existing if v not in stay and real / str(v) not in linked]
        for version in gone:
            # Renamed first, so that no server sees an incomplete version.
            aside = folder / f".pruned-{version}"
            os.rename(folder / str(version), aside)
            remove(aside)
    return gone


def _targets(path: Path) -> Iterator[Path]:
    """The paths to which a link leads, one after another."""
    while path.is_symlink():
        target = path.parent / os.readlink(path)
        path = target.parent.resolve() / target.name
        yield path


def _absolute(folder: Path) -> Path:
    """The folder with its own name, even for "." and ".." and for a link."""
    return Path(os.path.abspath(folder))


def _config_path(folder: Path, config: Path | None) -> Path:
    """The file itself if `models.config` is a link, because the file is replaced."""
    path = config or _absolute(folder).parent / MODELS_FILE
    return path.resolve() if path.is_symlink() else path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if not folder.is_dir() or not versions(folder):
        raise ReleaseError(
            f"`folder` must have the versions of a model. Received: {folder}"
        )
    with locked_folder(folder):
        yield


@contextmanager
def _locked_config(path: Path, folder: Path) -> Iterator[None]:
    """Locks `models.config`, which the models of a server share.

    Args:
        path: The file. The lock is that of its folder.
        folder: The model's folder, which is locked already.
    """
    if not path.parent.is_dir():
        raise ReleaseError(
            "`config` must be a file in an existing folder. "
            f"Received: {path}; the folder does not exist"
        )
    if path.parent.samefile(folder):
        yield
        return
    with locked_folder(path.parent, wait_s=_LOCK_S):
        yield


def _state(endpoint: str, name: str, version: int) -> VersionStatus | None:
    """State of a version on a server; None if the server does not know the version."""
    with Client(endpoint, name, deadline_s=_ANSWER_S) as client:
        try:
            found = client.versions()
        except NotFoundError:
            return None
    return next((each for each in found if each.version == version), None)


def _loaded(
    states: Mapping[str, VersionStatus | None], version: int, named: bool
) -> bool:
    """Whether all servers have loaded the version.

    Args:
        states: State of the version by server.
        version: The version.
        named: Whether `models.config` already makes the servers load it. If not, the
            error of an earlier attempt does not count.

    Raises:
        ReleaseError: If a server tried to load it and failed.
    """
    for endpoint, state in states.items():
        if named and state is not None and state.state == "END" and state.error:
            raise ReleaseError(
                f"`version` must be one that the server can load. Received: {version}; "
                f"{endpoint} reports: {state.error}. Release another version, or "
                "remove the cause and restart the server."
            )
    return all(s is not None and s.state == "AVAILABLE" for s in states.values())


def _unasked(label: str, version: int) -> str:
    return (
        "`--endpoint` must name the running server, such as --endpoint localhost:8500, "
        f"to ask whether it has loaded version {version}: if the label {label!r} moved "
        "to a version that is not loaded, the server would reject models.config until "
        "a rollback. Received: no endpoint. If no server is running, use --now."
    )


def _served_from(models: Models, folder: Path) -> list[ServedModel]:
    """The models whose versions are in a folder, or in the one that it links to."""
    names = dict.fromkeys((folder.name, folder.resolve().name))
    return [each for name in names for each in models.in_folder(name)]


def _check_name(models: Models, folder: Path, path: Path) -> None:
    """Raises an error if a folder is served, but not under its own name."""
    served = [
        each
        for each in _served_from(models, folder)
        # A folder of this name elsewhere on this machine is another one.
        if not (place := Path(each.base_path)).exists() or place.samefile(folder)
    ]
    names = list(dict.fromkeys(each.name for each in served))
    if names and folder.name not in names:
        raise ReleaseError(
            f"`config` must serve {folder} under the name of the folder, "
            f"{folder.name!r}. Received: {path}, which serves it as "
            f"{' and '.join(map(repr, names))}. Rename the model in that file, or give "
            f"a link of that name to the folder, such as {folder.parent / names[0]}."
        )


def _check_paths(models: Models, folder: Path, path: Path) -> None:
    """Raises an error unless a file's models have the paths of this machine."""
    others = [models[name].base_path for name in models.names]
    if others and not any(Path(other).is_dir() for other in others):
        raise ReleaseError(
            f"`config` must have the model {folder.name!r}, because its other models "
            "have paths that do not exist on this machine, so the path of the folder "
            f"on the server is not known. Received: {path} with {others[0]}. Add the "
            "model with its `base_path` to that file first."
        )


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
