"""Catalogue of a served model: item ids, their rows, and the index.

All data is in variables; neither the items nor their number is part of the graph. The
items of a SavedModel can therefore be replaced by writing new variables and keeping the
graph (`recdistill.export.reindexing`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import tensorflow as tf

# The base class of table initialisers has no public name.
from tensorflow.python.ops.lookup_ops import TableInitializerBase

from recdistill.retrieval.exact import Index

CHECKPOINT_KEY = "catalogue/{}/.ATTRIBUTES/VARIABLE_VALUE"
"""Key of a variable of `Catalogue.tensors` in the checkpoint of a SavedModel."""


class _RowsOf(TableInitializerBase):  # type: ignore[misc]
    """Table initialiser from a variable of ids: the key is the id, the value its row.

    Loaders restore variables before they initialise tables, so the graph does not need
    a second copy of the ids.
    """

    def __init__(self, ids: tf.Variable) -> None:
        super().__init__(tf.string, tf.int32)
        self._ids = ids

    def initialize(self, table: tf.lookup.StaticHashTable) -> tf.Operation:
        """Returns the op that fills the table."""
        ids = self._ids.read_value()
        return tf.raw_ops.LookupTableImportV2(
            table_handle=table.resource_handle, keys=ids, values=tf.range(tf.size(ids))
        )


def check_unique(item_ids: Sequence[str]) -> None:
    """Checks that ids can be those of a catalogue.

    Args:
        item_ids: Id of each item.

    Raises:
        ValueError: If an id is repeated or empty.
    """
    counts = Counter(item_ids)
    wrong = next((i for i, count in counts.items() if count > 1 or not i), None)
    if wrong is not None:
        raise ValueError(
            "`item_ids` must hold each id once, and none may be empty. "
            f"Received: {wrong!r}"
        )


class Catalogue(tf.Module):  # type: ignore[misc]
    """Item ids and the index over their embeddings.

    Args:
        item_ids: Id of each row, unique and not empty.
        index: The index over the same rows.

    Raises:
        ValueError: If an id is repeated or empty, or the number of ids differs from
            the number of rows in the index.

    Examples:
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
        check_unique(item_ids)
        if len(item_ids) != index.items():
            raise ValueError(
                f"`item_ids` must have one id for each of the {int(index.items())} "
                f"rows of the index. Received: {len(item_ids)} ids"
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
        """The variables, by their path in a checkpoint."""
        own = {f"index/{name}": value for name, value in vars(self.index).items()}
        own["item_ids"] = self.item_ids
        return {k: v for k, v in own.items() if isinstance(v, tf.Variable)}

    def rows_of(self, ids: tf.Tensor) -> tf.Tensor:
        """Maps ids to int32 rows of the same shape; unknown ids and "" become -1."""
        return self.item_rows.lookup(ids)

    def ids_of(self, rows: tf.Tensor) -> tf.Tensor:
        """Maps rows to ids of the same shape; row -1 becomes ""."""
        ids = tf.gather(self.item_ids, tf.maximum(rows, 0))
        return tf.where(rows >= 0, ids, tf.fill(tf.shape(rows), ""))


def stored_bytes(variable: tf.Variable) -> int:
    """Bytes of a variable in a checkpoint; texts count as 32 bytes each."""
    size = 32 if variable.dtype == tf.string else variable.dtype.size
    return int(tf.size(variable, tf.int64)) * int(size)
