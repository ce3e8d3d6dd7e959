"""Artefacts of a run: folders named by the hash of their inputs.

A step writes into a folder with a temporary name and renames it at the end, so
artefacts are written atomically. A step that was killed is run again; a step whose
inputs did not change is skipped. The record of an artefact has the checksum of each
file, and one of its own, and files are verified before they are used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recdistill import __version__
from recdistill.atomic import (
    atomic_write,
    difference,
    file_checksum,
    folder_checksums,
    read_sealed,
    write_sealed,
)
from recdistill.errors import ArtefactError

if TYPE_CHECKING:
    from recdistill.pipeline.artefact_storage import ArtefactStorage

RECORD = "record.json"

CLOCK = ".clock"
"""File with the seconds of earlier attempts, and the time when the last one began."""


@dataclass(frozen=True)
class Artefact:
    """A finished folder and its record.

    Attributes:
        path: The folder.
        key: Hash of all inputs that determine its content.
        record: The record of the step, JSON-ready; `sha256` has the checksum of each
            file.
        reused: Whether it existed before this run.
    """

    path: Path
    key: str
    record: dict[str, Any]
    reused: bool

    def verify(self, unread: str = "") -> None:
        """Checks that the folder has the files that the step wrote, and no other.

        Args:
            unread: Pattern of the files that are neither read nor required.

        Raises:
            ArtefactError: If a file is damaged, missing or unexpected.
        """
        left_out = self.path.glob(unread) if unread else ()
        names = [path.relative_to(self.path).as_posix() for path in left_out]
        found = folder_checksums(self.path, without=[RECORD, *names])
        written = self.record["sha256"]
        written = {k: v for k, v in written.items() if not fnmatch(k, unread)}
        fault = difference(written, found)
        if fault is not None:
            raise _damaged(self.path, fault)

    def file(self, name: str) -> Path:
        """The path of one file, which is verified.

        Raises:
            ArtefactError: If the file is damaged or missing.
        """
        path = self.path / name
        found = {name: file_checksum(path)} if path.is_file() else {}
        fault = difference({name: self.record["sha256"].get(name, "")}, found)
        if fault is not None:
            raise _damaged(self.path, fault)
        return path


def open_artefact(path: Path) -> Artefact | None:
    """The artefact in a folder; None if the folder has no record.

    Raises:
        ArtefactError: If the record is damaged.
    """
    try:
        record = read_sealed(path / RECORD)
    except FileNotFoundError:
        return None
    except ValueError as error:
        fault = f"the file {RECORD!r} is damaged: {error}"
        raise _damaged(path, fault) from error
    return Artefact(path, record["key"], record, reused=True)


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
                same work folder is used from there.

        Yields:
            A draft. If `draft.done` is set, the artefact exists already. Otherwise
            write into `draft.path`, which may hold files of a stopped attempt, and set
            `draft.record`; leaving the block publishes the artefact.
        """
        key = fingerprint({"step": step, "version": __version__, **inputs})
        name = f"{step}-{key[:12]}"
        others = sorted(self.root.parent.glob(f"*/{name}")) if shared else []
        draft = Draft(self.root / name, key, others)
        if draft.done is None and self.storage is not None:
            self.storage.fetch(draft.final)
            draft = Draft(draft.final, key)
        if draft.done is not None and not valid(draft.done):
            draft.discard()
        if draft.done is None:
            draft.path.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            yield draft
            draft.publish(time.perf_counter() - started)
        else:
            yield draft
        if self.storage is not None and draft.done is not None:
            new = not draft.done.reused
            self.storage.store(draft.done.path, replace=new)


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

    def __init__(self, final: Path, key: str, others: Iterable[Path] = ()) -> None:
        self.final, self.key = final, key
        self.record: dict[str, Any] = {}
        self.earlier = 0.0
        self.done = self._finished(final) or self._finished_elsewhere(others)
        self.path = self._aside() if self.done is None else self.done.path

    def _aside(self) -> Path:
        return self.final.with_name(f".partial-{self.final.name}")

    def _finished(self, path: Path) -> Artefact | None:
        found = open_artefact(path)
        # Folders are named by a part of the key.
        return found if found is not None and found.key == self.key else None

    def _finished_elsewhere(self, others: Iterable[Path]) -> Artefact | None:
        for path in others:
            # An artefact of another run with a damaged record is not needed here.
            with contextlib.suppress(ArtefactError):
                found = self._finished(path)
                if found is not None:
                    return found
        return None

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


def _damaged(folder: Path, fault: str) -> ArtefactError:
    step = folder.name.rpartition("-")[0]
    return ArtefactError(
        f"The artefact {folder} cannot be used: {fault}. Remove the folder and run the "
        f"step `{step}` again."
    )


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON-ready value, the same for the same content."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
