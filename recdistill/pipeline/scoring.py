"""The score store: lists with their teacher's scores, written once, shared by students.

Each file holds some training lists with all their columns, and beside them
`teacher_scores`, and `scored_candidates` unless the whole catalogue is scored. Files
appear one by one, whole; a step that was killed goes on where it stopped.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.batches import Collator, Lists, catalogue_mask, read_lists
from recdistill.files import whole
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.partitions import Progress
from recdistill.pipeline.prepared import Prepared
from recdistill.pipeline.training import PAIRS_AT_ONCE, Scorer

FILE_LISTS = 4_096
LARGEST_HALF = float(np.finfo("float16").max)


def write_scores(
    score: Scorer,
    prepared: Prepared,
    config: ListsConfig,
    folder: Path,
    seed: int,
    progress: Progress,
    *,
    own_rows: bool,
) -> dict[str, int]:
    """Scores a random sample of the training lists.

    Args:
        score: The teacher: batch to scores `(batch, list_size)`.
        prepared: The prepared data.
        config: How many lists, and which candidates are kept.
        folder: Where the files go; those that are there already are kept.
        seed: Seeds the sample and the tails.
        progress: Told how far the work is.
        own_rows: Whether batches hold the query's training row, so that a linear item
            model can leave it out.

    Returns:
        `lists` and `list_size`, for the step's record.

    Raises:
        ValueError: If a score is not finite, or too large to store.
    """
    shards = prepared.shards("train")
    chosen = _sample(shards, config.contexts, seed)
    total, done, number = sum(map(len, chosen)), 0, 0
    size = _list_size(config, prepared.catalogue_size)
    collate = Collator(
        prepared.catalogue_size, profiles=prepared.profiles if own_rows else None
    )
    for path, rows in zip(shards, chosen, strict=True):
        for start in range(0, len(rows), FILE_LISTS):
            part = rows[start : start + FILE_LISTS]
            target = folder / f"scores-{number:05d}.parquet"
            if not target.exists():
                rng = np.random.default_rng([seed, number])
                _write_file(score, collate, config, path, part, target, rng)
            number, done = number + 1, done + len(part)
            progress("Scoring with the teacher", done, total)
    return {"lists": total, "list_size": size}


def _sample(shards: list[Path], wanted: int, seed: int) -> list[np.ndarray]:
    """For each shard the rows that are scored, in order."""
    sizes = [pq.read_metadata(path).num_rows for path in shards]
    rng = np.random.default_rng(seed)
    wanted = min(wanted, sum(sizes))
    chosen = np.sort(rng.choice(sum(sizes), wanted, replace=False))
    starts = np.cumsum([0, *sizes])
    return [
        chosen[(chosen >= low) & (chosen < high)] - low
        for low, high in pairwise(starts)
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
) -> None:
    lists = read_lists(shard).take(rows)
    batch = max(1, PAIRS_AT_ONCE // collate.catalogue_size)
    pieces, places = [], []
    for start in range(0, len(lists), batch):
        piece = lists.take(np.arange(start, min(start + batch, len(lists))))
        scores = _checked(np.asarray(score(collate(piece, rng)[0])))
        if config.size == "sampled":
            place = _choose(scores, piece, config, rng)
            scores = np.take_along_axis(scores, np.maximum(place, 0), axis=1)
            places.append(place)
        pieces.append(scores.astype("float16"))
    table = pq.read_table(shard).take(pa.array(rows))
    if places:
        table = table.append_column(
            "scored_candidates", _matrix(np.concatenate(places))
        )
    table = table.append_column("teacher_scores", _matrix(np.concatenate(pieces)))
    with whole(target) as aside:
        pq.write_table(table, aside)


def _checked(scores: np.ndarray) -> np.ndarray:
    if not np.isfinite(scores).all():
        raise ValueError(
            "The teacher's scores must be finite. Received: "
            f"{int((~np.isfinite(scores)).sum())} NaN or infinite scores"
        )
    if np.abs(scores).max() > LARGEST_HALF:
        raise ValueError(
            f"The teacher's scores must lie within ±{LARGEST_HALF:g} to be stored. "
            f"Received: {np.abs(scores).max():g}"
        )
    return scores


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
