"""The score store: lists with their teacher's scores, written once, shared by students.

Each file holds some training lists with all their columns, and beside them
`teacher_scores`, and `scored_candidates` unless the whole catalogue is scored. Files
appear one by one, whole; a step that was killed goes on where it stopped. The store is
named by what determines it (teacher, lists, settings), never by who reads it, and its
record has a checksum for each file, so that nobody trains on a damaged one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
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
from recdistill.data.shard_reading import read_lists
from recdistill.distillation.score_doctor import Examination, examine, sample
from recdistill.errors import ScoreError
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.partitions import Progress
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.validation import PAIRS_AT_ONCE, Scorer

FILE_LISTS = 4_096
TOP = 10
"""How many of a list's best are checked for what rounding does to their order."""

ROUNDING_LIMIT = 0.05
"""The share of neighbours in the top that may become equal before it is said."""

_ROUNDING = b"recdistill.rounding"


def write_scores(
    score: Scorer,
    prepared: Prepared,
    config: ListsConfig,
    folder: Path,
    seed: int,
    progress: Progress,
    *,
    training_rows: bool,
    restrict: Callable[[Lists], Lists] | None = None,
) -> dict[str, Any]:
    """Scores a random sample of the training lists.

    Args:
        score: The teacher: batch to scores `(batch, list_size)`.
        prepared: The prepared data.
        config: How many lists, which candidates are kept, and how exactly.
        folder: Where the files go; those that are there already are kept.
        seed: Seeds the sample and the tails.
        progress: Told how far the work is.
        training_rows: Whether batches hold the query's training row, so that a linear
        item
            model can leave it out.
        restrict: Cuts lists down to what a teacher of some scores has; they are then
            stored as they are, whatever `config.size` says.

    Returns:
        The step's record: `lists`, `list_size`, `sha256` by file, and `rounded_ties`,
        the share of neighbours in the top ten that storing made equal.

    Raises:
        ScoreError: If a score is not finite, or too large to store.
    """
    shards = prepared.shards("train")
    given = None if restrict is None else PartialScores.of(shards, restrict)
    chosen = _sample(shards, config.contexts, seed, given)
    total, done, number = sum(map(len, chosen)), 0, 0
    size = given.width if given else _list_size(config, prepared.catalogue_size)
    collate = Collator(
        prepared.catalogue_size,
        training_rows=prepared.training_rows if training_rows else None,
        with_raw=True,
    )
    for path, rows in zip(shards, chosen, strict=True):
        for start in range(0, len(rows), FILE_LISTS):
            part = rows[start : start + FILE_LISTS]
            target = folder / f"scores-{number:05d}.parquet"
            if not target.exists():
                rng = np.random.default_rng([seed, number])
                _write_file(score, collate, config, path, part, target, rng, given)
            number, done = number + 1, done + len(part)
            progress("Scoring with the teacher", done, total)
    files = stored_files(folder)
    return {
        "lists": total,
        "list_size": size,
        "rounded_ties": _rounded_ties(files),
        "sha256": {path.name: _checksum(path) for path in files},
    }


def stored_files(folder: Path) -> list[Path]:
    """The files of a store, in order."""
    return sorted(folder.glob("scores-*.parquet"))


