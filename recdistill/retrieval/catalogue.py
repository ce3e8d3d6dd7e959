"""The catalogue inside a served model: item ids, their rows, and the index.

All of it is variables, and the graph knows neither the items nor their number. So the
item side of a SavedModel can be replaced by writing other variables beside the same
graph (`recdistill.export.reindexing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tensorflow as tf

# The base class of table initialisers has no public name.
from tensorflow.python.ops.lookup_ops import TableInitializerBase

from recdistill.retrieval.exact import Index

CHECKPOINT_KEY = "catalogue/{}/.ATTRIBUTES/VARIABLE_VALUE"
"""Where a SavedModel's checkpoint keeps a variable of `Catalogue.tensors`."""


class _RowsOf(TableInitializerBase):  # type: ignore[misc]
    """Fills a table from a variable of ids: the key is the id, the value its place.

    Loaders restore variables before they fill tables, so ids need no copy of their own
    in the graph.
    """

    def __init__(self, ids: tf.Variable) -> None:
        super().__init__(tf.string, tf.int32)
        self._ids = ids

    def initialize(self, table: tf.lookup.StaticHashTable) -> tf.Operation:
        """The op that fills the table."""
        ids = self._ids.read_value()
        return tf.raw_ops.LookupTableImportV2(
            table_handle=table.resource_handle, keys=ids, values=tf.range(tf.size(ids))
        )


class Catalogue(tf.Module):  # type: ignore[misc]
    """Items by id and by row.

    Args:
        item_ids: Identifier of each row, unique and not empty.
        index: The index over the same rows.

    Raises:
        ValueError: If ids repeat or are empty, or their number is not the index's.

    Example:
        >>> import numpy as np
        >>> from recdistill.retrieval.exact import ExactIndex
        >>> films = Catalogue(["a", "b"], ExactIndex(np.eye(2)))
        >>> films.rows_of(tf.constant(["b", "c"])).numpy()
        array([ 1, -1], dtype=int32)
        >>> films.ids_of(tf.constant([1, -1])).numpy()
        array([b'b', b''], dtype=object)
    """

    def __init__(self, item_ids: Sequence[str], index: Index) -> None:
        super().__init__(name="catalogue")
        if len(set(item_ids)) < len(item_ids) or "" in item_ids:
            twice = "" if "" in item_ids else _first_repeated(item_ids)
            raise ValueError(
                "`item_ids` must hold each id once, and none may be empty. "
                f"Received: {twice!r}"
            )
        if len(item_ids) != index.items():
            raise ValueError(
                f"`item_ids` must be as many as the {int(index.items())} rows of the "
                f"index. Received: {len(item_ids)}"
            )
        self.index = index
        self.item_ids = tf.Variable(
            tf.constant(list(item_ids), tf.string),
            trainable=False,
            name="item_ids",
            shape=[None],
        )
        self.item_rows = tf.lookup.StaticHashTable(_RowsOf(self.item_ids), -1)

    @property
    def tensors(self) -> dict[str, tf.Variable]:
        """The variables by the path under which a checkpoint has them."""
        own = {f"index/{name}": value for name, value in vars(self.index).items()}
        own["item_ids"] = self.item_ids
        return {k: v for k, v in own.items() if isinstance(v, tf.Variable)}

    def rows_of(self, ids: tf.Tensor) -> tf.Tensor:
        """Ids to int32 rows of the same shape; -1 where the id is unknown or ""."""
        return self.item_rows.lookup(ids)

    def ids_of(self, rows: tf.Tensor) -> tf.Tensor:
        """Rows to ids of the same shape; "" where the row is -1."""
        ids = tf.gather(self.item_ids, tf.maximum(rows, 0))
        return tf.where(rows >= 0, ids, tf.fill(tf.shape(rows), ""))


def _first_repeated(values: Iterable[str]) -> str:
    seen: set[str] = set()
    return next(v for v in values if v in seen or seen.add(v))  # type: ignore[func-returns-value]
