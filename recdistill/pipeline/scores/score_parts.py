"""Parts of a score store: which lists each file has, and the files once scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.atomic import atomic_write
from recdistill.data.dataset import Progress
from recdistill.data.dense_columns import dense_column
from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import read_lists
from recdistill.features.unknown_values import UnknownValues
from recdistill.pipeline.candidates.candidate_selection import mixed
from recdistill.pipeline.candidates.scored_candidates import ScoredTrainingLists
from recdistill.pipeline.preparation.prepared_data import UNLABELLED
from recdistill.pipeline.scores.content_hashes import ContentHashes
from recdistill.pipeline.scores.score_store import (
    SCORES,
    WrittenFiles,
    list_size,
    rounded_ties,
    stored_candidates,
    stored_files,
)

FILE_LISTS = 4_096
"""Number of lists in a file."""


@dataclass(frozen=True)
class ScorePart:
    """The lists of one file.

    Attributes:
        name: Name of the file.
        shard: File with these lists.
        rows: Their rows in the shard.
    """

    name: str
    shard: Path
    rows: np.ndarray


@dataclass(frozen=True)
class ScoredPart:
    """A file of scored lists.

    Attributes:
        content: Its bytes.
        new: Number of scores that the teacher computed.
        kept: Number of scores from earlier stores.
        seconds: Time in the teacher.
        unknown: Values that the external members of the teacher did not know, and
            inputs for which this cannot be known; see `take_unknown`.
    """

    content: pa.Buffer
    new: int
    kept: int
    seconds: float
    unknown: Sequence[tuple[UnknownValues, set[str]]] = field(default=())


Scoring = Callable[[Iterable[ScorePart]], Iterable[tuple[ScorePart, ScoredPart]]]
"""Scores parts, and returns each with its result."""


def planned_parts(
    shards: Sequence[Path],
    scored: ScoredTrainingLists | None,
    contexts: int,
    hashes: ContentHashes,
    seed: int,
    name: str = SCORES,
) -> list[ScorePart]:
    """The files of a random sample of lists.

    Whether a list is in the sample depends on its random key. So a larger sample holds
    a smaller one, and when lists are added, the sample keeps most of its lists.

    Args:
        shards: Files of the lists.
        scored: The lists with partial scores, if the teacher has such scores.
        contexts: Largest number of lists.
        hashes: Hashes of the items.
        seed: Seed of the sample.
        name: Start of the files' names.
    """
    sizes = [pq.read_metadata(path).num_rows for path in shards]
    rows = [np.arange(size) for size in sizes]
    if scored:
        rows = [scored.rows[path] for path in shards]
    starts = np.cumsum([0, *map(len, rows)])
    chosen = np.arange(starts[-1])
    if contexts < len(chosen):
        keys = [
            _draw_keys(path, hashes, seed)[own]
            for path, own in zip(shards, rows, strict=True)
        ]
        order = np.argsort(_apart(np.concatenate(keys)), kind="stable")
        chosen = np.sort(order[:contexts])
    parts: list[ScorePart] = []
    for path, each, (low, high) in zip(shards, rows, pairwise(starts), strict=True):
        own = each[chosen[(chosen >= low) & (chosen < high)] - low]
        for start in range(0, len(own), FILE_LISTS):
            file = f"{name}-{len(parts):05d}.parquet"
            parts.append(ScorePart(file, path, own[start : start + FILE_LISTS]))
    return parts


def _draw_keys(path: Path, hashes: ContentHashes, seed: int) -> np.ndarray:
    """The random keys of the lists of a shard."""
    if path.name.startswith(UNLABELLED):
        lists = read_lists(path, with_raw=False)
        observed, _ = lists.observed()
        return hashes.draw_keys(lists.list_key, observed, seed, lists.query)
    there = pq.read_schema(path).names
    key = "source_list" if "source_list" in there else "query_id"
    names = [each for each in ("candidates", "not_chosen") if each in there]
    table = pq.read_table(path, columns=[key, *names])
    items: Ragged = dense_column(table, names[0])
    for name in names[1:]:
        items = items.followed_by(dense_column(table, name))
    return hashes.draw_keys(dense_column(table, key), items, seed)


def _apart(keys: np.ndarray) -> np.ndarray:
    """The keys, with other ones for equal lists after the first.

    With one key for all, a query that sends the same request again and again would be
    in the sample with all of them or with none.
    """
    again = pd.Series(keys).groupby(keys).cumcount().to_numpy("uint64")
    return np.where(again > 0, mixed(keys + again), keys)


def write_store(
    folder: Path, parts: Sequence[ScorePart], score: Scoring, progress: Progress
) -> tuple[dict[str, Any], list[ScoredPart]]:
    """Writes the files of a store that are missing or damaged, one by one.

    Args:
        folder: The store.
        parts: All files of the store.
        score: Scores the lists of files.
        progress: Callback for progress.

    Returns:
        The record of the step, and what was written now without the content of the
        files. The record has `lists`; `list_size`; `candidates`, the number of stored
        candidates in all lists; `rounded_ties`, the share of adjacent scores in the top
        ten of a list that became equal when they were stored; and of the files written
        now `new_scores` and `kept_scores`, the numbers of scores that the teacher
        computed and that earlier stores had, and `teacher_seconds`, the time in the
        teacher.

    Raises:
        ScoreError: If a score is not finite or too large to store.
    """
    written = WrittenFiles(folder)
    missing = [part for part in parts if not written.has(folder / part.name)]
    total = sum(len(part.rows) for part in parts)
    done = total - sum(len(part.rows) for part in missing)
    results = []
    for part, result in score(missing):
        target = folder / part.name
        with atomic_write(target) as aside:
            aside.write_bytes(result.content)
        written.add(target)
        results.append(replace(result, content=pa.py_buffer(b"")))
        done += len(part.rows)
        progress("Scoring with the teacher", done, total)
    files = stored_files(folder)
    record = {
        "lists": total,
        "list_size": list_size(files),
        "candidates": stored_candidates(files),
        "new_scores": sum(result.new for result in results),
        "kept_scores": sum(result.kept for result in results),
        "teacher_seconds": round(sum(result.seconds for result in results), 3),
        "rounded_ties": rounded_ties(files),
    }
    return record, results
