"""Scores from earlier score stores: of lists that did not change, and of candidates.

An item has another row when items are added to the catalogue or removed, so a store has
the hash of each of its items, by which the rows are matched. An item whose features
changed has another hash and is scored again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.atomic import atomic_write
from recdistill.data.dense_columns import dense_column
from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import SEEN
from recdistill.errors import ArtefactError
from recdistill.pipeline.artefacts.artefact import open_artefact
from recdistill.pipeline.scores.score_store import WrittenFiles, stored_files

IDENTITY = b"recdistill.identity"
"""Key of the store's identity in the metadata of a file."""

LIST_HASH, QUERY_HASH = "list_hash", "query_hash"
"""Columns of a file: hash of the query and the candidates, and of the query alone."""

ROUNDED = "rounded"
"""Column of a file: the list's counts of rounding, when it was scored as a whole."""

SCORED = ("scored_candidates", "teacher_scores", ROUNDED)
"""Columns that the teacher's scores determine."""

ITEMS = "items.npy"
"""File of a store with the hashes of its items, in the order of their rows."""


def write_items(folder: Path, hashes: np.ndarray) -> None:
    """Writes the hashes of a store's items.

    Args:
        folder: The store.
        hashes: `(items,)` uint64.
    """
    with atomic_write(folder / ITEMS) as aside, aside.open("wb") as file:
        np.save(file, hashes)
    WrittenFiles(folder).add(folder / ITEMS)


def saved_seconds(kept: int, folders: Iterable[Path], identity: str) -> float | None:
    """Time that the teacher would have taken for kept scores.

    Args:
        kept: Number of kept scores.
        folders: Folders of finished score stores.
        identity: Identity of those whose scores were kept.

    Returns:
        Seconds, by the mean time of a score in these stores; None if they do not say.
    """
    scores, seconds = 0, 0.0
    for folder in folders:
        # A store with a damaged record is not needed here.
        with contextlib.suppress(ArtefactError):
            artefact = open_artefact(folder)
            record = {} if artefact is None else artefact.record
            if record.get("identity") == identity:
                scores += record["new_scores"] + record["kept_scores"]
                seconds += record["teacher_seconds"] + (record["saved_seconds"] or 0.0)
    return round(kept * seconds / scores, 3) if scores else None


@dataclass(frozen=True)
class KeptColumns:
    """Scores of lists of whole catalogues for the items that an earlier one had.

    Attributes:
        rows: `(k,)`, numbers of the lists.
        items: `(m,)`, ascending item rows.
        scores: `(k, m)`, as they were stored.
        rounded: `(k, 2)`, counts of rounding.
    """

    rows: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    rounded: np.ndarray


@dataclass(frozen=True)
class _File:
    """A file of an earlier store.

    Attributes:
        path: The file.
        lists: `(rows,)` uint64, the column `LIST_HASH`.
        queries: `(rows,)` uint64, the column `QUERY_HASH`.
        items: `(earlier items,)`, the row that each item has now; -1 for an item that
            was removed or has changed.
    """

    path: Path
    lists: np.ndarray
    queries: np.ndarray
    items: np.ndarray


