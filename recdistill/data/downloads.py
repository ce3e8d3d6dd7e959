"""Public data sets by name, from their publisher, into a local cache."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from recdistill.data.archives import (
    Archive,
    Progress,
    download,
    move_into_place,
    scratch_folder,
    unpack,
    verify,
)
from recdistill.data.movielens import genres_100k, rows
from recdistill.errors import FetchError

_GROUPLENS = "https://files.grouplens.org/datasets/movielens"

SOURCES: Mapping[str, Archive] = {
    "ml-100k": Archive(
        f"{_GROUPLENS}/ml-100k.zip",
        4_924_029,
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    ),
    "ml-latest-small": Archive(
        f"{_GROUPLENS}/ml-latest-small.zip",
        978_202,
        "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
    ),
    "ml-1m": Archive(
        f"{_GROUPLENS}/ml-1m.zip",
        5_917_549,
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    ),
    "ml-25m": Archive(
        f"{_GROUPLENS}/ml-25m.zip",
        261_978_986,
        "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
    ),
    "ml-32m": Archive(
        f"{_GROUPLENS}/ml-32m.zip",
        238_950_008,
        "e4a68655d7386b8f95f2f2424b2ff975dfdd15ffd59e0d864a14dca43e99d6ee",
    ),
}
"""The names that `fetch` knows. The hashes of all but ml-32m are those that TensorFlow
Datasets publishes; that of ml-32m is the one several public projects agree on."""

_FILES = {
    "ml-100k": ("u.data", "u.item", "u.user"),
    "ml-latest-small": ("ratings.csv", "movies.csv", "README.txt"),
    "ml-1m": ("ratings.dat", "movies.dat", "users.dat", "README"),
    "ml-25m": ("ratings.csv", "movies.csv", "README.txt"),
    "ml-32m": ("ratings.csv", "movies.csv", "README.txt"),
}
_MAX_UNPACKED = 2_000_000_000

_WHEEL = "recbole-1.2.1-py3-none-any.whl"
_WHEEL_REQUIREMENT = "recbole==1.2.1"
_WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_WHEEL_FOLDER = "recbole/dataset_example/ml-100k"
_ATOMIC_FILES = ("ml-100k.inter", "ml-100k.item", "ml-100k.user")
_WHEEL_TIMEOUT_S = 300

_HEADERS = {
    ".inter": "user_id:token item_id:token rating:float timestamp:float",
    ".item": "item_id:token movie_title:token_seq release_year:token class:token_seq",
    ".user": "user_id:token age:token gender:token occupation:token zip_code:token",
}
_NO_TITLE = "unkonwn"
"""RecBole's spelling, kept so that both origins give the same bytes."""


def fetch(
    name: str, cache_dir: str | Path | None = None, progress: Progress | None = None
) -> Path:
    """The folder of a public data set, downloaded if it is not in the cache yet.

    `ml-100k` comes as RecBole atomic files, for `read_recbole`: converted from the
    archive of GroupLens or, where its host does not answer, out of the `recbole` wheel
    by way of pip, with the same content. The others come as published, for
    `read_movielens`. Only the files that the reader needs are unpacked.

    A download that was killed leaves no half data set; run it again. To work without a
    network, put the archive (`<name>.zip`) into the cache folder by hand.

    Args:
        name: One of `SOURCES`.
        cache_dir: By default `$RECDISTILL_CACHE`, else the user's cache folder.
        progress: Called with the bytes done and the bytes in all while downloading.

    Raises:
        FetchError: If the name is unknown, no source answers, or what came is not the
            file that was pinned.
    """
    if name not in SOURCES:
        raise FetchError(
            f"`name` must be one of {', '.join(SOURCES)}. Received: {name!r}"
        )
    cache = Path(cache_dir) if cache_dir is not None else _default_cache()
    target = cache / name
    if target.is_dir():
        return target
    with scratch_folder(target) as scratch:
        unpacked = scratch / name
        unpacked.mkdir()
        try:
            _from_grouplens(name, cache / f"{name}.zip", unpacked, progress)
        except FetchError as error:
            if name != "ml-100k":
                raise FetchError(f"{error}. {_by_hand(name, cache)}") from error
            _from_wheel(unpacked, error, cache)
        move_into_place(unpacked, target)
    return target


def _default_cache() -> Path:
    if named := os.environ.get("RECDISTILL_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "recdistill"


def _by_hand(name: str, cache: Path) -> str:
    return (
        f"To do it by hand, download {SOURCES[name].url} elsewhere, put it at "
        f"{cache / f'{name}.zip'} and run this again."
    )


def _from_grouplens(
    name: str, archive: Path, folder: Path, progress: Progress | None
) -> None:
    pinned = SOURCES[name]
    if archive.is_file():
        verify(archive, pinned.sha256)
    else:
        download(pinned, archive, progress)
    wanted = {f"{name}/{file_name}": file_name for file_name in _FILES[name]}
    unpack(archive, wanted, folder, _MAX_UNPACKED)
    if name == "ml-100k":
        _to_atomic_files(folder)


def _to_atomic_files(folder: Path) -> None:
    """Replaces the `u.*` files of MovieLens 100K by RecBole's atomic files."""
    ratings = rows(folder / "u.data", "\t", 4)
    films = [_atomic_film(film) for film in rows(folder / "u.item", "|", 24)]
    users = rows(folder / "u.user", "|", 5)
    tables = {".inter": ratings, ".item": films, ".user": users}
    for suffix, table in tables.items():
        lines = ["\t".join(row) + "\n" for row in [_HEADERS[suffix].split(), *table]]
        (folder / f"ml-100k{suffix}").write_text(
            "".join(lines), encoding="utf-8", newline="\n"
        )
    for file_name in _FILES["ml-100k"]:
        (folder / file_name).unlink()


def _atomic_film(film: list[str]) -> list[str]:
    """Id, title, year and genres; the year is whatever the last parentheses hold."""
    title, opened, rest = film[1].rpartition("(")
    year = rest.strip().removesuffix(")")
    if not opened:
        title = year = _NO_TITLE
    return [film[0], title.strip(), year, " ".join(genres_100k(film[5:]))]


def _from_wheel(folder: Path, reason: FetchError, cache: Path) -> None:
    """MovieLens 100K out of the `recbole` wheel, which carries it as an example."""
    with scratch_folder(folder) as scratch:
        command = [
            *(sys.executable, "-m", "pip", "download", "--no-deps"),
            *("--only-binary", ":all:", "--disable-pip-version-check", "--quiet"),
            *("--timeout", "10", "--retries", "1", "--dest", str(scratch)),
            _WHEEL_REQUIREMENT,
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_WHEEL_TIMEOUT_S
            )
            said = done.stderr.strip()
        except subprocess.TimeoutExpired:
            said = f"no answer in {_WHEEL_TIMEOUT_S} seconds"
        wheel = scratch / _WHEEL
        try:
            if not wheel.is_file():
                raise FetchError(f"pip download {_WHEEL_REQUIREMENT}: {said}")
            verify(wheel, _WHEEL_SHA256)
            wanted = {f"{_WHEEL_FOLDER}/{each}": each for each in _ATOMIC_FILES}
            unpack(wheel, wanted, folder, _MAX_UNPACKED)
        except FetchError as error:
            raise FetchError(
                f"ml-100k could not be fetched. First: {reason}. Then: {error}. "
                f"{_by_hand('ml-100k', cache)}"
            ) from error
