"""The score store: training lists with the teacher's scores, shared by all students.

Each file holds some training lists with all their columns, the column `teacher_scores`,
and `scored_candidates` unless all items are scored. Files are written one by one and
atomically, so a step that was killed continues where it stopped. The store's name is
the hash of teacher, lists and settings. Its record has a checksum for each file, so
that no student trains on a damaged file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from recdistill.data.collation import Collator
from recdistill.data.shard_reading import read_lists
from recdistill.distillation.score_doctor import Examination, examine
from recdistill.distillation.scored_table import sample
from recdistill.errors import ScoreError
from recdistill.pipeline.config import ListsConfig

ROUNDED_TOP = 10
"""Number of top candidates per list in which rounding is counted."""

ROUNDING_LIMIT = 0.05
"""Share of neighbours in the top that rounding may make equal without a warning."""

ROUNDING = b"recdistill.rounding"
"""Key of the rounding counts in the metadata of a file."""


def stored_files(folder: Path) -> list[Path]:
    """The files of a store, in order."""
    return sorted(folder.glob("scores-*.parquet"))


def checksums(files: Sequence[Path]) -> dict[str, str]:
    """SHA-256 (hex) of each file by name."""
    return {path.name: _checksum(path) for path in files}


def verified_files(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """The files of a finished store, after a comparison with their checksums.

    Args:
        folder: The store.
        record: The record of the step that wrote it.

    Raises:
        ScoreError: If a file is missing, damaged or unexpected.
    """
    found = {path.name: path for path in stored_files(folder)}
    written: Mapping[str, str] = record["sha256"]
    for name in sorted({*found, *written}):
        if name not in written:
            fault = f"contains an unexpected file {name}"
        elif name not in found:
            fault = f"does not have the file {name}"
        elif _checksum(found[name]) != written[name]:
            fault = f"is damaged: the checksum of {name} is wrong"
        else:
            continue
        raise ScoreError(
            f"The score store {folder} {fault}. Remove the folder and run again; the "
            "teacher then scores the lists anew."
        )
    return list(found.values())


def examine_stored(folder: Path, catalogue_size: int) -> Examination:
    """The score doctor's findings on a store; on a sample if it has many lists.

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


def rounded_ties(files: Sequence[Path]) -> float:
    """Share of neighbours in the top of a list that rounding made equal."""
    counts = [json.loads(pq.read_schema(path).metadata[ROUNDING]) for path in files]
    lost, differ = np.sum(counts, axis=0)
    return float(lost / max(1, differ))


def rounding_warning(config: ListsConfig, record: Mapping[str, Any]) -> str | None:
    """A warning if rounding changed the teacher's order much; else None.

    Args:
        config: The `lists` section.
        record: The record of the step that wrote the store.
    """
    if record["rounded_ties"] < ROUNDING_LIMIT:
        return None
    return (
        f"Storing the teacher's scores as {config.scores_dtype} made "
        f"{record['rounded_ties']:.1%} of neighbours in its top {ROUNDED_TOP} equal. "
        "Keep their order with lists.scores_dtype=float32."
    )


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
