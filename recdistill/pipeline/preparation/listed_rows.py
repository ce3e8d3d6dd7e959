"""Rows of listwise data: candidates that were shown and not chosen, and checks.

In listwise data a list has one row for each candidate that was shown. The chosen ones
are the interactions (see `partitions`). This module keeps the others, in the same
partitions, and adds them to their lists when these are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data import Columns, Dataset
from recdistill.data.ragged import Ragged
from recdistill.errors import DataError
from recdistill.pipeline.preparation.interaction_sort import owners
from recdistill.pipeline.preparation.partitioned_rows import PartitionedRows
from recdistill.pipeline.preparation.partitions import (
    Partition,
    Partitions,
    codes_of,
    mixed_list,
)


class NotChosenRows:
    """The rows that were shown and not chosen, on disk by partition.

    Args:
        dataset: The data set.
        parts: The partitions of its interactions.
        folder: An existing folder for the files.

    Attributes:
        rows: The rows.
        count: Number of rows.
    """

    def __init__(self, dataset: Dataset, parts: Partitions, folder: Path) -> None:
        self.columns: Columns = dataset.columns
        self._names = [feature.name for feature in parts.features]
        self._query_ids = parts.query_ids
        # Drawn times are not those of the other rows of a list.
        self._with_times = parts.times is not None
        self._lists: list[np.ndarray] = []
        batches = iter(()) if dataset.not_chosen is None else dataset.not_chosen()
        self.rows = PartitionedRows(
            batches, parts, parts.features, folder / "not-chosen"
        )
        self.count = self.rows.count

    def of(self, part: Partition) -> pa.Table | None:
        """The rows of a partition's queries; None if it has none."""
        return self.rows.of(part)

    def check(self, part: Partition) -> None:
        """Checks that all rows of a list have the same query, its features and time.

        A list whose queries are in several partitions is found by `check_lists`.

        Raises:
            DataError: Names the features, a list and two of its values.
        """
        if self.columns.list is None:
            return
        query = self._query_ids.take(part.table["query"].combine_chunks())
        place = part.table.column_names.index("query")
        tables = [part.table.set_column(place, "query", query), *self._others(part)]
        names = _joined(tables, "list")
        code = codes_of(names)
        _, first, inverse = np.unique(code, return_index=True, return_inverse=True)

        def differing(column: str) -> tuple[str, list[str]] | None:
            """A list with several values of a column, and two of them."""
            values = _joined(tables, column)
            found = codes_of(values)
            wrong = np.flatnonzero(found != found[first[inverse]])
            if not len(wrong):
                return None
            pair = (int(first[inverse[wrong[0]]]), int(wrong[0]))
            return names[pair[1]].as_py(), [_shown(values[k]) for k in pair]

        checked = {"query": "queries", "time": "times"}
        if not self._with_times:
            del checked["time"]
        for role, plural in checked.items():
            several = differing(role)
            if several is not None:
                raise mixed_list(
                    several[0], f"with the {plural} {' and '.join(several[1])}"
                )
        self._lists.append(owners(names.combine_chunks().take(pa.array(first)), 2**63))
        wrong = {
            name: differing(f"feature{number}")
            for number, name in enumerate(self._names)
        }
        _refuse({name: found for name, found in wrong.items() if found})

    def check_lists(self, parts: Iterable[Partition]) -> None:
        """Checks that no list has queries of several partitions.

        Args:
            parts: The partitions, each of which `check` has seen once.

        Raises:
            DataError: Names a list.
        """
        found = np.sort(np.concatenate([np.array([], "uint64"), *self._lists]))
        repeated = found[1:][found[1:] == found[:-1]]
        if not len(repeated):
            return
        for part in parts:
            texts = pc.unique(_joined([part.table, *self._others(part)], "list"))
            mixed = np.flatnonzero(owners(texts, 2**63) == repeated[0])
            if len(mixed):
                raise mixed_list(texts[int(mixed[0])].as_py(), "with several queries")

    def _others(self, part: Partition) -> list[pa.Table]:
        """The rows of a partition that were not chosen, if there are any."""
        found = self.of(part)
        return [] if found is None else [found]

    def join(
        self, part: Partition, lists: pa.ChunkedArray, items: np.ndarray
    ) -> Ragged:
        """Catalogue rows that were shown and not chosen, for each list.

        Args:
            part: The partition of the lists.
            lists: `(lists,)` ids of the lists in the source.
            items: Catalogue row of each row of `of(part)`; -1 if the catalogue does not
                have the item.

        Returns:
            One row for each list, in increasing order and each item once.
        """
        table = self.of(part)
        if table is None:
            return Ragged(np.array([], "int32"), np.zeros(len(lists) + 1, "int64"))
        found = pc.index_in(table["list"], value_set=lists.combine_chunks())
        number = np.asarray(pc.fill_null(found, -1), "int64")
        inside = (number >= 0) & (items >= 0)
        pairs = np.stack([number[inside], items[inside].astype("int64")], axis=1)
        pairs = np.unique(pairs.reshape(-1, 2), axis=0)
        offsets = np.searchsorted(pairs[:, 0], np.arange(len(lists) + 1))
        return Ragged(pairs[:, 1].astype("int32"), offsets.astype("int64"))


def _joined(tables: Sequence[pa.Table], column: str) -> pa.ChunkedArray:
    """A column of several tables."""
    return pa.concat_tables([each.select([column]) for each in tables])[column]


def _refuse(wrong: dict[str, tuple[str, list[str]]]) -> None:
    if not wrong:
        return
    received = "; ".join(
        f"`{feature}` is {values[0]} and {values[1]} in list {name!r}"
        for feature, (name, values) in wrong.items()
    )
    keys = ", ".join(f"`query.{feature}`" for feature in wrong)
    raise DataError(
        "A query feature must have the same value in all rows of a list, because it "
        "describes the query and not a candidate; the value in the row of the chosen "
        f"item would reveal the answer. Received: {received}. Remove {keys} from the "
        f"configuration. "
        "Features of an item belong to `candidate` and to the table `items`."
    )


def _shown(value: pa.Scalar) -> str:
    """A raw value as text; numbers with the digits of a float32."""
    if pa.types.is_float32(value.type):
        return str(pc.cast(value, pa.string()))
    return str(value.as_py())