class EarlierScores:
    """Scores in stores of the same teacher and type of scores.

    Files that are damaged or incomplete are left out.

    Args:
        folders: Folders of finished score stores.
        identity: Identity of the teacher and the type of scores. Files of another
            identity are left out.
        items: `(items,)` uint64, the hashes of the items.
    """

    def __init__(
        self, folders: Iterable[Path], identity: str, items: np.ndarray
    ) -> None:
        each = [file for f in folders for file in _files(f, identity, items)]
        # The stores with the most items that are still there are read first.
        self._files = sorted(each, key=lambda file: -np.count_nonzero(file.items >= 0))
        self._read = lru_cache(maxsize=4)(_read)

    def lists(
        self, lists: np.ndarray
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Known lists, with the same candidates in the same order.

        Args:
            lists: `(lists,)`, hashes of the queries and the candidates.

        Yields:
            Numbers of lists, each once, and their columns of `SCORED`. Item rows are
            those of the earlier store.
        """
        left = np.ones(len(lists), bool)
        for file in self._files:
            here, row = _same(lists, left, file.lists)
            left[here] = False
            if len(here):
                stored = self._read(file.path)
                yield here, {name: values[row] for name, values in stored.items()}

    def pairs(
        self, queries: np.ndarray, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Known scores of candidates, list by list.

        Args:
            queries: `(lists,)`, hashes of the queries.
            items: `(lists, n)`, item rows; -1 for no candidate.

        Returns:
            `(lists, n)`, whether the score of each candidate is known; `(lists, n)`
            float32, the scores, 0 where they are not; and `(lists, 2)`, the counts of
            rounding of a list with the same query, -1 where none is known.
        """
        known = np.zeros(items.shape, bool)
        scores = np.zeros(items.shape, "float32")
        rounded = np.full((len(items), 2), -1, "int8")
        for file in self._files:
            here = np.flatnonzero(~(known | (items < 0)).all(axis=1))
            here = here[np.isin(queries[here], file.queries)]
            if not len(here):
                continue
            # Lists of the same query have the same scores.
            different, group = np.unique(queries[here], return_inverse=True)
            place = np.searchsorted(different, file.queries)
            place = np.minimum(place, len(different) - 1)
            earlier = np.flatnonzero(different[place] == file.queries)
            stored = self._read(file.path)
            candidates = stored["scored_candidates"][earlier]
            found, values = _looked_up(
                (place[earlier], np.append(file.items, -1)[candidates]),
                stored["teacher_scores"][earlier],
                (group, items[here]),
            )
            scores[here] = np.where(known[here], scores[here], values)
            known[here] |= found
            first = np.full(len(different), -1)
            first[place[earlier][::-1]] = earlier[::-1]
            counts = stored[ROUNDED][first[group]]
            new = rounded[here, 0] < 0
            rounded[here[new]] = counts[new]
        return known, scores, rounded

    def columns(self, queries: np.ndarray, excluded: Ragged) -> Iterator[KeptColumns]:
        """Known scores of lists of the whole catalogue, each list once.

        Args:
            queries: `(lists,)`, hashes of the queries.
            excluded: Item rows of each list that are no candidates. A list with a
                candidate that was excluded before has no known scores.
        """
        left = np.ones(len(queries), bool)
        for file in self._files:
            here, row = _same(queries, left, file.queries)
            if not len(here):
                continue
            before = _excluded(file.path).take(row)
            moved = Ragged(file.items[before.values], before.offsets)
            new = moved.distinct().difference(excluded.take(here))
            fits = np.diff(new.offsets) == 0
            here, row = here[fits], row[fits]
            left[here] = False
            there = np.flatnonzero(file.items >= 0)
            there = there[np.argsort(file.items[there])]
            stored = self._read(file.path)
            yield KeptColumns(
                here,
                file.items[there],
                stored["teacher_scores"][np.ix_(row, there)],
                stored[ROUNDED][row],
            )


def _files(folder: Path, identity: str, items: np.ndarray) -> Iterator[_File]:
    """The intact files of a store, if it has this identity."""
    paths = [
        path for path in stored_files(folder) if _identity(path) == identity.encode()
    ]
    written = WrittenFiles(folder)
    if not paths or not written.has(folder / ITEMS):
        return
    rows = _rows_now(np.load(folder / ITEMS), items)
    for path in paths:
        if written.has(path):
            table = pq.read_table(path, columns=[LIST_HASH, QUERY_HASH])
            lists, queries = (np.asarray(each, "uint64") for each in table.columns)
            if len(lists):
                yield _File(path, lists, queries, rows)


def _identity(path: Path) -> bytes | None:
    """The identity of a file; None if it has none, or is no Parquet file."""
    try:
        metadata: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    return metadata.get(IDENTITY)


def _rows_now(earlier: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The row of each earlier item, by its hash; -1 if it is not there."""
    order = np.argsort(items)
    place = np.searchsorted(items, earlier, sorter=order)
    row = order[np.minimum(place, len(items) - 1)]
    return np.where(items[row] == earlier, row, -1)


def _same(
    hashes: np.ndarray, left: np.ndarray, earlier: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the hashes that are left and occur earlier, and their first place."""
    order = np.argsort(earlier, kind="stable")
    place = np.searchsorted(earlier, hashes, sorter=order)
    row = order[np.minimum(place, len(order) - 1)]
    here = np.flatnonzero(left & (earlier[row] == hashes))
    return here, row[here]


def _looked_up(
    candidates: tuple[np.ndarray, np.ndarray],
    scores: np.ndarray,
    wanted: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the score of each wanted candidate of a query is there, and it or 0.

    Args:
        candidates: `(lists,)`, numbers of the queries; and `(lists, n)`, item rows.
        scores: `(lists, n)`, of these.
        wanted: The same for the wanted candidates.
    """
    (query, rows), (own, items) = candidates, wanted
    size = 1 + max(int(rows.max()), int(items.max()), 0)
    real = rows >= 0
    keys = (query[:, None] * size + rows)[real]
    order = np.argsort(keys)
    keys, values = keys[order], scores[real][order]
    if not len(keys):
        return np.zeros(items.shape, bool), np.zeros(items.shape, "float32")
    looked_for = own[:, None] * size + items
    place = np.minimum(np.searchsorted(keys, looked_for), len(keys) - 1)
    found = (keys[place] == looked_for) & (items >= 0)
    return found, np.where(found, values[place], 0.0).astype("float32")


def _excluded(path: Path) -> Ragged:
    """The item rows of each list of a file that were no candidates."""
    table = pq.read_table(path, columns=["seen"])
    seen: Ragged = dense_column(table, "seen")
    if (table.schema.metadata or {}).get(SEEN) == b"include":
        return Ragged(seen.values[:0], np.zeros_like(seen.offsets))
    return seen


def _read(path: Path) -> dict[str, np.ndarray]:
    names: Sequence[str] = pq.read_schema(path).names
    names = [name for name in SCORED if name in names]
    table = pq.read_table(path, columns=names)
    return {name: dense_column(table, name) for name in names}
