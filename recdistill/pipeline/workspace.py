"""Artefacts of a run: folders named by the hash of their inputs.

A step writes into a folder with a temporary name and renames it at the end, so
artefacts are written atomically. A step that was killed is run again; a step whose
inputs did not change is skipped.
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
from pathlib import Path
from typing import Any

from recdistill import __version__
from recdistill.atomic import atomic_write

RECORD = "record.json"


@dataclass(frozen=True)
class Artefact:
    """A finished folder and its record.

    Attributes:
        path: The folder.
        key: Hash of all inputs that determine its content.
        record: The record of the step, JSON-ready.
        reused: Whether it existed before this run.
    """

    path: Path
    key: str
    record: dict[str, Any]
    reused: bool


class Workspace:
    """The folder of one run.

    Args:
        root: The folder; created if it is missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

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
        if draft.done is not None and not valid(draft.done):
            draft.discard()
        if draft.done is None:
            draft.path.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            yield draft
            draft.publish(time.perf_counter() - started)
        else:
            yield draft


class Draft:
    """An unfinished artefact; see `Workspace.produce`."""

    def __init__(self, final: Path, key: str, others: Iterable[Path] = ()) -> None:
        self.final, self.key = final, key
        self.record: dict[str, Any] = {}
        found = (self._finished(path) for path in (final, *others))
        self.done = next((artefact for artefact in found if artefact), None)
        self.path = self._aside() if self.done is None else self.done.path

    def _aside(self) -> Path:
        return self.final.with_name(f".partial-{self.final.name}")

    def _finished(self, path: Path) -> Artefact | None:
        try:
            record = json.loads((path / RECORD).read_text())
        except FileNotFoundError:
            return None
        # Folders are named by a part of the key.
        if record["key"] != self.key:
            return None
        return Artefact(path, self.key, record, reused=True)

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
        record = {"key": self.key, "seconds": round(seconds, 3), **self.record}
        write_json(self.path / RECORD, record)
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


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON-ready value, the same for the same content."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps(value, indent=1, allow_nan=False)
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")
