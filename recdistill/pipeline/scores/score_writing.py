"""Scores training lists with the teacher: the content of each file of a score store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data.batches import RAW_PREFIX, Lists
from recdistill.data.collation import scored_batch
from recdistill.data.dense_columns import with_matrix
from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import DRAWN, lists_of
from recdistill.errors import ScoreError
from recdistill.pipeline.candidates.candidate_selection import highest, to_the_left
from recdistill.pipeline.candidates.retriever import Candidates
from recdistill.pipeline.candidates.scored_candidates import ScoredTrainingLists
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.models.scorers import Scorer
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.scores.content_hashes import ContentHashes
from recdistill.pipeline.scores.earlier_scores import (
    IDENTITY,
    LIST_HASH,
    QUERY_HASH,
    ROUNDED,
    EarlierScores,
    KeptColumns,
)
from recdistill.pipeline.scores.score_parts import ScoredPart, ScorePart
from recdistill.pipeline.scores.score_store import CANDIDATES, ROUNDED_TOP, ROUNDING

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
        hashes: Hashes of what the teacher reads.
        propose: Candidates of the lists; None for the whole catalogue, or for the
            scored candidates if the teacher has partial scores.
        training_rows: Whether batches hold the query's training row, so that a linear
            item model can leave it out.
        scored: The lists with partial scores, if the teacher has such scores.
        identity: Identity of the teacher and the type of scores.
        earlier: Stores with this identity, whose scores are kept.
        apart: Whether the score of a candidate is the same in any list. If not, only
            the scores of lists with the same candidates are kept.
    """

    score: Scorer
    prepared: Prepared
    config: ListsConfig
    seed: int
    hashes: ContentHashes
    propose: Proposer | None = None
    training_rows: bool = False
    scored: ScoredTrainingLists | None = None
    identity: str = ""
    earlier: EarlierScores | None = None
    apart: bool = True
    _held: dict[Path, tuple[pa.Table, Lists]] = field(default_factory=dict, init=False)
    _counts: dict[str, float] = field(default_factory=dict, init=False)

    def __call__(self, part: ScorePart) -> ScoredPart:
        """The content of a file.

        Raises:
            ScoreError: If a score is not finite or too large to store.
        """
        # On a cluster, the node that planned the file may have another local folder.
        table, lists = self._shard(self.prepared.folder / "lists" / part.shard.name)
        if len(part.rows) < len(lists):
            table, lists = table.take(pa.array(part.rows)), lists.take(part.rows)
        scored = self.scored
        if scored:
            lists = scored.keep_scored(lists)
        self._counts.update(new=0, kept=0, seconds=0.0)
        queries = self.hashes.of_queries(lists)
        propose = scored.candidates if scored else self.propose
        drawn = 0
        if propose is None:
            columns = self._whole(lists, queries)
        else:
            observed, _ = lists.observed()
            keys = self.hashes.draw_keys(
                lists.list_key, observed, self.seed, lists.query
            )
            found = propose(lists, keys, part.name)
            columns = self._proposed(lists, queries, found)
            drawn = found.drawn
        short = [*table.column_names, LIST_HASH, QUERY_HASH]
        for name, values in {**columns, QUERY_HASH: queries}.items():
            if values.ndim == 2:
                table = with_matrix(table, name, values)
            else:
                table = table.append_column(name, pa.array(values))
        # Stored in the file, so that a step that continues has the counts as well.
        new, kept = int(self._counts["new"]), int(self._counts["kept"])
        counts = {
            ROUNDING: json.dumps(columns[ROUNDED].sum(axis=0, dtype="int64").tolist()),
            CANDIDATES: str(new + kept),
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
        return ScoredPart(content.getvalue(), new, kept, self._counts["seconds"])

    def _shard(self, path: Path) -> tuple[pa.Table, Lists]:
        """The columns and lists of a shard, which several files have lists of."""
        if path not in self._held:
            self._held.clear()  # Before reading: two shards take twice the memory.
            table = pq.read_table(path)
            raw = [name for name in table.column_names if name.startswith(RAW_PREFIX)]
            # Stored without raw values: students read looked-up ones.
            self._held[path] = table.drop_columns(raw), lists_of(table)
        return self._held[path]

    def _whole(self, lists: Lists, queries: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of lists of all items."""
        items = np.arange(self.prepared.catalogue_size)
        stored = np.zeros((len(lists), len(items)), self.config.scores_dtype)
        rounded = np.zeros((len(lists), 2), "int8")
        excluded = lists.excluded.distinct()
        hashes = self.hashes.of_whole_lists(queries, excluded)
        left = np.ones(len(lists), bool)
        for kept in self._kept_columns(hashes, queries, excluded):
            stored[np.ix_(kept.rows, kept.items)] = kept.scores
            rounded[kept.rows] = kept.rounded
            left[kept.rows] = False
            new = np.setdiff1d(items, kept.items)
            self._score_columns(lists, kept.rows, new, stored)
        self._counts["kept"] = len(lists) * len(items) - len(excluded.values)
        self._score_columns(lists, np.flatnonzero(left), None, stored, rounded)
        self._counts["kept"] -= self._counts["new"]
        # The scores of an earlier list have those of items that it did not exclude.
        stored[excluded.row_numbers(), excluded.values] = 0.0
        return {LIST_HASH: hashes, "teacher_scores": stored, ROUNDED: rounded}

    def _kept_columns(
        self, hashes: np.ndarray, queries: np.ndarray, excluded: Ragged
    ) -> Iterator[KeptColumns]:
        """Known scores of lists of all items; see `_whole`."""
        if self.earlier is None:
            return
        known = np.zeros(len(hashes), bool)
        for rows, found in self.earlier.lists(hashes):
            known[rows] = True
            # Lists that excluded the last items are the same without these items.
            scores = found["teacher_scores"][:, : self.prepared.catalogue_size]
            items = np.arange(scores.shape[1])
            yield KeptColumns(rows, items, scores, found[ROUNDED])
        if self.apart and not known.all():
            left = np.flatnonzero(~known)
            for each in self.earlier.columns(queries[left], excluded.take(left)):
                yield replace(each, rows=left[each.rows])

    def _score_columns(
        self,
        lists: Lists,
        rows: np.ndarray,
        items: np.ndarray | None,
        stored: np.ndarray,
        rounded: np.ndarray | None = None,
    ) -> None:
        """Scores the same items of some lists.

        Args:
            lists: The lists.
            rows: Their numbers.
            items: Ascending item rows; None for all.
            stored: `(lists, items)`, into which the scores are written.
            rounded: `(lists, 2)`, into which the counts of rounding are written.
        """
        width = stored.shape[1] if items is None else len(items)
        batch = max(1, PAIRS_SCORED // max(1, width))
        for start in range(0, len(rows) if width else 0, batch):
            part = rows[start : start + batch]
            x = self._batch(lists.take(part), items)
            scores, no_candidate = self._scored(x), np.nonzero(~x["mask"])
            scores[no_candidate] = 0.0
            _check(scores, stored.dtype.name)
            # Twice as fast as with a list of all columns.
            stored[part if items is None else np.ix_(part, items)] = scores
            if rounded is not None:
                scores[no_candidate] = -np.inf
                rounded[part] = _count_rounded(scores, stored.dtype.name)

    def _proposed(
        self, lists: Lists, queries: np.ndarray, found: Candidates
    ) -> dict[str, np.ndarray]:
        """Columns of lists of some candidates."""
        items, dtype = found.items, self.config.scores_dtype
        hashes = self.hashes.of_lists(queries, items, found.drawn, found.drawn_weight)
        wanted, scores = items >= 0, np.zeros(items.shape, "float32")
        rounded = np.full((len(items), 2), -1, "int8")
        self._counts["kept"] = int(np.count_nonzero(wanted))
        if self.earlier is not None:
            for rows, kept in self.earlier.lists(hashes):
                same = kept["scored_candidates"] >= 0
                values = np.zeros(items[rows].shape, "float32")
                values[items[rows] >= 0] = kept["teacher_scores"][same]
                scores[rows], rounded[rows] = values, kept[ROUNDED]
                wanted[rows] = False
            left = np.flatnonzero(wanted.any(axis=1))
            if self.apart and len(left):
                pairs = self.earlier.pairs(queries[left], items[left])
                scores[left], rounded[left] = pairs[1:]
                wanted[left] &= ~pairs[0]
        self._score_wanted(lists, found, wanted, scores)
        self._counts["kept"] -= self._counts["new"]
        _check(scores, dtype)
        columns = {"scored_candidates": items, "teacher_scores": scores.astype(dtype)}
        new = np.flatnonzero(rounded[:, 0] < 0)
        ranked = np.where(items[new] >= 0, scores[new], -np.inf)
        rounded[new] = _count_rounded(ranked, dtype)
        if found.drawn:
            columns["drawn_weight"] = found.drawn_weight
        return {LIST_HASH: hashes, **columns, ROUNDED: rounded}

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
            items = to_the_left(found.items[part], own, width)
            x = self._batch(lists.take(part), items)
            if not self.apart:
                weight = to_the_left(found.item_weight()[part], own, width)
                x["item_weight"] = np.where(items >= 0, weight, 1.0)
            values = self._scored(x)
            filled = scores[part]
            filled[own] = values[items >= 0]
            scores[part] = filled

    def _scored(self, x: dict[str, Any]) -> np.ndarray:
        """The teacher's scores of a batch, float32; they are counted and timed."""
        start = time.perf_counter()
        scores = np.array(self.score(x), "float32")
        self._counts["seconds"] += time.perf_counter() - start
        self._counts["new"] += int(np.count_nonzero(x["mask"]))
        return scores

    def _batch(self, lists: Lists, items: np.ndarray | None = None) -> dict[str, Any]:
        """A batch for the teacher; `items` is of all lists, or of each list."""
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
