"""Repeats: interactions with an item that the query has interacted with before.

Whether such items are candidates is decided once, for training, evaluation, teacher
scores and serving. Either all items that a query has seen are candidates, or none is:
if all seen items except the repeated one were removed, the positive would be trivial to
find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recdistill.pipeline.preparation.partitions import Partition
from recdistill.pipeline.preparation.row_parts import TRAIN

Seen = Literal["exclude", "include"]

INCLUDE_FROM = 0.1
"""Share of repeats in the training part from which "auto" includes seen items."""


@dataclass
class RepeatCounts:
    """Repeats of the training part, counted partition by partition.

    Attributes:
        rows: Number of training rows of queries with an earlier row; only these can be
            repeats.
        repeats: Number of repeats among them.
    """

    rows: int = 0
    repeats: int = 0

    def add(self, part: Partition) -> None:
        """Counts the training rows of a partition."""
        train = part.split == TRAIN
        later = part.first_of_moment > part.first_of_query
        self.rows += int((train & later).sum())
        self.repeats += int(part.repeated[train].sum())

    @property
    def share(self) -> float:
        """Share of repeats; 0 if there are no such rows."""
        return self.repeats / self.rows if self.rows else 0.0

    def decide(self, setting: Literal["exclude", "include", "auto"]) -> Seen:
        """The value of `lists.seen`; "auto" depends on the share of repeats."""
        if setting != "auto":
            return setting
        return "include" if self.share >= INCLUDE_FROM else "exclude"
