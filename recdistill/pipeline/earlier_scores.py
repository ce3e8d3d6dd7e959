"""Scores of lists that did not change, from earlier score stores."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from recdistill.data.shard_reading import dense_column
from recdistill.pipeline.score_store import WrittenFiles, stored_files

IDENTITY = b"recdistill.identity"
"""Key of the store's identity in the metadata of a file."""

LIST_HASH, ROUNDED = "list_hash", "rounded"
"""Columns of a file: hash of the list's content, and its counts of rounding."""

SCORED = ("scored_candidates", "teacher_scores", ROUNDED)
"""Columns that the teacher's scores determine."""


class EarlierScores:
    """Lists in score stores with the same teacher, items and settings, by content.

    Files that are damaged or incomplete are left out.

    Args:
        folders: Folders of finished score stores.
        identity: Identity of the teacher, the items and the settings. Files of another
            identity are left out.
    """

    def __init__(self, folders: Iterable[Path], identity: str) -> None:
        self._files: list[Path] = []
        hashes = [np.zeros(0, "uint64")]
        for folder in folders:
            written = WrittenFiles(folder)
            for path in stored_files(folder):
                if not written.has(path):
                    continue
                metadata = pq.read_schema(path).metadata or {}
                if metadata.get(IDENTITY) == identity.encode():
                    self._files.append(path)
                    column = pq.read_table(path, columns=[LIST_HASH])[LIST_HASH]
                    hashes.append(np.asarray(column, "uint64"))
        lengths = [len(each) for each in hashes[1:]]
        file = np.repeat(np.arange(len(lengths)), lengths)
        row = np.concatenate([np.zeros(0, "int64"), *map(np.arange, lengths)])
        self._hashes, first = np.unique(np.concatenate(hashes), return_index=True)
        self._file, self._row = file[first], row[first]
        self._read = lru_cache(maxsize=4)(_read)

    def has(self, hashes: np.ndarray) -> np.ndarray:
        """`(lists,)` bool: whether the scores of a list are known."""
        return np.isin(hashes, self._hashes)

    def take(self, hashes: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of known lists, in the given order; those of `SCORED`.

        Args:
            hashes: `(lists,)`, at least one, all known.
        """
        place = np.searchsorted(self._hashes, hashes)
        file, row = self._file[place], self._row[place]
        found: dict[str, np.ndarray] = {}
        for number in np.unique(file):
            here = file == number
            for name, values in self._read(self._files[number]).items():
                shape = (len(hashes), *values.shape[1:])
                into = found.setdefault(name, np.empty(shape, values.dtype))
                into[here] = values[row[here]]
        return found


def _read(path: Path) -> dict[str, np.ndarray]:
    names = [name for name in SCORED if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=names)
    return {name: dense_column(table[name]) for name in names}
