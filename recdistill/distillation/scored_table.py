"""Reading a table of teacher scores, or a random sample of its lists."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from recdistill.data import column_values
from recdistill.data.ragged import Ragged
from recdistill.data.table_files import read_table
from recdistill.errors import DataError
from recdistill.lists.numpy_ranks import BoolArray, FloatArray

__all__ = ["read_scored_table", "sample"]

SAMPLE_LISTS, SAMPLE_PAIRS = 1_000, 500_000
"""Maximum numbers of lists in a sample, and of candidates in all of these lists."""


def read_scored_table(
    path: Path, list_column: str, score_column: str
) -> tuple[FloatArray, BoolArray]:
    """Scores from a table with one row for each (list, candidate).

    A random sample of the lists is read if there are many.

    Args:
        path: A Parquet file, or CSV with a header.
        list_column: Column of the list that a row belongs to.
        score_column: Column of the teacher's scores.

    Returns:
        `scores` and `mask`, `(lists, list_size)`, as
        `recdistill.distillation.examine` takes them. A missing score is NaN.

    Raises:
        DataError: If the table or a column is missing, the table has no rows, or the
            scores are not numbers.
    """
    table = read_table(path, (list_column, score_column))
    if not len(table):
        raise DataError(f"The table {path} must have rows. Received: none")
    scores, lists = (table[c].combine_chunks() for c in (score_column, list_column))
    place = column_values.Place(str(path), score_column)
    values = column_values.doubles(scores, place)
    number = lists.dictionary_encode(null_encoding="encode").indices.to_numpy()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(number))])
    rows = Ragged(values[np.argsort(number, kind="stable")], offsets)
    rows = rows.take(sample(len(rows), int(np.diff(offsets).max())))
    ones = Ragged(np.ones(len(rows.values), bool), rows.offsets)
    return rows.padded(0.0), ones.padded(False)


def sample(lists: int, list_size: int) -> npt.NDArray[np.int64]:
    """Row numbers of the lists to examine: a random sample with a fixed seed.

    Args:
        lists: Number of lists.
        list_size: Number of candidates of the longest list.

    Returns:
        `(n,)`, in order.
    """
    wanted = max(1, min(SAMPLE_LISTS, SAMPLE_PAIRS // list_size, lists))
    chosen = np.random.default_rng(0).choice(lists, wanted, replace=False)
    return np.sort(chosen)
