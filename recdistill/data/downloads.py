"""Download of public data sets into a local cache, with verified hashes."""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pooch  # type: ignore[import-untyped]

from recdistill.data.dataset import Progress
from recdistill.data.movielens_100k import write_atomic_files
from recdistill.errors import FetchError


@dataclass(frozen=True)
class Archive:
    """A published zip file with a pinned hash.

    Attributes:
        url: Address of the file.
        sha256: SHA-256 of the file (hex).
        members: Members to unpack; all are in one folder of the archive.
    """

    url: str
    sha256: str
    members: tuple[str, ...]


def _grouplens(name: str, sha256: str, *files: str) -> Archive:
    url = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    return Archive(url, sha256, tuple(f"{name}/{each}" for each in files))


_CSV_FILES = ("ratings.csv", "movies.csv", "README.txt")

SOURCES: Mapping[str, Archive] = {
    "ml-100k": _grouplens(
        "ml-100k",
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        *("u.data", "u.item", "u.user"),
    ),
    "ml-latest-small": _grouplens(
        "ml-latest-small",
        "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
        *_CSV_FILES,
    ),
    "ml-1m": _grouplens(
        "ml-1m",
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        *("ratings.dat", "movies.dat", "users.dat", "README"),
    ),
    "ml-25m": _grouplens(
        "ml-25m",
        "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
        *_CSV_FILES,
    ),
    "ml-32m": _grouplens(
        "ml-32m",
        "e4a68655d7386b8f95f2f2424b2ff975dfdd15ffd59e0d864a14dca43e99d6ee",
        *_CSV_FILES,
    ),
}
"""Data sets that `fetch` knows, by name. The hashes of all but ml-32m are published by
TensorFlow Datasets; several public projects agree on that of ml-32m."""

_WHEEL_REQUIREMENT = "recbole==1.2.1"
_WHEEL = Archive(
    "recbole-1.2.1-py3-none-any.whl",
    "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    tuple(
        f"recbole/dataset_example/ml-100k/ml-100k.{kind}"
        for kind in ("inter", "item", "user")
    ),
)
_TIMEOUT_S = 10
_WHEEL_TIMEOUT_S = 300
_CHUNK_BYTES = 1 << 20


def fetch(
    name: str, cache_dir: str | Path | None = None, progress: Progress | None = None
) -> Path:
    """Folder of a public data set, downloaded if it is not in the cache.

    `ml-100k` comes as RecBole atomic files, for `read_recbole`. They are converted from
    the GroupLens archive or, if GroupLens does not answer, taken from the `recbole`
    wheel by pip; the content is the same. The other data sets come as published, for
    `read_movielens`. Only the files that the reader needs are unpacked.

    The folder is created atomically: if a download is interrupted, run it again. To
    work without a network, save the archive as `<name>.zip` in the cache folder.

    Args:
        name: One of `SOURCES`.
        cache_dir: Cache folder; by default `$RECDISTILL_CACHE`, else the user's cache.
        progress: Callback for progress, in bytes.

    Raises:
        FetchError: If the name is unknown, no source answers, or a file does not have
            the pinned hash.
    """
    if name not in SOURCES:
        raise FetchError(
            f"`name` must be one of {', '.join(SOURCES)}. Received: {name!r}"
        )
    cache = cache_folder(cache_dir)
    target = cache / name
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{name}-", suffix=".part", dir=cache) as scratch:
        folder = _unpacked(name, cache, Path(scratch), progress)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
    return target


def cache_folder(given: str | Path | None = None) -> Path:
    """The cache folder: a given one, `$RECDISTILL_CACHE`, or the user's cache."""
    default = os.environ.get("RECDISTILL_CACHE") or pooch.os_cache("recdistill")
    return Path(default if given is None else given)


def _unpacked(name: str, cache: Path, scratch: Path, progress: Progress | None) -> Path:
    """A folder below `scratch` with the files of the data set."""
    source, archive = SOURCES[name], cache / f"{name}.zip"
    try:
        _download(source, archive, progress)
        folder = _unpack(source, archive, scratch)
        if name == "ml-100k":
            return write_atomic_files(folder, scratch / "converted")
        return folder
    except FetchError as error:
        hint = (
            f"To download by hand, save {source.url} as {archive} and run this again."
        )
        if name != "ml-100k":
            raise FetchError(f"{error} {hint}") from error
        try:
            return _unpack(_WHEEL, _download_wheel(scratch), scratch)
        except FetchError as second:
            raise FetchError(f"{error} {second} {hint}") from second


def _download(source: Archive, path: Path, progress: Progress | None) -> None:
    """Download to `path`, atomically; keep a file that exists."""
    if path.is_file():
        _verify(source, path)
        return
    bar = _ProgressBar(f"Downloading {path.stem}", progress) if progress else False
    downloader = pooch.HTTPDownloader(
        progressbar=bar, chunk_size=_CHUNK_BYTES, timeout=_TIMEOUT_S
    )
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        pooch.retrieve(
            source.url,
            f"sha256:{source.sha256}",
            fname=path.name,
            path=path.parent,
            downloader=downloader,
        )
    except (OSError, ValueError) as error:
        reason = str(error).removesuffix(".")
        raise FetchError(f"{source.url} cannot be downloaded: {reason}.") from error


def _verify(source: Archive, path: Path) -> None:
    found = pooch.file_hash(str(path))
    if found != source.sha256:
        raise FetchError(
            f"{path} must have the SHA-256 {source.sha256}. Received: {found}."
        )


def _unpack(source: Archive, path: Path, scratch: Path) -> Path:
    """Unpack the members of a verified archive; returns their folder."""
    pooch.Unzip(list(source.members), str(scratch))(str(path), "download", None)
    missing = [each for each in source.members if not (scratch / each).is_file()]
    if missing:
        raise FetchError(f"{path} has no member {missing[0]!r}.")
    return (scratch / source.members[0]).parent


def _download_wheel(scratch: Path) -> Path:
    """The `recbole` wheel, which carries MovieLens 100K as an example."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps"),
        *("--only-binary", ":all:", "--disable-pip-version-check", "--quiet"),
        *("--timeout", str(_TIMEOUT_S), "--retries", "1", "--dest", str(scratch)),
        _WHEEL_REQUIREMENT,
    ]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_WHEEL_TIMEOUT_S
        )
        message = result.stderr.strip()
    except subprocess.TimeoutExpired:
        message = f"no answer in {_WHEEL_TIMEOUT_S} seconds"
    wheel = scratch / _WHEEL.url
    if not wheel.is_file():
        raise FetchError(f"pip download {_WHEEL_REQUIREMENT} failed: {message}.")
    _verify(_WHEEL, wheel)
    return wheel


class _ProgressBar:
    """Adapter from pooch's progress bar to our callback."""

    def __init__(self, label: str, progress: Progress) -> None:
        self.total = 0
        self._label, self._progress, self._done = label, progress, 0

    def update(self, size: int) -> None:
        self._done = min(self._done + size, self.total or self._done + size)
        self._progress(self._label, self._done, self.total or None)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """The callback needs no closing."""
