"""The item table: the items that can be recommended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdistill.data import Dataset
from recdistill.errors import DataError

TRAIN_COUNT = "_recdistill_train_count"
"""Column with the training interactions; no column in a user's data has this name."""

UNLISTED_SHARE = 0.2
"""Largest share of the training interactions with items that the item table lacks.

More of them point to ids that are written differently in the two tables.
"""


def no_row_fits(name: str, absent: str, ids: pa.Array | pa.ChunkedArray) -> DataError:
    """Error about a table of items or queries that has none of those in use."""
    instead = f"for example {ids[0].as_py()!r}" if len(ids) else "no row"
    return DataError(
        f"Table `{name}` has no row for any of the {name} of the training part, such "
        f"as {absent!r}; it has {instead}. Write the ids in the same form in both "
        f"tables, set the same type for them in `dataset.{name}.types` and "
        "`dataset.interactions.types` (`dataset.lists.types` for listwise data), or "
        "remove the table."
    )


def _check_unlisted(missing: pa.Array, share: float, required: Sequence[str]) -> None:
    """Checks the share of the training interactions with items without a row.

    Raises:
        DataError: If it is above `UNLISTED_SHARE`.
    """
    if share > UNLISTED_SHARE:
        raise DataError(
            f"Table `items` lacks {len(missing)} item(s) of the training part, such as "
            f"{missing[0].as_py()!r}, which the feature(s) {', '.join(required)} need. "
            f"They have {share:.0%} of the training interactions; at most "
            f"{UNLISTED_SHARE:.0%} may be with items that are no longer offered. Check "
            "that both tables write the ids in the same way, add a row for each item, "
            "leave out its interactions, or set `optional = true` for these features."
        )


class ItemTable:
    """The catalogue: the item table if it exists, else the items of the training part.

    The row of an item is its candidate index.

    Args:
        dataset: The data set.
        ids: Ids of items, in alphabetical order.
        counts: Training interactions of each of them.
        required: Names of the features that need a row in the table. With such
            features, items of the training part that have no row are not in the
            catalogue; without them, they get a row with missing values.

    Raises:
        DataError: If the item table lacks all items of the training part or, with
            `required` features, those of more than `UNLISTED_SHARE` of its
            interactions.

    Attributes:
        table: One row per item.
        ids: Item ids by row, as a text array.
        train_count: Training interactions by row, `(items,)` int64.
        added: Number of items of the training part that had no row and got one.
        unlisted: Number of items of the training part that are not in the catalogue.
    """

    def __init__(
        self,
        dataset: Dataset,
        ids: pa.Array,
        counts: np.ndarray,
        required: Sequence[str],
    ) -> None:
        column = dataset.columns.item
        trained = ids.filter(pa.array(counts > 0))
        table = dataset.items
        if table is None:
            table = pa.table({column: trained})
        there = table[column].combine_chunks()
        missing = trained.filter(pc.invert(pc.is_in(trained, value_set=there)))
        if len(missing) and len(missing) == len(trained):
            raise no_row_fits("items", missing[0].as_py(), there)
        self.unlisted = len(missing) if required else 0
        self.added = len(missing) - self.unlisted
        if self.unlisted:
            lost = np.asarray(pc.is_in(ids, value_set=missing)) @ counts / counts.sum()
            _check_unlisted(missing, float(lost), required)
        if self.added:
            rows = pa.table({column: missing})
            table = pa.concat_tables([table, rows], promote_options="default")
        self.table = table
        self.ids: pa.Array = table[column].combine_chunks()
        place = np.asarray(pc.fill_null(pc.index_in(self.ids, value_set=ids), -1))
        self.train_count = np.append(counts, 0)[place].astype("int64")

    def rows_of(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """The row of each item id; -1 if the catalogue does not have it."""
        found = pc.index_in(ids, value_set=self.ids)
        return np.asarray(pc.fill_null(found, -1), "int32")

    def write(self, path: Path) -> None:
        """Writes the table and the column `TRAIN_COUNT`, the training interactions."""
        count = pa.array(self.train_count)
        pq.write_table(self.table.append_column(TRAIN_COUNT, count), path)
