"""Atomic file writes, checksums of files and values, and locked folders."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from recdistill.errors import BusyError

READABLE = 0o644
"""Mode, regardless of the umask, of files that a server reads as another user."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Context manager that writes a file atomically.

    The block writes to a temporary file in the same folder, which replaces `path` when
    the block ends. Readers see the old file or the new one; an error inside the block
    leaves the old one in place.

    Args:
        path: Output file; its folder must exist.

    Yields:
        The path of the temporary file.

    Raises:
        OSError: If the file cannot be written.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_write(target) as temporary:
        ...     _ = temporary.write_text("all of it")
        >>> target.read_text()
        'all of it'
    """
    # A fixed name, so that the next run removes what a killed process left behind.
    temporary = path.with_name(f".{path.name}.partial")
    try:
        remove(temporary)
        # A new file. Opening one that exists could follow a link to another file.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        sync_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        # A full disk names no file, and nobody asked for the temporary one.
        if error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def require_space(folder: Path, size: int) -> None:
    """Checks that a disk has space, for writers that cannot report a full disk.

    Args:
        folder: A folder on the disk, which may not exist yet.
        size: Number of bytes that are going to be written.

    Raises:
        OSError: If there is less space.
    """
    paths = (folder, *folder.absolute().parents)
    free = shutil.disk_usage(next(path for path in paths if path.exists())).free
    if free < size:
        reason = (
            f"{os.strerror(errno.ENOSPC)}: {size:,} bytes are needed, {free:,} free"
        )
        raise OSError(errno.ENOSPC, reason, str(folder))


def require_writable(folder: Path) -> None:
    """Checks that files can be written into a folder, which may not exist yet.

    Raises:
        OSError: If not.
    """
    paths = (folder, *folder.absolute().parents)
    existing = next(path for path in paths if path.exists())
    with tempfile.TemporaryDirectory(prefix=".recdistill-", dir=existing):
        pass


def refuse_pipes(path: Path) -> None:
    """Checks that a path is a file or a folder, because a pipe may have no end.

    Raises:
        OSError: If the path is a pipe, a socket or a device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        reason = "It is a pipe or a device; write its content to a file first"
        raise OSError(errno.EINVAL, reason, str(path))


def remove(path: Path) -> None:
    """Removes a file, a folder with its contents, or a link without its target.

    Raises:
        OSError: If it cannot be removed. A path that does not exist is not an error.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def create_readable_folder(path: Path) -> None:
    """Creates a folder and its parents, readable by every user regardless of the umask.

    For files that another user's process reads, such as a server in a container.
    Folders that exist are not changed.

    Raises:
        OSError: If a folder cannot be created.
    """
    for folder in reversed([path, *path.parents]):
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of a JSON-ready value, the same for the same content."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_checksum(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_checksums(folder: Path, without: Collection[str] = ()) -> dict[str, str]:
    """SHA-256 (hex) of every file in a folder, by its path inside the folder.

    Args:
        folder: The folder, with all its subfolders.
        without: Paths inside the folder that are left out.
    """
    found = {}
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        name = path.relative_to(folder).as_posix()
        if name not in without:
            # A pipe or a device is never read, because it may have no end.
            found[name] = file_checksum(path) if path.is_file() else "not a file"
    return found


def difference(written: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """The first difference between two tables of checksums; None if they are equal.

    Args:
        written: The checksums that were recorded.
        found: The checksums of the existing files.

    Returns:
        The file, and whether it is missing, damaged or unexpected.

    Examples:
        >>> difference({"a": "1", "b": "2"}, {"a": "1", "b": "3"})
        "the file 'b' is damaged: its checksum is wrong"
    """
    for name in sorted({*written, *found}):
        if name not in written:
            return f"the file {name!r} does not belong there"
        if name not in found:
            return f"the file {name!r} is missing"
        if written[name] != found[name]:
            return f"the file {name!r} is damaged: its checksum is wrong"
    return None


_SEAL = re.compile(rb',\n "checksum": "([0-9a-f]{64})"\n}\Z')


def write_sealed(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically, with a checksum of its own text at the end.

    Args:
        path: Output file.
        document: The object, with at least one key.

    Raises:
        ValueError: If a number is not finite.
        OSError: If the file cannot be written.
    """
    text = json.dumps(document, indent=1, allow_nan=False).removesuffix("\n}")
    seal = hashlib.sha256(text.encode()).hexdigest()
    with atomic_write(path) as temporary:
        temporary.write_text(f'{text},\n "checksum": "{seal}"\n}}', encoding="utf-8")


def read_sealed(path: Path) -> dict[str, Any]:
    """A JSON object that `write_sealed` wrote, without its checksum.

    Raises:
        ValueError: If the file is damaged.
        OSError: If the file cannot be read.
    """
    content = path.read_bytes()
    seal = _SEAL.search(content)
    if seal is None:
        raise ValueError(
            "it does not end with a checksum; it was truncated, or written by an "
            "earlier version of recdistill"
        )
    text = content[: seal.start()]
    if hashlib.sha256(text).hexdigest() != seal[1].decode():
        raise ValueError("its checksum is wrong")
    document: dict[str, Any] = json.loads(text + b"\n}")
    return document


def sync_to_disk(path: Path) -> None:
    """Wait until a file or folder is written to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked_folder(folder: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Context manager that locks a folder for this process.

    The operating system releases the lock when the process ends, however it ends.
    Windows has no such lock; there the function does nothing.

    It locks the folder itself (flock) instead of a lock file as `filelock` does: a lock
    file would stay behind in folders that TensorFlow Serving watches and that are
    copied and hashed, and could not be created in a read-only folder.

    Args:
        folder: An existing folder.
        wait_s: Seconds to wait while another process has locked it.

    Raises:
        BusyError: If another process has locked it.
        OSError: If it cannot be locked, as on a network drive without locks.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover - no such module on Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    end = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() < end:
                    time.sleep(0.02)
                    continue
                raise BusyError(
                    f"Another recdistill process is using {folder}. Wait until it "
                    "ends, or use another `name`."
                ) from error
        yield
    finally:
        os.close(handle)
