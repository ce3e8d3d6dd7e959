"""Artefact: a finished folder of a step, with a record of its inputs and its files.

The record has the checksum of each file, and one of its own. Files are verified before
they are used.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from recdistill.atomic import difference, file_checksum, folder_checksums, read_sealed
from recdistill.errors import ArtefactError

RECORD = "record.json"
"""File of an artefact with its record. A folder without it is not an artefact."""


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


def artefact_with_key(path: Path, key: str) -> Artefact | None:
    """The artefact in a folder; None if the folder has none, or one with another key.

    Folders are named by a part of the key only.

    Raises:
        ArtefactError: If the record is damaged.
    """
    found = open_artefact(path)
    return found if found is not None and found.key == key else None


def find_artefact(run: Path, step: str, key: str) -> Artefact | None:
    """The artefact of a run, which may lie in another run of the same work folder.

    Args:
        run: The folder of the run.
        step: Name of the step.
        key: Hash of the step's inputs.

    Raises:
        ArtefactError: If the record of the run's own artefact is damaged.
    """
    name = f"{step}-{key[:12]}"
    found = artefact_with_key(run / name, key)
    if found is not None:
        return found
    # The run may be a link into another folder, or the current folder.
    for folder in dict.fromkeys((run.parent, run.resolve().parent)):
        for path in sorted(folder.glob(f"*/{name}")):
            # An artefact of another run with a damaged record is not needed.
            with suppress(ArtefactError):
                found = artefact_with_key(path, key)
                if found is not None:
                    return found
    return None


def artefact_of_file(step: str, file: Path) -> Artefact | None:
    """The artefact of a step whose file was copied into the folder of its run.

    Args:
        step: Name of the step.
        file: The copy, such as `runs/films/report.json`.

    Raises:
        ArtefactError: If the record of an artefact of this step is damaged.
    """
    if file.is_file():
        sought = file_checksum(file)
        for path in sorted(file.parent.glob(f"{step}-*")):
            found = open_artefact(path)
            if found is not None and found.record["sha256"].get(file.name) == sought:
                return found
    return None


def _damaged(folder: Path, fault: str) -> ArtefactError:
    step = folder.name.rpartition("-")[0]
    return ArtefactError(
        f"The artefact {folder} cannot be used: {fault}. Remove the folder and run the "
        f"step `{step}` again."
    )
