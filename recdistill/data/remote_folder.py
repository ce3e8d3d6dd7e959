"""Local copies of folders in object storage, which fsspec URLs name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec

from recdistill.atomic import atomic_write, fingerprint, locked_folder
from recdistill.data.dataset import Progress, no_progress
from recdistill.data.downloads import cache_folder
from recdistill.errors import FetchError

STATES = ".states.json"
"""File in a copy with the state that each file had in the storage when it was copied.

Readers ignore names that begin with a dot.
"""

WAIT_S = 24 * 3600.0
"""Seconds to wait for another process that copies the same folder."""


def local_copy(
    url: str, cache_dir: str | Path | None = None, progress: Progress = no_progress
) -> Path:
    """Local copy of a folder that an fsspec URL names, such as `s3://bucket/tables`.

    Files are copied atomically. A file whose state in the storage (size, time, ETag)
    has not changed since it was copied is not copied again, and a file that is no
    longer in the storage is removed.

    Args:
        url: URL of the folder.
        cache_dir: Cache folder; by default `$RECDISTILL_CACHE`, else the user's cache.
        progress: Callback for progress, in bytes.

    Raises:
        FetchError: If the folder cannot be read.
    """
    folder = folder_of_url(url, cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder, WAIT_S):
        try:
            _update(url, folder, progress)
        except ImportError as error:
            raise FetchError(
                f"`dataset.path` = {url!r} needs a package that is not installed: "
                f"{error}"
            ) from error
        # Object storage has errors of its own, which derive from Exception.
        except Exception as error:
            raise FetchError(
                f"`dataset.path` must be a folder that can be read. Received: {url!r}: "
                f"{type(error).__name__}: {error}. Check the URL, and the credentials "
                "in the environment."
            ) from error
    return folder


def folder_of_url(url: str, cache_dir: str | Path | None = None) -> Path:
    """The folder in the cache that belongs to a URL, which may not exist.

    Args:
        url: URL of a folder. Its last part is the name of the folder in the cache.
        cache_dir: Cache folder; by default `$RECDISTILL_CACHE`, else the user's cache.
    """
    address = url.rstrip("/")
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    return cache_folder(cache_dir) / "urls" / digest / address.rpartition("/")[2]


def _update(url: str, folder: Path, progress: Progress) -> None:
    storage, root = fsspec.core.url_to_fs(url)
    root = root.rstrip("/")
    found = storage.find(root, detail=True)
    infos = {name[len(root) + 1 :]: info for name, info in found.items()}
    if not infos or "" in infos:
        raise FileNotFoundError("it is not a folder with files")
    path = folder / STATES
    before = json.loads(path.read_text()) if path.is_file() else {}
    states = {name: fingerprint(info) for name, info in infos.items()}
    for name in before.keys() - states.keys():
        (folder / name).unlink(missing_ok=True)
    kept = {
        name: state
        for name, state in before.items()
        if state == states.get(name) and _is_whole(folder / name, infos[name])
    }
    if kept != before:
        with atomic_write(path) as aside:
            aside.write_text(json.dumps(kept))
    total = sum(info["size"] or 0 for info in infos.values())
    done = sum(infos[name]["size"] or 0 for name in kept)
    for name in sorted(states.keys() - kept.keys()):
        target = folder / name
        if folder.resolve() not in target.resolve().parents:
            raise ValueError(f"the name {name!r} is not inside of the folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as aside:
            storage.get_file(f"{root}/{name}", str(aside))
        kept[name] = states[name]
        with atomic_write(path) as aside:
            aside.write_text(json.dumps(kept))
        done += infos[name]["size"] or 0
        progress(f"Copying {url}", done, total)


def _is_whole(path: Path, info: Mapping[str, Any]) -> bool:
    """Whether a copy exists and has the size of the file in the storage."""
    size = info["size"]
    return path.is_file() and size in (None, path.stat().st_size)
