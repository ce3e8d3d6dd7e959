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
from recdistill.data.batches import RAW_PREFIX, Lists, catalogue_mask
from recdistill.data.collation import Collator
from recdistill.data.dataset import Progress
from recdistill.data.shard_reading import read_lists
from recdistill.errors import ScoreError
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.score_store import (
    ROUNDED_TOP,
    ROUNDING,
    WrittenFiles,
    rounded_ties,
    stored_files,
)
from recdistill.pipeline.scored_candidates import ScoredTrainingLists
from recdistill.pipeline.scorers import PAIRS_AT_ONCE, Scorer
from recdistill.teachers import ScoreTable

FILE_LISTS = 4_096
"""Number of lists in a file."""


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
    """

    score: Scorer
    prepared: Prepared
    config: ListsConfig
    seed: int
    progress: Progress
    training_rows: bool = False
    score_tables: Sequence[ScoreTable] = ()

    def write(self, folder: Path) -> dict[str, Any]:
        """Writes the files that are missing or damaged in the folder.

        Returns:
            The record of the step: `lists`, `list_size`, and `rounded_ties`, the share
            of adjacent scores in the top ten of a list that became equal when they were
            stored.

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
        total, done, number = sum(map(len, chosen)), 0, 0
        written = WrittenFiles(folder)
        for path, rows in zip(shards, chosen, strict=True):
            for start in range(0, len(rows), FILE_LISTS):
                part = rows[start : start + FILE_LISTS]
                target = folder / f"scores-{number:05d}.parquet"
                if not written.has(target):
                    table = pq.read_table(path).take(pa.array(part))
                    lists = read_lists(path).take(part)
                    rng = np.random.default_rng([self.seed, number])
                    self._write_file(target, table, lists, scored, rng)
                    written.add(target)
                number, done = number + 1, done + len(part)
                self.progress("Scoring with the teacher", done, total)
        files = stored_files(folder)
        return {
            "lists": total,
            "list_size": scored.width if scored else self._list_size(),
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
        chosen = np.sort(rng.choice(starts[-1], wanted, replace=False))
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
        rng: np.random.Generator,
    ) -> None:
        """Scores some lists, given with and without their Arrow columns."""
        dtype = self.config.scores_dtype
        collate = Collator(
            self.prepared.catalogue_size,
            training_rows=self.prepared.training_rows if self.training_rows else None,
            with_raw=True,
        )
        if scored:
            lists = scored.keep_scored(lists)
        batch = max(1, PAIRS_AT_ONCE // collate.catalogue_size)
        pieces, chosen, rounding = [], [], np.zeros(2, "int64")
        for start in range(0, len(lists), batch):
            piece = lists.take(np.arange(start, min(start + batch, len(lists))))
            x, _, _ = collate(piece, rng)
            scores = _checked(np.asarray(self.score(x)), x["mask"], dtype)
            rounding += _count_rounded(scores, x["mask"], dtype)
            if scored or self.config.size == "sampled":
                candidates = (
                    scored.candidates(x["mask"])
                    if scored
                    else self._choose(scores, piece, rng)
                )
                scores = np.take_along_axis(scores, np.maximum(candidates, 0), axis=1)
                chosen.append(candidates)
            pieces.append(scores.astype(dtype))
        # Students read looked-up values, so raw values are not stored.
        raw = [name for name in table.column_names if name.startswith(RAW_PREFIX)]
        table = table.drop_columns(raw)
        if chosen:
            candidates = _matrix(np.concatenate(chosen))
            table = table.append_column("scored_candidates", candidates)
        table = table.append_column("teacher_scores", _matrix(np.concatenate(pieces)))
        # Stored in the file, so that a step that continues has the counts as well.
        counts = {ROUNDING: json.dumps(rounding.tolist())}
        metadata = {**(table.schema.metadata or {}), **counts}
        with atomic_write(target) as aside:
            pq.write_table(table.replace_schema_metadata(metadata), aside)

    def _choose(
        self, scores: np.ndarray, lists: Lists, rng: np.random.Generator
    ) -> np.ndarray:
        """The observed candidates, the teacher's top candidates, and a uniform tail.

        No candidate occurs twice in a list, and seen items are left out.

        Returns:
            `(lists, list_size)` int32, padded with -1.
        """
        size = scores.shape[1]
        allowed = catalogue_mask(lists, size)
        own = lists.observed()[0].padded(-1)[:, : self._observed]
        missing = self._observed - own.shape[1]
        own = np.pad(own, [(0, 0), (0, missing)], constant_values=-1)
        _exclude(allowed, own)
        top = min(self.config.teacher_top, size - self._observed)
        order = np.argsort(np.where(allowed, -scores, np.inf), axis=1, kind="stable")
        best = _where_allowed(order[:, :top], allowed)
        _exclude(allowed, best)
        # With the tail a list is never longer than the catalogue.
        width = self._list_size() - self._observed - top
        lottery = np.where(allowed, rng.random(scores.shape), np.inf)
        drawn = np.argpartition(lottery, min(width, size - 1), axis=1)[:, :width]
        tail = _where_allowed(np.sort(drawn, axis=1), allowed)
        return np.concatenate([own, best, tail], axis=1)


def _checked(scores: np.ndarray, mask: np.ndarray, dtype: str) -> np.ndarray:
    """The scores of real candidates, if they can be stored."""
    wrong = np.count_nonzero(mask & ~np.isfinite(scores))
    if wrong:
        raise ScoreError(
            f"The teacher's scores must be finite. Received: {wrong} NaN or infinite "
            "scores"
        )
    scores = np.where(mask, scores, 0.0)
    largest, limit = float(np.abs(scores).max()), float(np.finfo(dtype).max)
    if largest > limit:
        raise ScoreError(
            f"The teacher's scores must lie within ±{limit:g} to be stored as {dtype}. "
            f"Received: {largest:g}. Store them with --set lists.scores_dtype=float32."
        )
    return scores


def _count_rounded(scores: np.ndarray, mask: np.ndarray, dtype: str) -> np.ndarray:
    """`(2,)`: adjacent top scores that rounding makes equal, and all that differ."""
    best = -np.sort(-np.where(mask, scores, -np.inf), axis=1)[:, :ROUNDED_TOP]
    differ = (best[:, 1:] < best[:, :-1]) & np.isfinite(best[:, 1:])
    stored = best.astype(dtype)
    lost = differ & (stored[:, 1:] == stored[:, :-1])
    return np.array([lost.sum(), differ.sum()])


def _where_allowed(items: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    found = np.take_along_axis(allowed, items, axis=1)
    return np.where(found, items, -1).astype("int32")


def _exclude(allowed: np.ndarray, items: np.ndarray) -> None:
    """Removes items from the allowed ones; -1 is padding."""
    rows, columns = np.nonzero(items >= 0)
    allowed[rows, items[rows, columns]] = False


def _matrix(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
