"""Scores training lists with the teacher: the content of each file of a score store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data.batches import RAW_PREFIX, Lists
from recdistill.data.collation import scored_batch
from recdistill.data.dense_columns import with_matrix
from recdistill.data.shard_reading import DRAWN, lists_of
from recdistill.errors import ScoreError
from recdistill.pipeline.candidate_selection import highest, to_the_left
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.earlier_scores import (
    IDENTITY,
    LIST_HASH,
    ROUNDED,
    EarlierScores,
)
from recdistill.pipeline.list_hashes import list_hashes
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.retriever import Candidates
from recdistill.pipeline.score_parts import ScoredPart, ScorePart
from recdistill.pipeline.score_store import ROUNDED_TOP, ROUNDING
from recdistill.pipeline.scored_candidates import ScoredTrainingLists
from recdistill.pipeline.scorers import Scorer

PAIRS_SCORED = 400_000
"""Candidates scored per call. With fewer, a call costs more than its products."""

Proposer = Callable[[Lists, np.ndarray, str], Candidates]
"""Candidates of lists, from the lists, their keys, and the name of the file."""


@dataclass(frozen=True)
class ScoreWriter:
    """Scores the lists of a file with the teacher.

    Attributes:
        score: The teacher: a batch to scores `(batch, list_size)`.
        prepared: The prepared data.
        config: The type of stored scores.
        seed: Seed of the drawn candidates.
        propose: Candidates of the lists; None for the whole catalogue, or for the
            scored candidates if the teacher has partial scores.
        training_rows: Whether batches hold the query's training row, so that a linear
            item model can leave it out.
        scored: The lists with partial scores, if the teacher has such scores.
        identity: Identity of the teacher, the items and the settings.
        earlier: Stores with this identity, whose scores are kept for lists that did not
            change.
        apart: Whether the score of a candidate is the same in any list. If not, a list
            with a new candidate is scored as a whole.
    """

    score: Scorer
    prepared: Prepared
    config: ListsConfig
    seed: int
    propose: Proposer | None = None
    training_rows: bool = False
    scored: ScoredTrainingLists | None = None
    identity: str = ""
    earlier: EarlierScores | None = None
    apart: bool = True
    _held: dict[Path, tuple[pa.Table, Lists]] = field(default_factory=dict, init=False)

    def __call__(self, part: ScorePart) -> ScoredPart:
        """The content of a file.

        Raises:
            ScoreError: If a score is not finite or too large to store.
        """
        table, lists = self._shard(part.shard)
        if len(part.rows) < len(lists):
            table, lists = table.take(pa.array(part.rows)), lists.take(part.rows)
        scored = self.scored
        if scored:
            lists = scored.keep_scored(lists)
        keys = list_hashes(lists, self.seed)
        propose = scored.candidates if scored else self.propose
        drawn = 0
        if propose is None:
            columns, known = self._whole(lists, keys)
        else:
            found = propose(lists, keys, part.name)
            columns, known = self._proposed(lists, keys, found)
            drawn = found.drawn
        short = [*table.column_names, LIST_HASH]
        table = table.append_column(LIST_HASH, pa.array(keys))
        for name, values in columns.items():
            if values.ndim == 2:
                table = with_matrix(table, name, values)
            else:
                table = table.append_column(name, pa.array(values))
        # Stored in the file, so that a step that continues has the counts as well.
        counts = {
            ROUNDING: json.dumps(columns[ROUNDED].sum(axis=0, dtype="int64").tolist())
        }
        own = {IDENTITY: self.identity, DRAWN: str(drawn), **counts}
        metadata = {**(table.schema.metadata or {}), **own}
        content = pa.BufferOutputStream()
        pq.write_table(
            table.replace_schema_metadata(metadata),
            content,
            # Compression and statistics of long columns cost more than the scores.
            use_dictionary=short,
            write_statistics=short,
            compression={name: "snappy" for name in short},
        )
        return ScoredPart(content.getvalue(), int(known.sum()))

    def _shard(self, path: Path) -> tuple[pa.Table, Lists]:
        """The columns and lists of a shard, which several files have lists of."""
        if path not in self._held:
            self._held.clear()  # Before reading: two shards take twice the memory.
            table = pq.read_table(path)
            raw = [name for name in table.column_names if name.startswith(RAW_PREFIX)]
            # Stored without raw values: students read looked-up ones.
            self._held[path] = table.drop_columns(raw), lists_of(table)
        return self._held[path]

    def _whole(
        self, lists: Lists, keys: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Columns of lists of all items, and which lists keep their scores."""
        items, dtype = self.prepared.catalogue_size, self.config.scores_dtype
        stored = np.empty((len(lists), items), dtype)
        rounded = np.empty((len(lists), 2), "int8")
        known = np.zeros(len(lists), bool)
        if self.earlier is not None:
            known = self.earlier.has(keys)
            if known.any():
                found = self.earlier.take(keys[known])
                stored[known], rounded[known] = found["teacher_scores"], found[ROUNDED]
        new = np.flatnonzero(~known)
        batch = max(1, PAIRS_SCORED // items)
        for start in range(0, len(new), batch):
            rows = new[start : start + batch]
            part = lists.take(rows)
            scores = np.array(self.score(self._batch(part)), "float32")
            excluded = part.excluded.row_numbers(), part.excluded.values
            scores[excluded] = 0.0
            _check(scores, dtype)
            stored[rows] = scores
            scores[excluded] = -np.inf
            rounded[rows] = _count_rounded(scores, dtype)
        return {"teacher_scores": stored, ROUNDED: rounded}, known

    def _proposed(
        self, lists: Lists, keys: np.ndarray, found: Candidates
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Columns of lists of some candidates, and which lists keep their scores."""
        items, dtype = found.items, self.config.scores_dtype
        real = items >= 0
        known, scores = np.zeros(items.shape, bool), np.zeros(items.shape, "float32")
        if self.earlier is not None:
            known, scores = self.earlier.pairs(keys, items)
        wanted = real & ~known
        if not self.apart:
            wanted = real & wanted.any(axis=1, keepdims=True)
        self._score_wanted(lists, found, wanted, scores)
        _check(scores, dtype)
        columns = {"scored_candidates": items, "teacher_scores": scores.astype(dtype)}
        scores[~real] = -np.inf
        columns[ROUNDED] = _count_rounded(scores, dtype)
        if found.drawn:
            columns["drawn_weight"] = found.drawn_weight
        kept = np.full(len(items), self.earlier is not None)
        kept[np.flatnonzero(wanted.any(axis=1))] = False
        return columns, kept

    def _score_wanted(
        self, lists: Lists, found: Candidates, wanted: np.ndarray, scores: np.ndarray
    ) -> None:
        """Writes the teacher's scores of the wanted candidates into `scores`."""
        count = np.count_nonzero(wanted, axis=1)
        rows, width = np.flatnonzero(count), int(count.max(initial=0))
        batch = max(1, PAIRS_SCORED // max(1, width))
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            own = wanted[part]
            items = to_the_left(found.items[part], own)[:, :width]
            x = self._batch(lists.take(part), items)
            if not self.apart:
                weight = to_the_left(found.item_weight()[part], own)[:, :width]
                x["item_weight"] = np.where(items >= 0, weight, 1.0)
            values = np.asarray(self.score(x), "float32")
            filled = scores[part]
            filled[own] = values[items >= 0]
            scores[part] = filled

    def _batch(self, lists: Lists, items: np.ndarray | None = None) -> dict[str, Any]:
        """A batch for the teacher."""
        prepared = self.prepared
        training_rows = prepared.training_rows if self.training_rows else None
        return scored_batch(lists, prepared.catalogue_size, items, training_rows)


def _check(scores: np.ndarray, dtype: str) -> None:
    """Checks that scores can be stored; those that are not real are 0.

    Raises:
        ScoreError: If not.
    """
    # NaN is passed on by both.
    largest = max(float(scores.max()), -float(scores.min()))
    if not np.isfinite(largest):
        wrong = np.count_nonzero(~np.isfinite(scores))
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


def _count_rounded(ranked: np.ndarray, dtype: str) -> np.ndarray:
    """`(lists, 2)`: adjacent top scores that rounding makes equal; that differ.

    Args:
        ranked: `(lists, n)` float32, -inf for what is not a candidate.
        dtype: Type of the stored scores.
    """
    top = highest(ranked, min(ROUNDED_TOP, ranked.shape[1]))
    best = np.take_along_axis(ranked, top, axis=1)
    differ = (best[:, 1:] < best[:, :-1]) & np.isfinite(best[:, 1:])
    stored = best.astype(dtype)
    lost = differ & (stored[:, 1:] == stored[:, :-1])
    return np.stack([lost.sum(axis=1), differ.sum(axis=1)], axis=1).astype("int8")
