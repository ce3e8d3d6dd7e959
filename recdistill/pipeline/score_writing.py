"""Scores training lists with the teacher: the content of each file of a score store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data.batches import RAW_PREFIX, Lists
from recdistill.data.collation import Collator
from recdistill.data.shard_reading import DRAWN, read_lists
from recdistill.errors import ScoreError
from recdistill.pipeline.candidate_selection import highest
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
        for name, values in columns.items():
            table = table.append_column(name, _column(values))
        table = table.append_column(LIST_HASH, pa.array(keys))
        # Stored in the file, so that a step that continues has the counts as well.
        counts = {
            ROUNDING: json.dumps(columns[ROUNDED].sum(axis=0, dtype="int64").tolist())
        }
        own = {IDENTITY: self.identity, DRAWN: str(drawn), **counts}
        metadata = {**(table.schema.metadata or {}), **own}
        # Compression and statistics of long columns cost more than the scores.
        short = [name for name in table.column_names if name not in columns]
        content = pa.BufferOutputStream()
        pq.write_table(
            table.replace_schema_metadata(metadata),
            content,
            use_dictionary=short,
            write_statistics=short,
            compression={name: "snappy" for name in short},
        )
        return ScoredPart(content.getvalue().to_pybytes(), int(known.sum()))

    def _shard(self, path: Path) -> tuple[pa.Table, Lists]:
        """The columns and lists of a shard, which several files have lists of."""
        if path not in self._held:
            self._held.clear()  # Before reading: two shards take twice the memory.
            self._held[path] = _read_table(path), read_lists(path)
        return self._held[path]

    def _whole(
        self, lists: Lists, keys: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Columns of lists of all items, and which lists keep their scores."""
        known, parts = np.zeros(len(lists), bool), []
        if self.earlier is not None:
            known = self.earlier.has(keys)
            if known.any():
                parts.append((known, self.earlier.take(keys[known])))
        if not known.all():
            new = lists.take(np.flatnonzero(~known))
            batch = max(1, PAIRS_SCORED // self.prepared.catalogue_size)
            pieces = [
                self._catalogue(new.take(np.arange(at, min(at + batch, len(new)))))
                for at in range(0, len(new), batch)
            ]
            columns = {
                name: np.concatenate([piece[name] for piece in pieces])
                for name in pieces[0]
            }
            parts.append((~known, columns))
        return {name: _merged(name, parts) for name in parts[0][1]}, known

    def _catalogue(self, lists: Lists) -> dict[str, np.ndarray]:
        """The teacher's scores of the whole catalogue for some lists."""
        x = self._batch(lists)
        scores = np.array(self.score(x), "float32")
        hidden = np.flatnonzero(~x["mask"])
        scores.ravel()[hidden] = 0.0
        dtype = self.config.scores_dtype
        _check(scores, x["mask"], dtype)
        stored = scores.astype(dtype)
        scores.ravel()[hidden] = -np.inf
        rounding = _count_rounded(scores, dtype)
        return {"teacher_scores": stored, ROUNDED: rounding}

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
        _check(scores, wanted, dtype)
        ranked = np.where(real, scores, -np.inf)
        columns = {
            "scored_candidates": items,
            "teacher_scores": scores.astype(dtype),
            ROUNDED: _count_rounded(ranked, dtype),
        }
        if found.drawn:
            columns["drawn_weight"] = found.drawn_weight
        kept = np.full(len(items), self.earlier is not None)
        kept[np.flatnonzero(wanted.any(axis=1))] = False
        return columns, kept

    def _score_wanted(
        self, lists: Lists, found: Candidates, wanted: np.ndarray, scores: np.ndarray
    ) -> None:
        """Writes the teacher's scores of the wanted candidates into `scores`."""
        rows = np.flatnonzero(wanted.any(axis=1))
        if not len(rows):
            return
        # The wanted candidates of each list first.
        order = np.argsort(~wanted[rows], axis=1, kind="stable")
        width = int(np.count_nonzero(wanted[rows], axis=1).max())
        order = order[:, :width]
        real = np.take_along_axis(wanted[rows], order, axis=1)
        chosen = np.take_along_axis(found.items[rows], order, axis=1)
        chosen = np.where(real, chosen, -1)
        weight = np.take_along_axis(found.item_weight()[rows], order, axis=1)
        batch = max(1, PAIRS_SCORED // width)
        for start in range(0, len(rows), batch):
            part = slice(start, start + batch)
            piece = replace(lists.take(rows[part]), candidates=chosen[part])
            x = self._batch(piece)
            if not self.apart:
                x["item_weight"] = weight[part]
            values = np.asarray(self.score(x), "float32")
            row, column = np.nonzero(real[part])
            scores[rows[part][row], order[part][row, column]] = values[row, column]

    def _batch(self, lists: Lists) -> dict[str, Any]:
        """A batch for the teacher."""
        collate = Collator(
            self.prepared.catalogue_size,
            training_rows=self.prepared.training_rows if self.training_rows else None,
            with_teacher=lists.candidates is not None,
            with_raw=True,
        )
        return collate(lists, np.random.default_rng(0))[0]


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


def _column(values: np.ndarray) -> pa.Array:
    """A column of numbers, or of lists of equal length."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
