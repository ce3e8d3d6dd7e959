"""The score store: training lists with the teacher's scores, shared by all students.

Each file holds some training lists with all their columns, the column `teacher_scores`,
and `scored_candidates` unless all items are scored. Files are written one by one and
atomically, and their checksums are kept in the same folder, so a step that was killed
continues with the intact files. The store's name is the hash of teacher, lists and
settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from recdistill.atomic import atomic_write, file_checksum
from recdistill.data.collation import Collator
from recdistill.data.dense_columns import matrix_width
from recdistill.data.shard_reading import read_lists
from recdistill.distillation.score_doctor import Examination, examine
from recdistill.distillation.scored_table import sample
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.preparation.prepared_data import UNLABELLED

ROUNDED_TOP = 10
"""Number of top candidates per list in which rounding is counted."""

ROUNDING_LIMIT = 0.05
"""Share of adjacent top scores that rounding may make equal without a warning."""

ROUNDING = b"recdistill.rounding"
"""Key of the rounding counts in the metadata of a file."""

CANDIDATES = b"recdistill.candidates"
"""Key of the number of candidates of all lists in the metadata of a file."""

SCORES = "scores"
"""Start of the names of all files."""

UNLABELLED_SCORES = f"{SCORES}-{UNLABELLED}"
"""Start of the names of the files of unlabelled lists."""


def stored_files(folder: Path) -> list[Path]:
    """The files of a store, in order; those of unlabelled lists are the last."""
    return sorted(folder.glob(f"{SCORES}-*.parquet"))


def labelled(files: Sequence[Path]) -> list[Path]:
    """The files whose lists have an observed choice."""
    return [path for path in files if not path.name.startswith(UNLABELLED_SCORES)]


class WrittenFiles:
    """The checksums of the files in an unfinished store, kept in the same folder.

    The file has the form of the command `sha256sum`.

    Args:
        folder: The store.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "checksums.sha256"
        text = self._path.read_bytes() if self._path.exists() else b""
        # A damaged line is like a missing one: its file is written again.
        lines = re.findall(r"(?m)^([0-9a-f]{64})  (.*)$", text.decode(errors="replace"))
        self._written = {name: checksum for checksum, name in lines}

    def has(self, path: Path) -> bool:
        """Whether a file was written completely and is still as it was written."""
        written = self._written.get(path.name)
        return path.exists() and file_checksum(path) == written

    def add(self, path: Path) -> None:
        """Adds a file that is complete."""
        self._written[path.name] = file_checksum(path)
        lines = (f"{self._written[name]}  {name}\n" for name in sorted(self._written))
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(lines))


def list_size(files: Sequence[Path]) -> int:
    """Largest number of candidates that a list of a store has room for."""
    return matrix_width(pq.read_schema(files[0]).field("teacher_scores"))


def stored_candidates(files: Sequence[Path]) -> int:
    """Number of candidates in all lists of a store, without excluded items."""
    return sum(int(pq.read_schema(path).metadata[CANDIDATES]) for path in files)


def lists_in_words(record: Mapping[str, Any]) -> str:
    """Number of lists, and of their candidates.

    Args:
        record: The record of the step that wrote the store.

    Example:
        >>> lists_in_words({"lists": 400, "candidates": 24_000, "list_size": 60})
        '400 lists of 60'
        >>> lists_in_words({"lists": 400, "candidates": 22_960, "list_size": 120})
        '400 lists of 57 on average'
    """
    lists, candidates = record["lists"], record["candidates"]
    found = f"{lists:,} lists of {candidates / max(1, lists):,.0f}"
    alike = candidates == lists * record["list_size"]
    return found if alike else f"{found} on average"


def examine_stored(folder: Path, catalogue_size: int) -> Examination:
    """The score doctor's findings on a store; on a sample if it has many lists.

    Args:
        folder: The store.
        catalogue_size: Number of items.
    """
    files = stored_files(folder)
    sizes = [pq.read_metadata(path).num_rows for path in files]
    chosen = sample(sum(sizes), list_size(files))
    collate = Collator(catalogue_size, with_teacher=True)
    scores, mask, weight = [], [], []
    for path, low, size in zip(files, np.cumsum([0, *sizes]), sizes, strict=False):
        rows = chosen[(chosen >= low) & (chosen < low + size)] - low
        if len(rows):
            x, _, _ = collate(read_lists(path).take(rows), np.random.default_rng(0))
            scores.append(x["teacher_scores"])
            mask.append(x["mask"])
            if "item_weight" in x:
                weight.append(x["item_weight"])
    weights = np.concatenate(weight) if weight else None
    return examine(np.concatenate(scores), np.concatenate(mask), weights)


def rounded_ties(files: Sequence[Path]) -> float:
    """Share of adjacent scores in the top of a list that rounding made equal."""
    counts = [json.loads(pq.read_schema(path).metadata[ROUNDING]) for path in files]
    lost, differ = np.sum(counts, axis=0)
    return float(lost / max(1, differ))


def rounding_warning(config: ListsConfig, record: Mapping[str, Any]) -> str | None:
    """A warning if rounding changed the teacher's scores much; else None.

    Args:
        config: The `lists` section.
        record: The record of the step that wrote the store.
    """
    proposal = record["doctor"]["proposal"]
    if config.scores_dtype == "float16" and proposal and "logit" in proposal.values():
        return (
            "The teacher's scores are probabilities, and float16 has no value between "
            "0.9995 and 1, so that the log-odds of the highest ones are wrong. Keep "
            "them with lists.scores_dtype=float32."
        )
    if record["rounded_ties"] < ROUNDING_LIMIT:
        return None
    return (
        f"Storing the teacher's scores as {config.scores_dtype} made "
        f"{record['rounded_ties']:.1%} of adjacent scores in its top {ROUNDED_TOP} "
        "equal. Keep their order with lists.scores_dtype=float32."
    )
