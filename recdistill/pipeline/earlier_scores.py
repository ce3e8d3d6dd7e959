"""Scores of lists that did not change, from earlier score stores."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from recdistill.data.dense_columns import dense_column
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
        self._hashes_of_files = hashes[1:]
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

    def pairs(
        self, hashes: np.ndarray, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Known scores of candidates, list by list.

        Args:
            hashes: `(lists,)`.
            items: `(lists, n)`, item rows; -1 for no candidate.

        Returns:
            `(lists, n)`, whether the score of each candidate is known; and the scores,
            0 where they are not.
        """
        known = np.zeros(items.shape, bool)
        scores = np.zeros(items.shape, "float32")
        for path, own in zip(self._files, self._hashes_of_files, strict=True):
            order = np.argsort(own, kind="stable")
            place = np.searchsorted(own, hashes, sorter=order)
            row = order[np.minimum(place, len(own) - 1)]
            here = np.flatnonzero((own[row] == hashes) & ~(known | (items < 0)).all(1))
            if not len(here):
                continue
            stored = self._read(path)
            candidates = stored["scored_candidates"][row[here]]
            found, values = _looked_up(
                candidates, stored["teacher_scores"][row[here]], items[here]
            )
            scores[here] = np.where(known[here], scores[here], values)
            known[here] |= found
        return known, scores


def _looked_up(
    candidates: np.ndarray, scores: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each item is a candidate in the same row, and its score there or 0."""
    size = 1 + max(int(candidates.max()), int(items.max()), 0)
    real = candidates >= 0
    rows = np.arange(len(items))[:, None] * size
    keys = (rows + candidates)[real]
    order = np.argsort(keys)
    keys, values = keys[order], scores[real][order]
    if not len(keys):
        return np.zeros(items.shape, bool), np.zeros(items.shape, "float32")
    place = np.searchsorted(keys, rows + items)
    place = np.minimum(place, len(keys) - 1)
    found = (keys[place] == rows + items) & (items >= 0)
    return found, np.where(found, values[place], 0.0).astype("float32")


def _read(path: Path) -> dict[str, np.ndarray]:
    names = [name for name in SCORED if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=names)
    return {name: dense_column(table, name) for name in names}
