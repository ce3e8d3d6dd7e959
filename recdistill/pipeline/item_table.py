"""The item table: the items that can be recommended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdistill.data import Dataset
from recdistill.errors import DataError

TRAIN_COUNT = "_recdistill_train_count"
"""Column with the training interactions; no column in a user's data has this name."""


def no_row_fits(name: str, absent: str, ids: Sequence[str]) -> DataError:
    """Error about a table of items or queries that has none of those in use."""
    instead = f"for example {ids[0]!r}" if ids else "no row"
    return DataError(
        f"Table `{name}` has no row for any of the {name} of the training part, such "
        f"as {absent!r}; it has {instead}. Write the ids in the same form in both "
        f"tables (see `dataset.{name}.types`), or remove the table."
    )


class ItemTable:
    """The catalogue: the item table if it exists, else the items of the training part.

    The row of an item is its candidate index.

    Args:
        dataset: The data set.
        counts: Training interactions of each item.
        required: Names of the features that need a row in the table. Without such
            features, items of the training part that have no row get one, with missing
            values.

    Raises:
        DataError: If the item table lacks an item of the training part, and there are
            `required` features.

    Attributes:
        table: One row per item.
        ids: Item ids by row.
        train_count: Training interactions by row, `(items,)` int64.
        added: Number of items that had no row.
    """

    def __init__(
        self, dataset: Dataset, counts: Mapping[str, int], required: Sequence[str]
    ) -> None:
        column = dataset.columns.item
        table = dataset.items
        if table is None:
            table = pa.table({column: pa.array(sorted(counts), pa.string())})
        ids = table[column].to_pylist()
        missing = sorted(set(counts) - set(ids))
        if len(missing) == len(counts):
            raise no_row_fits("items", missing[0], ids)
        if missing and required:
            raise DataError(
                f"Table `items` lacks {len(missing)} item(s) of the training part, "
                f"such as {missing[0]!r}, which the feature(s) {', '.join(required)} "
                "need. Add a row for each, leave out its interactions, or set "
                "`optional = true` for these features. Items that are no longer "
                "offered can be removed from the export with `recdistill reindex`."
            )
        if missing:
            rows = pa.table({column: pa.array(missing, pa.string())})
            table = pa.concat_tables([table, rows], promote_options="default")
        self.added = len(missing)
        self.table = table
        self.ids: list[str] = table[column].to_pylist()
        self._ids = pa.array(self.ids, pa.string())
        self.train_count = np.array([counts.get(i, 0) for i in self.ids], "int64")

    def rows_of(self, ids: pa.ChunkedArray) -> np.ndarray:
        """The row of each item id; -1 if the catalogue does not have it."""
        found = pc.index_in(ids, value_set=self._ids)
        return np.asarray(pc.fill_null(found, -1), "int32")

    def write(self, path: Path) -> None:
        """Writes the table and the column `TRAIN_COUNT`, the training interactions."""
        count = pa.array(self.train_count)
        pq.write_table(self.table.append_column(TRAIN_COUNT, count), path)
