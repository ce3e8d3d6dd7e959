"""Files that appear whole or not at all, and folders that one process holds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from recdistill.errors import BusyError


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Writes a file aside; leaving the block puts it in place, in one step.

    Whoever reads `path` meanwhile sees the old file or the new one, and an error inside
    the block leaves the old one as it was.

    Args:
        path: The file; its folder must exist.

    Yields:
        The path to write to, in the same folder.

    Raises:
        OSError: If it cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with whole(target) as aside:
        ...     _ = aside.write_text("all of it")
        >>> target.read_text()
        'all of it'
    """
    # One name, so that what a killed process left is overwritten by the next.
    aside = path.with_name(f".{path.name}.partial")
    try:
        yield aside
        to_disk(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Waits until a file or folder is on the disk and not only on its way there."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; the lock goes with the process, however it ends.

    Args:
        folder: An existing folder.

    Raises:
        BusyError: If another process holds it.
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
                f"Another recdistill process is at work in {folder}. Wait for it, or "
                "use another `name`."
            ) from error
        yield
    finally:
        os.close(handle)
