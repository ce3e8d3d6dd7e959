"""Workspace of a run: its artefacts, in folders named by the hash of their inputs.

A step writes into a folder with a temporary name and renames it at the end, so
artefacts are written atomically. A step that was killed is run again; a step whose
inputs did not change is skipped. The unfinished folder of other settings is kept for a
week, in case they are used again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from recdistill import __version__
from recdistill.atomic import atomic_write, fingerprint, folder_checksums, write_sealed
from recdistill.pipeline.artefacts.artefact import (
    RECORD,
    Artefact,
    artefact_with_key,
    find_artefact,
)
from recdistill.pipeline.artefacts.artefact_storage import ArtefactStorage

CLOCK = ".clock"
"""File with the seconds of earlier attempts, and the time when the last one began."""

UNFINISHED = (".partial-", ".training-", ".fetched/")
"""Start of the paths of drafts, training checkpoints and incomplete downloads."""

KEPT_SECONDS = 7 * 24 * 3600.0
"""Time after its last change for which an unfinished folder is not removed."""


class Workspace:
    """The folder of one run.

    Args:
        root: The folder; created if it is missing.
        storage: Where copies of finished artefacts are kept.
    """

    def __init__(self, root: Path, storage: ArtefactStorage | None = None) -> None:
        self.root, self.storage = root, storage
        root.mkdir(parents=True, exist_ok=True)

    def store_files(self) -> None:
        """Copies the report and the other files of the run to the storage, if any.

        Raises:
            StorageError: If a file cannot be copied.
        """
        if self.storage is not None:
            self.storage.store_files(self.root)

    @contextlib.contextmanager
    def produce(
        self,
        step: str,
        inputs: Mapping[str, Any],
        valid: Callable[[Artefact], bool] = lambda artefact: True,
        shared: bool = False,
    ) -> Iterator[Draft]:
        """Context manager in which a step writes its artefact.

        Args:
            step: The step's name.
            inputs: All values that determine the content, JSON-ready.
            valid: Whether an existing artefact can still be used.
            shared: Whether a finished artefact with the same key in another run of the
                same work folder or storage is used from there.

        Yields:
            A draft. If `draft.done` is set, the artefact exists already. Otherwise
            write into `draft.path`, which may hold files of a stopped attempt, and set
            `draft.record`; leaving the block publishes the artefact. In both cases it
            then removes unfinished folders of this step that are older than a week.
        """
        key = fingerprint({"step": step, "version": __version__, **inputs})
        name = f"{step}-{key[:12]}"
        draft = Draft(self.root / name, key, shared)
        if draft.done is None and self.storage is not None:
            self.storage.fetch(draft.final, shared)
            draft = Draft(self.root / name, key, shared)
        if draft.done is not None and not valid(draft.done):
            draft.discard()
        if draft.done is None:
            draft.path.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            yield draft
            draft.publish(time.perf_counter() - started)
        else:
            yield draft
        self._remove_unfinished(step)
        if self.storage is not None and draft.done is not None:
            new = not draft.done.reused
            self.storage.store(draft.done.path, replace=new)

    def _remove_unfinished(self, step: str) -> None:
        """Removes the unfinished folders of a step that have not changed for a week.

        They belong to other settings, or a finished artefact has replaced them. The age
        also protects the work of another process where folders cannot be locked.
        """
        for start in UNFINISHED:
            for folder in self.root.glob(f"{start}{step}-*"):
                with contextlib.suppress(OSError):
                    paths = (folder, *folder.rglob("*"))
                    changed = max(path.lstat().st_mtime for path in paths)
                    if time.time() - changed > KEPT_SECONDS:
                        shutil.rmtree(folder)


def earlier_seconds(folder: Path) -> float:
    """Seconds that earlier attempts have taken, each until its last file was written.

    It also notes the start of this attempt. An attempt that was killed could not tell
    how long it took; what it did after its last file is done again.

    Args:
        folder: The folder in which each attempt goes on with the files of the last one.
    """
    clock, earlier = folder / CLOCK, 0.0
    with contextlib.suppress(OSError, ValueError):
        spent, started = json.loads(clock.read_text(encoding="utf-8"))
        files = [each for each in folder.rglob("*") if each.is_file() and each != clock]
        written = [each.stat().st_mtime for each in files]
        earlier = spent + max(0.0, max(written, default=started) - started)
    with atomic_write(clock) as temporary:
        temporary.write_text(json.dumps([earlier, time.time()]), encoding="utf-8")
    return earlier


class Draft:
    """An unfinished artefact; see `Workspace.produce`.

    Attributes:
        record: The step's record.
        earlier: Seconds of the attempts whose files this one goes on with.
    """

    def __init__(self, final: Path, key: str, shared: bool = False) -> None:
        self.final, self.key = final, key
        self.record: dict[str, Any] = {}
        self.earlier = 0.0
        self.done = self._finished(shared)
        self.path = self._aside() if self.done is None else self.done.path

    def _aside(self) -> Path:
        return self.final.with_name(f".partial-{self.final.name}")

    def _finished(self, shared: bool) -> Artefact | None:
        if shared:
            step = self.final.name.rpartition("-")[0]
            return find_artefact(self.final.parent, step, self.key)
        return artefact_with_key(self.final, self.key)

    def discard(self) -> None:
        """Removes the finished artefact, so that it is written again."""
        # The record first: without it, a partly removed folder is not an artefact.
        (self.final / RECORD).unlink()
        self.done = None
        self.path = self._aside()

    def restart(self) -> None:
        """Removes the files of a stopped attempt."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)

    def abandon(self) -> None:
        """Removes the folder of a failed attempt."""
        shutil.rmtree(self.path, ignore_errors=True)

    def publish(self, seconds: float) -> None:
        """Writes the record and gives the folder its final name."""
        (self.path / CLOCK).unlink(missing_ok=True)
        record = {
            "key": self.key,
            "seconds": round(self.earlier + seconds, 3),
            **self.record,
            # An attempt that was killed before the renaming has left its record.
            "sha256": folder_checksums(self.path, without=[RECORD]),
        }
        write_sealed(self.path / RECORD, record)
        # A folder without a record remains of a discarded artefact.
        shutil.rmtree(self.final, ignore_errors=True)
        os.rename(self.path, self.final)
        self.path = self.final
        self.done = Artefact(self.final, self.key, record, reused=False)

    def artefact(self) -> Artefact:
        """The published artefact.

        Raises:
            RuntimeError: If it is not published yet.
        """
        if self.done is None:
            raise RuntimeError(f"The artefact {self.final.name} is not published yet.")
        return self.done
