"""Matrices as columns of Arrow tables and of Parquet files."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.data.dense_columns import dense_column, matrix_width, with_matrix
from recdistill.data.ragged import Ragged


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32", "int8"])
def test_a_matrix_is_the_same_after_parquet_and_in_parts(tmp_path, dtype):
    values = np.array([[1, -2, 3], [0, 5, -1], [7, 8, 9], [4, 4, 4]], dtype)
    table = with_matrix(pa.table({"row": [0, 1, 2, 3]}), "m", values[:, ::-1])
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=3)
    read = pq.read_table(tmp_path / "m.parquet")
    assert matrix_width(read.schema.field("m")) == 3
    for part, rows in (
        (read, slice(None)),
        (read.slice(1, 2), slice(1, 3)),
        (read.take(pa.array([3, 0])), [3, 0]),
        (read.slice(0, 0), slice(0, 0)),
    ):
        found = dense_column(part, "m")
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, values[rows, ::-1])


def test_lists_of_one_length_are_a_matrix_and_others_ragged():
    fixed = pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2))
    table = pa.table({"fixed": fixed, "lists": [[5], [6, 7]], "flat": [0.5, 1.5]})
    assert dense_column(table, "fixed").tolist() == [[1, 2], [3, 4]]
    ragged = dense_column(table, "lists")
    assert isinstance(ragged, Ragged)
    assert ragged.padded(0).tolist() == [[5, 0], [6, 7]]
    assert dense_column(table, "flat").tolist() == [0.5, 1.5]
