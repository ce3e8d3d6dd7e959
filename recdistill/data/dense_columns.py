"""Columns of Arrow tables as arrays, and matrices of numbers as columns.

A matrix has one row in each row of the table. It is stored as bytes of a fixed length,
with the type of its numbers in the metadata of the field. Parquet writes and reads
these several times as fast as lists, which have two levels for each number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from recdistill.data.ragged import Ragged

DTYPE = b"recdistill.dtype"
"""Key in a field's metadata: type of the numbers of a matrix, in NumPy's notation."""


def with_matrix(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    """Adds a matrix as a column, which `dense_column` reads.

    Args:
        table: The table.
        name: Name of the column.
        values: `(rows, n)` numbers.

    Examples:
        >>> lists = pa.table({"list_id": [0, 1]})
        >>> table = with_matrix(lists, "scores", np.array([[1, 2], [3, 4]]))
        >>> dense_column(table, "scores")
        array([[1, 2],
               [3, 4]])
    """
    values = np.ascontiguousarray(values)
    kind = pa.binary(values.shape[1] * values.itemsize)
    buffers = [None, pa.py_buffer(values)]
    column = pa.FixedSizeBinaryArray.from_buffers(kind, len(values), buffers)
    field = pa.field(name, kind, metadata={DTYPE: values.dtype.str})
    return table.append_column(field, column)


def dense_column(table: pa.Table, name: str) -> Any:
    """A column as an array; rows of equal length as a matrix, others as `Ragged`."""
    field, whole = table.schema.field(name), table[name].combine_chunks()
    dtype = (field.metadata or {}).get(DTYPE)
    if dtype is not None:
        numbers = np.frombuffer(whole.buffers()[1], dtype.decode())
        width = matrix_width(field)
        return numbers.reshape(-1, width)[whole.offset : whole.offset + len(whole)]
    if pa.types.is_fixed_size_list(whole.type):
        flat = whole.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(whole), whole.type.list_size)
    if pa.types.is_list(whole.type):
        return Ragged.from_arrow(whole)
    return whole.to_numpy(zero_copy_only=False)


def matrix_width(field: pa.Field) -> int:
    """Number of columns of a matrix that is stored in a field."""
    return int(
        field.type.byte_width // np.dtype(field.metadata[DTYPE].decode()).itemsize
    )
