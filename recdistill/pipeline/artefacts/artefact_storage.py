"""Copies of finished artefacts in object storage, for a `workdir` that is a URL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import fsspec

from recdistill.atomic import locked_folder, remove
from recdistill.data.remote_folder import WAIT_S
from recdistill.errors import ArtefactError, StorageError
from recdistill.pipeline.artefacts.artefact import RECORD, open_artefact
from recdistill.pipeline.config.pipeline_config import Config


class ArtefactStorage:
    """The artefacts of all runs below the URL of a `workdir`.

    The work is done in a local folder. A finished artefact is copied to the storage,
    its record as the last file, so that an artefact with a record is whole. An artefact
    that the local folder does not have is copied from the storage.

    Args:
        url: An fsspec URL, such as `s3://bucket/runs`.
        local: The local folder, with the same folders inside.

    Raises:
        StorageError: If the storage cannot be used, for example because its package is
            not installed.
    """

    def __init__(self, url: str, local: Path) -> None:
        self._url, self._local = url.rstrip("/"), local
        with self._explained():
            self._storage, root = fsspec.core.url_to_fs(self._url)
        self._root = root.rstrip("/")

    def fetch(self, folder: Path, shared: bool = False) -> None:
        """Copies an artefact from the storage, if only the storage has it.

        Args:
            folder: Where the artefact belongs in the local folder.
            shared: Whether the artefact may be that of another run, which is then
                copied to the local folder of that run.

        Raises:
            StorageError: If it cannot be copied.
            ArtefactError: If it is damaged.
        """
        if (folder / RECORD).is_file():
            return
        with self._explained():
            others = self._of_other_runs(folder.name) if shared else ()
            # The others are listed only if the run has no artefact of its own.
            for place in chain((folder,), others):
                if self._storage.exists(f"{self._address(place)}/{RECORD}"):
                    self._fetch(place)
                    return

    def _of_other_runs(self, name: str) -> Iterator[Path]:
        """Where an artefact of this name belongs in each run of the storage."""
        if self._storage.exists(self._root):
            for run in sorted(self._storage.ls(self._root, detail=False)):
                yield self._local / run.rstrip("/").rpartition("/")[2] / name

    def _fetch(self, folder: Path) -> None:
        asides = folder.parent / ".fetched"
        asides.mkdir(parents=True, exist_ok=True)
        # The workers of a machine want the same artefacts at the same time.
        with locked_folder(asides, WAIT_S):
            if not (folder / RECORD).is_file():
                self._copy(self._address(folder), asides / folder.name, folder)

    def _copy(self, source: str, aside: Path, folder: Path) -> None:
        remove(aside)
        self._get(source, aside, [RECORD])
        found = open_artefact(aside)
        if found is not None:
            self._get(source, aside, found.record["sha256"])
            found.verify()
        remove(folder)  # A folder without a record remains of a discarded artefact.
        aside.rename(folder)

    def _get(self, source: str, folder: Path, names: Iterable[str]) -> None:
        for name in names:
            target = folder / name
            if folder.resolve() not in target.resolve().parents:
                raise ArtefactError(
                    f"The artefact {source} cannot be used: the file {name!r} is not "
                    "inside of it."
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            self._storage.get_file(f"{source}/{name}", str(target))

    def store(self, folder: Path, replace: bool) -> None:
        """Copies a finished artefact to the storage.

        Args:
            folder: The artefact's folder.
            replace: Whether an artefact that is there is replaced.

        Raises:
            StorageError: If it cannot be copied.
        """
        target = self._address(folder)
        last = f"{target}/{RECORD}"
        with self._explained():
            if self._storage.exists(last):
                if not replace:
                    return
                self._storage.rm_file(last)
            files = (path for path in folder.rglob("*") if path.is_file())
            for path in sorted(files, key=lambda path: (path.name == RECORD, path)):
                self._put(path, f"{target}/{path.relative_to(folder).as_posix()}")

    def discard(self, folder: Path) -> None:
        """Removes an artefact from the storage, if it is there.

        Args:
            folder: The artefact's folder.

        Raises:
            StorageError: If it cannot be removed.
        """
        target = self._address(folder)
        with self._explained():
            if self._storage.exists(f"{target}/{RECORD}"):
                self._storage.rm_file(f"{target}/{RECORD}")
                self._storage.rm(target, recursive=True)

    def store_files(self, folder: Path) -> None:
        """Copies the files of a run's folder, such as its report, to the storage.

        Args:
            folder: The run's folder. Subfolders and hidden files are left out.

        Raises:
            StorageError: If a file cannot be copied.
        """
        with self._explained():
            for path in sorted(folder.iterdir()):
                if path.is_file() and not path.name.startswith("."):
                    self._put(path, f"{self._address(folder)}/{path.name}")

    def _put(self, path: Path, address: str) -> None:
        self._storage.makedirs(address.rpartition("/")[0], exist_ok=True)
        self._storage.put_file(str(path), address)

    def _address(self, folder: Path) -> str:
        """Address in the storage of a folder below the local one."""
        return f"{self._root}/{folder.relative_to(self._local).as_posix()}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns the errors of the storage into one that names the URL."""
        try:
            yield
        except ArtefactError:
            raise
        # Object storage has errors of its own, which derive from Exception.
        except Exception as error:
            raise StorageError(
                f"`workdir` = {self._url!r} cannot be used: {type(error).__name__}: "
                f"{error}. Check the URL, the credentials in the environment, and that "
                "the package of the storage is installed. Finished steps are kept in "
                f"{self._local}; run the command again to go on."
            ) from error


def artefact_storage(config: Config) -> ArtefactStorage | None:
    """The storage of a configuration; None if its `workdir` is a local folder.

    Raises:
        StorageError: If the storage cannot be used.
    """
    if isinstance(config.workdir, Path):
        return None
    return ArtefactStorage(config.workdir, config.local_workdir)
