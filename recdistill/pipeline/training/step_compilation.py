"""Compilation of a student's training steps with XLA: where it is possible and pays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import pyarrow.parquet as pq

from recdistill.models.two_tower import DISTINCT_PER_LISTED, TwoTowerStudent
from recdistill.pipeline.scores.score_store import list_size, stored_candidates
from recdistill.pipeline.training.training_curves import (
    ROWS_OF_A_LARGE_TABLE,
    largest_table,
)

STEPS_FOR_XLA = 500
"""Smallest number of training steps that pays for the compilation with XLA."""

LISTED_PER_ITEM = 3
"""Candidates of a batch, for each item of the catalogue, with which the batch lists
nearly all items: of items drawn independently, 95 %."""


def suits_xla(student: keras.Model, steps: int, all_listed: bool) -> bool:
    """Whether to compile the training step of a student with XLA.

    XLA cannot compile the gradient of the search for distinct candidates, so the
    batches must list all items, or so many that encoding all costs no more. The number
    of drawn candidates varies from batch to batch. Operations of a user's towers may
    not be deterministic under XLA.

    Args:
        student: The student.
        steps: Number of training steps.
        all_listed: Whether the batches have nearly all items as candidates.
    """
    small = largest_table(student) < ROWS_OF_A_LARGE_TABLE
    own = isinstance(student, TwoTowerStudent)
    return all_listed and small and own and steps >= STEPS_FOR_XLA


def list_nearly_all(files: Sequence[Path], lists: int, items: int) -> bool:
    """Whether batches of scored lists have nearly all items as candidates.

    Args:
        files: Files of lists with teacher scores.
        lists: Number of lists in a batch.
        items: Number of items of the catalogue.
    """
    if items > DISTINCT_PER_LISTED * list_size(files):
        return False  # All products of a batch would take more than its lists.
    # The mean of one file stands for all.
    first = files[0]
    listed = stored_candidates([first]) / max(1, pq.read_metadata(first).num_rows)
    return bool(lists * listed >= LISTED_PER_ITEM * items)
