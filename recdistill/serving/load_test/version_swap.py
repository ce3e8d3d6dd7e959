"""A new version appears while requests run: what `load-test --reload-during` does."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recdistill.atomic import locked_folder
from recdistill.export.layout import find_version
from recdistill.serving.client.protocols import VersionStatus
from recdistill.serving.client.serving_errors import ServingError

__all__ = ["Swap", "VersionSwap", "staged_copy"]

_LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Swap:
    """When a version was swapped, in seconds since the start of the test.

    Attributes:
        version: The version that appeared.
        published_s: When its folder appeared.
        available_s: When it answered and the one before it was gone; None if that did
            not happen while the test ran.
    """

    version: int
    published_s: float
    available_s: float | None


class VersionSwap:
    """Publishes a staged copy at its time, in a thread of its own.

    Args:
        staging: The copy.
        version: The number that it gets.
        versions: Asks the server for its versions.
    """

    def __init__(
        self, staging: Path, version: int, versions: Callable[[], list[VersionStatus]]
    ) -> None:
        self._staging, self._version, self._versions = staging, version, versions
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._swap: Swap | None = None

    def begin(self, start: float, after_s: float) -> None:
        """Publishes so many seconds after the start of the test.

        Args:
            start: The start, on the clock of `time.monotonic`.
            after_s: Seconds from there.
        """
        self._thread = threading.Thread(
            target=self._run, args=(start, after_s), daemon=True
        )
        self._thread.start()

    def end(self) -> Swap | None:
        """What happened, once the test is over; None if it ended too early for it."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        return self._swap

    def _run(self, start: float, after_s: float) -> None:
        if self._over.wait(max(0.0, start + after_s - time.monotonic())):
            return
        os.rename(self._staging, self._staging.parent / str(self._version))
        published = time.monotonic() - start
        self._swap = Swap(self._version, published, None)
        while not self._over.wait(_LOOK_EVERY_S):
            # While a server is busy with loading it may be late to say so.
            with contextlib.suppress(ServingError):
                if self._is_swapped():
                    available = time.monotonic() - start
                    self._swap = Swap(self._version, published, available)
                    return

    def _is_swapped(self) -> bool:
        states = {each.version: each.state for each in self._versions()}
        mine = states.pop(self._version, "UNKNOWN")
        older = [s for v, s in states.items() if v < self._version]
        return mine == "AVAILABLE" and all(s == "END" for s in older)


@contextlib.contextmanager
def staged_copy(
    folder: Path, versions: Callable[[], list[VersionStatus]]
) -> Iterator[VersionSwap]:
    """A copy of the newest version, ready to appear beside it; gone in the end.

    It is copied in full before the test, so that the test sees the load of a version
    and not the copy. It appears by one rename, and goes by one.

    Args:
        folder: `<export>/<name>`, the folder that the server watches.
        versions: Asks the server for its versions.

    Raises:
        BusyError: If an export is being written there.
        NotAnExportError: If the folder has no version.
        OSError: If the copy cannot be written.
    """
    newest = find_version(folder)
    folder = newest.parent
    version = int(newest.name) + 1
    # Not a number: no server loads it. A number with the export's prefix: the next
    # export clears away what a killed test left.
    staging = folder / f".staging-load-test-{version}"
    with locked_folder(folder):
        try:
            shutil.copytree(newest, staging)
            yield VersionSwap(staging, version, versions)
        finally:
            published = folder / str(version)
            if published.exists():
                os.rename(published, staging)
            shutil.rmtree(staging, ignore_errors=True)
