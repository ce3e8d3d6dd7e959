"""Writes the score store: the teacher scores training lists, file by file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.atomic import atomic_write
from recdistill.data.batches import RAW_PREFIX, Lists
from recdistill.data.collation import Collator
from recdistill.data.dataset import Progress
from recdistill.data.shard_reading import read_lists
from recdistill.errors import ScoreError
from recdistill.pipeline.candidate_selection import highest, uniform_tail
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.earlier_scores import (
    IDENTITY,
    LIST_HASH,
    ROUNDED,
    EarlierScores,
)
from recdistill.pipeline.list_hashes import list_hashes
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.score_store import (
    ROUNDED_TOP,
    ROUNDING,
    WrittenFiles,
    rounded_ties,
    stored_files,
)
from recdistill.pipeline.scored_candidates import ScoredTrainingLists
from recdistill.pipeline.scorers import Scorer
from recdistill.teachers import ScoreTable

FILE_LISTS = 4_096
"""Number of lists in a file."""

PAIRS_SCORED = 400_000
"""Candidates scored per call. With fewer, a call costs more than its products."""


@dataclass(frozen=True)
class ScoreWriter:
    """Scores a random sample of the training lists with the teacher.

    Attributes:
        score: The teacher: a batch to scores `(batch, list_size)`.
        prepared: The prepared data.
        config: Number of lists, their candidates, and the type of stored scores.
        seed: Seed of the sample and of the uniform candidates.
        progress: Callback for progress.
        training_rows: Whether batches hold the query's training row, so that a linear
            item model can leave it out.
        score_tables: Partial scores of the teacher. All scored candidates are then
            stored, for any `config.size`.
        identity: Identity of the teacher, the items and the settings.
        earlier: Stores with this identity, whose scores are kept for lists that did not
            change.
    """

    score: Scorer
    prepared: Prepared
    config: ListsConfig
    seed: int
    progress: Progress
    training_rows: bool = False
    score_tables: Sequence[ScoreTable] = ()
    identity: str = ""
    earlier: EarlierScores | None = None

    def write(self, folder: Path) -> dict[str, Any]:
        """Writes the files that are missing or damaged in the folder.

        Returns:
            The record of the step: `lists`; `list_size`; `kept_scores`, the number of
            lists written now with the scores of an earlier store; and `rounded_ties`,
            the share of adjacent scores in the top ten of a list that became equal when
            they were stored.

        Raises:
            ScoreError: If a score is not finite or too large to store.
        """
        shards = self.prepared.shards("train")
        scored = (
            ScoredTrainingLists.find(shards, self.score_tables)
            if self.score_tables
            else None
        )
        chosen = self._sample(shards, scored)
        total, done, number, kept = sum(map(len, chosen)), 0, 0, 0
        written = WrittenFiles(folder)
        for path, rows in zip(shards, chosen, strict=True):
            shard: tuple[pa.Table, Lists] | None = None
            for start in range(0, len(rows), FILE_LISTS):
                part = rows[start : start + FILE_LISTS]
                target = folder / f"scores-{number:05d}.parquet"
                if not written.has(target):
                    shard = shard or (_read_table(path), read_lists(path))
                    table, lists = shard[0].take(pa.array(part)), shard[1].take(part)
                    kept += self._write_file(target, table, lists, scored)
                    written.add(target)
                number, done = number + 1, done + len(part)
                self.progress("Scoring with the teacher", done, total)
        files = stored_files(folder)
        return {
            "lists": total,
            "list_size": scored.width if scored else self._list_size(),
            "kept_scores": kept,
            "rounded_ties": rounded_ties(files),
        }

    def _sample(
        self, shards: Sequence[Path], scored: ScoredTrainingLists | None
    ) -> list[np.ndarray]:
        """The rows of each shard that are scored, in order."""
        sizes = [pq.read_metadata(path).num_rows for path in shards]
        rows = scored.rows if scored else [np.arange(size) for size in sizes]
        starts = np.cumsum([0, *map(len, rows)])
        rng = np.random.default_rng(self.seed)
        wanted = min(self.config.contexts, int(starts[-1]))
        # A larger sample of the same lists holds the smaller one.
        chosen = np.sort(rng.permutation(starts[-1])[:wanted])
        return [
            each[chosen[(chosen >= low) & (chosen < high)] - low]
            for each, (low, high) in zip(rows, pairwise(starts), strict=True)
        ]

    def _list_size(self) -> int:
        size = self.prepared.catalogue_size
        if self.config.size == "catalogue":
            return size
        return min(self.config.teacher_top + self.config.tail + self._observed, size)

    @property
    def _observed(self) -> int:
        """Largest number of positives, and of items shown with them, of a list."""
        return min(
            int(self.prepared.observed_sizes.max()), self.prepared.catalogue_size
        )

    def _write_file(
        self,
        target: Path,
        table: pa.Table,
        lists: Lists,
        scored: ScoredTrainingLists | None,
    ) -> int:
        """Writes a file of some lists, given with and without their Arrow columns.

        Returns:
            Number of lists whose scores are those of an earlier store.
        """
        collate = Collator(
            self.prepared.catalogue_size,
            training_rows=self.prepared.training_rows if self.training_rows else None,
            with_raw=True,
        )
        if scored:
            lists = scored.keep_scored(lists)
        keys = list_hashes(lists, self.seed)
        known = np.zeros(len(lists), bool)
        parts = []
        if self.earlier is not None:
            known = self.earlier.has(keys)
            if known.any():
                parts.append((known, self.earlier.take(keys[known])))
        if not known.all():
            new = np.flatnonzero(~known)
            columns = self._scored(lists.take(new), keys[new], collate, scored)
            parts.append((~known, columns))
        columns = {name: _merged(name, parts) for name in parts[0][1]}
        for name, values in columns.items():
            table = table.append_column(name, _matrix(values))
        table = table.append_column(LIST_HASH, pa.array(keys))
        # Stored in the file, so that a step that continues has the counts as well.
        counts = {
            ROUNDING: json.dumps(columns[ROUNDED].sum(axis=0, dtype="int64").tolist())
        }
        own = {IDENTITY: self.identity, **counts}
        metadata = {**(table.schema.metadata or {}), **own}
        # Compression and statistics of long columns cost more than the scores.
        short = [name for name in table.column_names if name not in columns]
        with atomic_write(target) as aside:
            pq.write_table(
                table.replace_schema_metadata(metadata),
                aside,
                use_dictionary=short,
                write_statistics=short,
                compression={name: "snappy" for name in short},
            )

        return int(known.sum())

    def _scored(
        self,
        lists: Lists,
        keys: np.ndarray,
        collate: Collator,
        scored: ScoredTrainingLists | None,
    ) -> dict[str, np.ndarray]:
        """The columns `earlier_scores.SCORED` of some lists, from the teacher."""
        own, parts = self._own(lists), []
        batch = max(1, PAIRS_SCORED // collate.catalogue_size)
        for start in range(0, len(lists), batch):
            part = slice(start, min(start + batch, len(lists)))
            piece = lists.take(np.arange(part.start, part.stop))
            x, _, _ = collate(piece, np.random.default_rng(0))
            scores = np.asarray(self.score(x))
            found = self._select(scores, x["mask"], own[part], keys[part], scored)
            parts.append(found)
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def _select(
        self,
        scores: np.ndarray,
        mask: np.ndarray,
        own: np.ndarray,
        keys: np.ndarray,
        scored: ScoredTrainingLists | None,
    ) -> dict[str, np.ndarray]:
        """Selects the stored candidates of some lists.

        Args:
            scores: `(lists, items)`.
            mask: `(lists, items)` bool.
            own: `(lists, n)`, the observed candidates, padded with -1.
            keys: `(lists,)`, the random key of each list.
            scored: The lists of a teacher with partial scores.

        Returns:
            The columns `earlier_scores.SCORED`; no candidates if they are all items.
        """
        dtype = self.config.scores_dtype
        hidden = np.flatnonzero(~mask)
        ranked = np.array(scores, "float32")
        ranked.ravel()[hidden] = 0.0
        _check(ranked, mask, dtype)
        whole = self.config.size == "catalogue" and not scored
        stored = ranked.astype(dtype) if whole else None
        ranked.ravel()[hidden] = -np.inf
        count = ROUNDED_TOP
        if not (whole or scored):
            count = max(count, self._top + self._observed)
        order = highest(ranked, min(count, scores.shape[1]))
        rounding = _count_rounded(_picked(ranked, order[:, :ROUNDED_TOP]), dtype)
        if stored is not None:
            return {"teacher_scores": stored, ROUNDED: rounding}
        if scored:
            candidates = scored.candidates(mask)
        else:
            candidates = self._choose(ranked, order, own, keys)
        place = np.maximum(candidates, 0)
        values = np.where(candidates >= 0, _picked(scores, place), 0.0)
        # The top and the tail are free of masked items.
        first = slice(0, own.shape[1])
        values[:, first] *= _picked(mask, place[:, first])
        return {
            "scored_candidates": candidates,
            "teacher_scores": values.astype(dtype),
            ROUNDED: rounding,
        }

    @property
    def _top(self) -> int:
        size = self.prepared.catalogue_size
        return min(self.config.teacher_top, size - self._observed)

    def _own(self, lists: Lists) -> np.ndarray:
        """The observed candidates, `(lists, n)`, padded with -1."""
        own = lists.observed()[0].padded(-1)[:, : self._observed]
        missing = self._observed - own.shape[1]
        return np.pad(own, [(0, 0), (0, missing)], constant_values=-1)

    def _choose(
        self, ranked: np.ndarray, order: np.ndarray, own: np.ndarray, keys: np.ndarray
    ) -> np.ndarray:
        """The observed candidates, the teacher's top candidates, and a uniform tail.

        No candidate occurs twice in a list, and seen items are left out.

        Args:
            ranked: `(lists, items)`, -inf for what is not a candidate; changed.
            order: `(lists, n)`, the items with the highest scores, enough for the top
                if all observed candidates are among them.
            own: `(lists, n)`, the observed candidates, padded with -1.
            keys: `(lists,)`, the random key of each list.

        Returns:
            `(lists, list_size)` int32, padded with -1.
        """
        rows, columns = np.nonzero(own >= 0)
        ranked[rows, own[rows, columns]] = -np.inf
        allowed = _picked(ranked, order) > -np.inf
        place = np.cumsum(allowed, axis=1)
        allowed &= place <= self._top
        best = np.full((len(own), self._top), -1, "int32")
        rows, items = np.nonzero(allowed)[0], order[allowed]
        best[rows, place[allowed] - 1] = items
        ranked[rows, items] = -np.inf
        # With the tail a list is never longer than the catalogue.
        width = self._list_size() - self._observed - self._top
        tail = uniform_tail(ranked > -np.inf, width, keys)
        return np.concatenate([own.astype("int32"), best, tail], axis=1)


def _read_table(path: Path) -> pa.Table:
    """The columns of a shard, without raw values: students read looked-up ones."""
    names = pq.read_schema(path).names
    kept = [name for name in names if not name.startswith(RAW_PREFIX)]
    return pq.read_table(path, columns=kept)


def _check(scores: np.ndarray, mask: np.ndarray, dtype: str) -> None:
    """Checks that scores can be stored; those that are not real are 0.

    Raises:
        ScoreError: If not.
    """
    # NaN is passed on by both.
    largest = max(float(scores.max()), -float(scores.min()))
    if not np.isfinite(largest):
        wrong = np.count_nonzero(mask & ~np.isfinite(scores))
        raise ScoreError(
            f"The teacher's scores must be finite. Received: {wrong} NaN or infinite "
            "scores"
        )
    limit = float(np.finfo(dtype).max)
    if largest > limit:
        raise ScoreError(
            f"The teacher's scores must lie within ±{limit:g} to be stored as {dtype}. "
            f"Received: {largest:g}. Store them with --set lists.scores_dtype=float32."
        )


def _count_rounded(best: np.ndarray, dtype: str) -> np.ndarray:
    """`(lists, 2)`: adjacent top scores that rounding makes equal; that differ."""
    differ = (best[:, 1:] < best[:, :-1]) & np.isfinite(best[:, 1:])
    stored = best.astype(dtype)
    lost = differ & (stored[:, 1:] == stored[:, :-1])
    return np.stack([lost.sum(axis=1), differ.sum(axis=1)], axis=1).astype("int8")


def _picked(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The values of each row in the given columns."""
    starts = np.arange(len(values)) * values.shape[1]
    return np.asarray(values.ravel()[columns + starts[:, None]])


def _merged(
    name: str, parts: Sequence[tuple[np.ndarray, dict[str, np.ndarray]]]
) -> np.ndarray:
    """One column from parts of its rows."""
    if len(parts) == 1:
        return parts[0][1][name]
    first = parts[0][1][name]
    merged = np.empty((len(parts[0][0]), *first.shape[1:]), first.dtype)
    for rows, columns in parts:
        merged[rows] = columns[name]
    return merged


def _matrix(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
