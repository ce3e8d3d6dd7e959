"""Archives from the net: downloaded whole or not at all, verified, unpacked safely."""

import hashlib
import os
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath, PureWindowsPath

from recdistill.errors import FetchError

Progress = Callable[[int, int | None], None]
"""Told how many bytes have come, and of how many (None where that is not known)."""

_CHUNK = 1 << 20
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Archive:
    """A published file, pinned.

    Attributes:
        url: Where it is.
        size: Its length in bytes.
        sha256: Its SHA-256 (hex).
    """

    url: str
    size: int
    sha256: str


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A folder on the same file system as `beside`, gone at the end."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{beside.name}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=beside.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def download(archive: Archive, target: Path, progress: Progress | None = None) -> None:
    """Brings an archive to `target`, which appears complete and verified or not at all.

    A kill in between leaves a temporary folder beside `target`, never a part of it.

    Raises:
        FetchError: If the host does not answer, or sends anything but the pinned file.
    """
    with scratch_folder(target) as folder:
        part = folder / target.name
        try:
            with urllib.request.urlopen(archive.url, timeout=_TIMEOUT_S) as response:
                _copy(response, part, archive, progress)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise FetchError(f"{archive.url} cannot be downloaded: {reason}") from error
        verify(part, archive.sha256)
        part.replace(target)


def verify(path: Path, sha256: str) -> None:
    """Checks a file against its pinned hash.

    Raises:
        FetchError: With both hashes.
    """
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise FetchError(
            f"{path.name} is not the file that was pinned: its SHA-256 must be "
            f"{sha256}. Received: {found}"
        )


def unpack(
    archive: Path, wanted: Mapping[str, str], folder: Path, max_bytes: int
) -> None:
    """Unpacks the wanted members of a zip file into `folder`.

    Args:
        archive: The zip file.
        wanted: Name of the member in the archive to the file name it gets.
        folder: An existing folder.
        max_bytes: The most that the wanted members may unpack to.

    Raises:
        FetchError: If the archive is damaged, lacks a wanted member, would unpack to
            more than `max_bytes`, or has *any* member that is a link or whose name
            leads outside. Nothing is written then, save by an archive that breaks off.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            members = {info.filename: info for info in bundle.infolist()}
            _check_members(archive.name, list(members.values()))
            missing = [name for name in wanted if name not in members]
            if missing:
                raise FetchError(f"{archive.name} has no member {missing[0]!r}")
            unpacked = sum(members[name].file_size for name in wanted)
            if unpacked > max_bytes:
                raise FetchError(
                    f"{archive.name} must unpack to at most {max_bytes} bytes. "
                    f"Received: {unpacked}"
                )
            for name, file_name in wanted.items():
                with (
                    bundle.open(name) as source,
                    (folder / file_name).open("wb") as out,
                ):
                    shutil.copyfileobj(source, out, _CHUNK)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError) as error:
        raise FetchError(f"{archive.name} is damaged: {error}") from error


def move_into_place(folder: Path, target: Path) -> None:
    """Renames a finished folder to `target`, unless another process was faster."""
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():
            raise


def _copy(
    response: "urllib.response.addinfourl",
    part: Path,
    archive: Archive,
    progress: Progress | None,
) -> None:
    done = 0
    with part.open("wb") as out:
        while done <= archive.size and (chunk := response.read(_CHUNK)):
            out.write(chunk)
            done += len(chunk)
            if progress:
                progress(done, archive.size)
    if done != archive.size:
        raise FetchError(
            f"{archive.url} must send {archive.size} bytes. Received: "
            f"{done if done < archive.size else 'more'}; try again."
        )


def _check_members(archive: str, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        name = member.filename
        leaves = (
            ".." in PurePosixPath(name).parts
            or ".." in PureWindowsPath(name).parts
            or PurePosixPath(name).is_absolute()
            or bool(PureWindowsPath(name).anchor)
        )
        if leaves or stat.S_ISLNK(member.external_attr >> 16):
            raise FetchError(
                f"{archive} must hold plain files below its own folder. "
                f"Received: {name!r}, which is {'outside' if leaves else 'a link'}"
            )
