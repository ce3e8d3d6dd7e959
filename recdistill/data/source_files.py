"""Source files of a data set, and a check that they have not changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recdistill.data.table_streams import file_digest, reading
from recdistill.errors import DataError


@dataclass(frozen=True)
class SourceFiles:
    """Files and their digests at the moment when a data set was opened.

    Attributes:
        paths: The files by name.
        digests: SHA-256 (hex) of each file.
        states: Inode, size and time of the last change of each file.
    """

    paths: Mapping[str, Path]
    digests: dict[str, str]
    states: Mapping[str, tuple[int, int, int]]

    @classmethod
    def of(cls, paths: Mapping[str, Path]) -> SourceFiles:
        """Digests of these files.

        Raises:
            DataError: If a file cannot be read.
        """
        states = {name: _state(path) for name, path in paths.items()}
        digests = {name: file_digest(path) for name, path in paths.items()}
        return cls(paths, digests, states)

    def verify(self) -> None:
        """Checks that the files are still those that were opened.

        Raises:
            DataError: If a file was changed, replaced or removed.
        """
        for name, path in self.paths.items():
            try:
                same = _state(path) == self.states[name]
                same = same and file_digest(path) == self.digests[name]
            except DataError:
                same = False
            if not same:
                raise DataError(
                    f"{path} changed while it was read, so the result would mix two "
                    "versions of the data. Run the command again when the file is "
                    "complete."
                )


def _state(path: Path) -> tuple[int, int, int]:
    with reading(path):
        found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
