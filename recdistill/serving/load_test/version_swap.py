"""Version swap during a load test (`load-test --reload-during`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recdistill.atomic import locked_folder, remove
from recdistill.export.layout import find_version, next_version
from recdistill.serving.client.protocols import VersionStatus
from recdistill.serving.client.serving_errors import ServingError

__all__ = ["Swap", "VersionSwap", "staged_copy"]

_POLL_S = 0.05


@dataclass(frozen=True)
class Swap:
    """Times of a version swap, in seconds since the start of the test.

    Attributes:
        version: The new version.
        published_s: When its folder appeared.
        available_s: When it was available and the previous version was unloaded; None
            if that did not happen before the end of the test.
    """

    version: int
    published_s: float
    available_s: float | None


class VersionSwap:
    """Publishes a staged version during the test, from a thread.

    Args:
        staging: Folder of the staged version.
        version: Its version number.
        versions: Function that returns the server's versions.
    """

    def __init__(
        self, staging: Path, version: int, versions: Callable[[], list[VersionStatus]]
    ) -> None:
        self._staging, self._version, self._versions = staging, version, versions
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._swap: Swap | None = None

    def begin(self, start: float, after_s: float) -> None:
        """Schedules the publication.

        Args:
            start: Start of the test on the clock of `time.monotonic`.
            after_s: Seconds from the start to the publication.
        """
        self._thread = threading.Thread(
            target=self._run, args=(start, after_s), daemon=True
        )
        self._thread.start()

    def end(self) -> Swap | None:
        """Ends the swap and returns it; None if the version was not yet published."""
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
        while not self._over.wait(_POLL_S):
            # A server that is busy loading may time out.
            with contextlib.suppress(ServingError):
                if self._is_swapped():
                    available = time.monotonic() - start
                    self._swap = Swap(self._version, published, available)
                    return

    def _is_swapped(self) -> bool:
        states = {each.version: each.state for each in self._versions()}
        newer = states.pop(self._version, "UNKNOWN")
        older = [state for v, state in states.items() if v < self._version]
        return newer == "AVAILABLE" and all(state == "END" for state in older)


@contextlib.contextmanager
def staged_copy(
    folder: Path, versions: Callable[[], list[VersionStatus]]
) -> Iterator[VersionSwap]:
    """Stages a copy of the latest version as the next one, and removes it afterwards.

    The copy is complete before the test starts, so that the test measures the loading
    of a version and not the copying of files. It is published and removed by renaming.

    Args:
        folder: `<export>/<name>`, the folder that the server watches.
        versions: Function that returns the server's versions.

    Raises:
        BusyError: If an export is being written to the folder.
        NotAnExportError: If the folder has no version.
        OSError: If the copy cannot be written.
    """
    latest = find_version(folder)
    folder = latest.parent
    version = next_version(folder)
    # Servers ignore names that are not numbers. The next export removes folders with
    # this prefix, should the test be killed.
    staging = folder / f".staging-load-test-{version}"
    swap = VersionSwap(staging, version, versions)
    with locked_folder(folder):
        remove(staging)  # Of a load test that was killed.
        try:
            shutil.copytree(latest, staging)
            yield swap
        finally:
            swap.end()  # Also after an error: the thread must not outlive the client.
            published = folder / str(version)
            if published.exists():
                os.rename(published, staging)
            shutil.rmtree(staging, ignore_errors=True)