def verified_files(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """The files of a finished store, each known to hold what was written.

    Args:
        folder: The store.
        record: The record of the step that wrote it.

    Raises:
        ScoreError: If a file is missing, damaged, or was not there when it was written.
    """
    found = {path.name: path for path in stored_files(folder)}
    written: Mapping[str, str] = record["sha256"]
    for name in sorted({*found, *written}):
        if name not in written:
            fault = f"has a file {name} that nobody wrote"
        elif name not in found:
            fault = f"lacks {name}"
        elif _checksum(found[name]) != written[name]:
            fault = f"is damaged: {name} is not what was written"
        else:
            continue
        raise ScoreError(
            f"The store of teacher scores {folder} {fault}. Remove the folder and run "
            "again: the teacher scores the lists anew."
        )
    return list(found.values())


def examine_stored(folder: Path, catalogue_size: int) -> Examination:
    """What the doctor says of a store; a sample of many lists.

    Args:
        folder: The store.
        catalogue_size: Number of items.
    """
    files = stored_files(folder)
    sizes = [pq.read_metadata(path).num_rows for path in files]
    width = pq.read_schema(files[0]).field("teacher_scores").type.list_size
    chosen = sample(sum(sizes), width)
    collate = Collator(catalogue_size, with_teacher=True)
    scores, mask = [], []
    for path, low, size in zip(files, np.cumsum([0, *sizes]), sizes, strict=False):
        rows = chosen[(chosen >= low) & (chosen < low + size)] - low
        if len(rows):
            x, _, _ = collate(read_lists(path).take(rows), np.random.default_rng(0))
            scores.append(x["teacher_scores"])
            mask.append(x["mask"])
    return examine(np.concatenate(scores), np.concatenate(mask))


def rounding_warning(config: ListsConfig, record: Mapping[str, Any]) -> str | None:
    """What storing cost the teacher's order, if that is worth a word.

    Args:
        config: The `lists` section.
        record: The record of the step that wrote the store.
    """
    if record["rounded_ties"] < ROUNDING_LIMIT:
        return None
    return (
        f"As {config.scores_dtype}, {record['rounded_ties']:.1%} of neighbours in the "
        f"teacher's top {TOP} have become equal. Keep their order with "
        "lists.scores_dtype=float32."
    )


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class PartialScores:
    """Lists of a teacher that has only some scores.

    Attributes:
        restrict: Cuts lists down to the candidates that it has.
        rows: For each shard the rows of the lists where it has two at least.
        width: Candidates of the longest of these lists.
    """

    restrict: Callable[[Lists], Lists]
    rows: list[np.ndarray]
    width: int

    @classmethod
    def of(
        cls, shards: list[Path], restrict: Callable[[Lists], Lists]
    ) -> PartialScores:
        """Looks through the training lists.

        Raises:
            ScoreError: If the teacher has no list with two candidates.
        """
        rows, width = [], 0
        for path in shards:
            lists = read_lists(path, with_raw=False)
            left = restrict(lists)
            length = (
                np.diff(left.scored_candidates.offsets)
                if left.scored_candidates
                else np.zeros(0, int)
            )
            kept = left.list_id[length > 1]
            rows.append(np.flatnonzero(np.isin(lists.list_id, kept)))
            width = max(width, int(length.max(initial=0)))
        if not sum(map(len, rows)):
            raise ScoreError(
                "The teacher must have scores for two candidates of a training list, "
                "or there is nothing to learn from it. Received: no such list"
            )
        return cls(restrict, rows, width)

    def candidates(self, mask: np.ndarray) -> np.ndarray:
        """`(lists, width)` int32: where the mask is True; -1 as padding."""
        row, item = np.nonzero(mask)
        place = np.full((len(mask), self.width), -1, "int32")
        first = np.searchsorted(row, np.arange(len(mask)))
        place[row, np.arange(len(row)) - first[row]] = item
        return place


def _sample(
    shards: list[Path], wanted: int, seed: int, given: PartialScores | None = None
) -> list[np.ndarray]:
    """For each shard the rows that are scored, in order."""
    sizes = [pq.read_metadata(path).num_rows for path in shards]
    rows = given.rows if given else [np.arange(size) for size in sizes]
    starts = np.cumsum([0, *map(len, rows)])
    rng = np.random.default_rng(seed)
    wanted = min(wanted, int(starts[-1]))
    chosen = np.sort(rng.choice(starts[-1], wanted, replace=False))
    return [
        own[chosen[(chosen >= low) & (chosen < high)] - low]
        for own, (low, high) in zip(rows, pairwise(starts), strict=True)
    ]


def _list_size(config: ListsConfig, catalogue_size: int) -> int:
    if config.size == "catalogue":
        return catalogue_size
    return min(config.teacher_top + config.tail + 1, catalogue_size)


def _write_file(
    score: Scorer,
    collate: Collator,
    config: ListsConfig,
    shard: Path,
    rows: np.ndarray,
    target: Path,
    rng: np.random.Generator,
    given: PartialScores | None,
) -> None:
    lists = read_lists(shard).take(rows)
    if given:
        lists = given.restrict(lists)
    batch = max(1, PAIRS_AT_ONCE // collate.catalogue_size)
    pieces, places, rounding = [], [], np.zeros(2, "int64")
    for start in range(0, len(lists), batch):
        piece = lists.take(np.arange(start, min(start + batch, len(lists))))
        x, _, _ = collate(piece, rng)
        scores = _checked(np.asarray(score(x)), x["mask"], config.scores_dtype)
        rounding += _count_rounded(scores, x["mask"], config.scores_dtype)
        if given or config.size == "sampled":
            place = (
                given.candidates(x["mask"])
                if given
                else _choose(scores, piece, config, rng)
            )
            scores = np.take_along_axis(scores, np.maximum(place, 0), axis=1)
            places.append(place)
        pieces.append(scores.astype(config.scores_dtype))
    table = pq.read_table(shard).take(pa.array(rows))
    # Students read looked-up values; raw ones would only be carried about.
    raw = [name for name in table.column_names if name.startswith(RAW_PREFIX)]
    table = table.drop_columns(raw)
    if places:
        table = table.append_column(
            "scored_candidates", _matrix(np.concatenate(places))
        )
    table = table.append_column("teacher_scores", _matrix(np.concatenate(pieces)))
    # In the file, so that a step which goes on still knows it.
    notes = {**(table.schema.metadata or {}), _ROUNDING: json.dumps(rounding.tolist())}
    with atomic_write(target) as aside:
        pq.write_table(table.replace_schema_metadata(notes), aside)


def _checked(scores: np.ndarray, mask: np.ndarray, dtype: str) -> np.ndarray:
    """The scores of real candidates, known to be fit for the store."""
    wrong = np.count_nonzero(mask & ~np.isfinite(scores))
    if wrong:
        raise ScoreError(
            f"The teacher's scores must be finite. Received: {wrong} NaN or infinite "
            "scores"
        )
    scores = np.where(mask, scores, 0.0)
    largest, most = float(np.abs(scores).max()), float(np.finfo(dtype).max)
    if largest > most:
        raise ScoreError(
            f"The teacher's scores must lie within ±{most:g} to be stored as {dtype}. "
            f"Received: {largest:g}. Store them with --set lists.scores_dtype=float32."
        )
    return scores


def _count_rounded(scores: np.ndarray, mask: np.ndarray, dtype: str) -> np.ndarray:
    """`(2,)`: neighbours in the tops that rounding makes equal, and all that differ."""
    best = -np.sort(-np.where(mask, scores, -np.inf), axis=1)[:, :TOP]
    differ = (best[:, 1:] < best[:, :-1]) & np.isfinite(best[:, 1:])
    stored = best.astype(dtype)
    lost = differ & (stored[:, 1:] == stored[:, :-1])
    return np.array([lost.sum(), differ.sum()])


def _rounded_ties(files: list[Path]) -> float:
    counts = [json.loads(pq.read_schema(path).metadata[_ROUNDING]) for path in files]
    lost, differ = np.sum(counts, axis=0)
    return float(lost / max(1, differ))


def _choose(
    scores: np.ndarray, lists: Lists, config: ListsConfig, rng: np.random.Generator
) -> np.ndarray:
    """Positive, the teacher's best in order, and a uniform tail; -1 as padding.

    No candidate stands twice in a list, and none that the query has seen.
    """
    size = scores.shape[1]
    allowed = catalogue_mask(lists, size)
    positives = lists.positives.padded(-1)
    _cross_out(allowed, positives)
    top = min(config.teacher_top, size - 1)
    order = np.argsort(np.where(allowed, -scores, np.inf), axis=1, kind="stable")
    best = _where_allowed(order[:, :top], allowed)
    _cross_out(allowed, best)
    # With the tail a list is never longer than the catalogue.
    width = _list_size(config, size) - 1 - top
    lottery = np.where(allowed, rng.random(scores.shape), np.inf)
    drawn = np.argpartition(lottery, min(width, size - 1), axis=1)[:, :width]
    tail = _where_allowed(np.sort(drawn, axis=1), allowed)
    return np.concatenate([positives, best, tail], axis=1)


def _where_allowed(items: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    found = np.take_along_axis(allowed, items, axis=1)
    return np.where(found, items, -1).astype("int32")


def _cross_out(allowed: np.ndarray, items: np.ndarray) -> None:
    """So that the next draw cannot choose them again; -1 is no item."""
    rows, columns = np.nonzero(items >= 0)
    allowed[rows, items[rows, columns]] = False


def _matrix(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
