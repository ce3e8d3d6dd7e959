"""Statistics of the training, validation and test parts: dates, copies and repeats."""

from __future__ import annotations

from typing import Any

import numpy as np

from recdistill.errors import DataError
from recdistill.pipeline.config import SplitConfig
from recdistill.pipeline.preparation.partitions import Partition
from recdistill.pipeline.preparation.row_parts import SPLITS, TRAIN
from recdistill.pipeline.preparation.time_statistics import TimeStatistics, shown


class PartStatistics:
    """Statistics of the parts, collected partition by partition.

    Args:
        times: Statistics of the times; None if the times are drawn.
    """

    def __init__(self, times: TimeStatistics | None) -> None:
        self._times = times
        self._spans: dict[str, tuple[int, int]] = {}
        self._lists = dict.fromkeys(SPLITS, 0)
        self._largest = 0
        self._copies = dict.fromkeys(SPLITS, 0)
        self._repeats = dict.fromkeys(SPLITS[1:], 0)

    def add(self, part: Partition) -> None:
        """Adds a partition."""
        rows = np.arange(len(part))
        copies = part.first_copy != rows
        sizes = np.bincount(part.first_of_query, part.first_of_list == rows)
        self._largest = max(self._largest, int(sizes.max()))
        trained = np.bincount(part.first_of_pair, part.split == TRAIN)[
            part.first_of_pair
        ]
        starts = part.first_of_list == rows
        for number, name in enumerate(SPLITS):
            own = part.split == number
            if not own.any():
                continue
            self._copies[name] += int((copies & own).sum())
            self._lists[name] += int((starts & own).sum())
            times = part.time[own]
            span = [*self._spans.get(name, ()), int(times.min()), int(times.max())]
            self._spans[name] = min(span), max(span)
            if number != TRAIN:
                again = own & (trained > 0)
                self._repeats[name] += len(np.unique(part.first_of_list[again]))

    @property
    def last_training_time(self) -> int:
        """The latest time of the training part."""
        return self._spans["train"][1]

    def check(self, name: str, split: SplitConfig) -> None:
        """Checks that each part has at least two lists.

        Args:
            name: Name of the data set.
            split: The `split` section.

        Raises:
            DataError: Names the parts, the reason and a split that can work.
        """
        few = {part: lists for part, lists in self._lists.items() if lists < 2}
        if not few:
            return
        counts = " and ".join(f"{lists} {part} list(s)" for part, lists in few.items())
        raise DataError(
            f"Data set `{name}` has {counts}; at least two in each part are required. "
            f"{self._advice(split)}"
        )

    def _advice(self, split: SplitConfig) -> str:
        by_moment = (
            'Use `split.by` = "global_time", which holds out all interactions after '
            "one moment."
        )
        if split.by == "global_time":
            return (
                "All interactions of one moment are in one part, and there are too few "
                "moments. Change the shares of `split`, or use `split.by` = "
                '"leave_last_out" or "leave_random_out".'
            )
        least = 3 if split.by == "query_time" else 2 * split.held_out + 1
        if self._largest < least:
            return (
                f'`split.by` = "{split.by}" holds out lists of queries that have at '
                f"least {least}, and no query has more than {self._largest} "
                f"(interactions of the same time are one list). {by_moment}"
            )
        return f"Use more interactions, or change the shares of `split`. {by_moment}"

    def record(self) -> dict[str, Any]:
        """The statistics, JSON-ready.

        Returns:
            `parts`: first and last time of each part, empty if the times are drawn;
            `time_warnings`: sentences about implausible times; `copies`: rows whose
            query, item and time are those of a row before, `copies_by_part` the same by
            part; `repeats`: held-out lists with an item that the query also has in the
            training part.
        """
        return {
            "parts": {
                name: [shown(time, self._times.unit) for time in span]
                for name, span in self._spans.items()
                if self._times is not None
            },
            "time_warnings": list(self._times.warnings()) if self._times else [],
            "copies": sum(self._copies.values()),
            "copies_by_part": self._copies,
            "repeats": self._repeats,
        }
