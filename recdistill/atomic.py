"""Atomic file writes, and folders that are locked for one process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from recdistill.errors import BusyError


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
    # A fixed name, so that the next run overwrites what a killed process left behind.
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        sync_to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Wait until a file or folder is written to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Context manager that locks a folder for this process, without waiting.

    The operating system releases the lock when the process ends, however it ends.
    Windows has no such lock; there the function does nothing.

    It locks the folder itself (flock) instead of a lock file as `filelock` does: a lock
    file would stay behind in folders that TensorFlow Serving watches and that are
    copied and hashed, and could not be created in a read-only folder.

    Args:
        folder: An existing folder.

    Raises:
        BusyError: If another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover - no such module on Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(
                f"Another recdistill process is using {folder}. Wait until it ends, or "
                "use another `name`."
            ) from error
        yield
    finally:
        os.close(handle)
