"""Small lists and shards, for the tests of batches."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged

ITEMS = 8


def ragged(rows, dtype="int32"):
    values = np.array([value for row in rows for value in row], dtype)
    return Ragged(values, np.cumsum([0, *map(len, rows)]))


def as_lists(rows):
    """Rows as Python lists."""
    bounds = zip(rows.offsets[:-1], rows.offsets[1:], strict=True)
    return [rows.values[low:high].tolist() for low, high in bounds]


def lists(positives, seen=None, relevance=None, **more):
    """Lists with these positives; the query feature `number` numbers them."""
    count = len(positives)
    return Lists(
        list_id=np.arange(count),
        query_id=np.array([f"q{k}" for k in range(count)], object),
        query={"number": np.arange(count, dtype="float32")},
        positives=ragged(positives),
        relevance=ragged(relevance or [[1.0] * len(p) for p in positives], "float32"),
        seen=ragged(seen or [[]] * count),
        weight=np.arange(count, dtype="float32") + 1,
        query_row=np.arange(count),
        **more,
    )


def flat(pieces):
    return [value for piece in pieces for value in piece]


def rng(seed=0):
    return np.random.default_rng(seed)


def fixed(rows, kind):
    values = pa.array(np.array(rows).ravel(), kind)
    return pa.FixedSizeListArray.from_arrays(values, len(rows[0]))


def shard_table(numbers, scored=False):
    """A shard whose columns are functions of the list number."""
    columns = {
        "list_id": pa.array(numbers, pa.int64()),
        "query_id": [f"q{k}" for k in numbers],
        "query_row": pa.array([k - 1 for k in numbers], pa.int64()),
        "candidates": pa.array([[k % ITEMS] for k in numbers], pa.list_(pa.int32())),
        "relevance": pa.array([[k / 2] for k in numbers], pa.list_(pa.float32())),
        "list_weight": pa.array([k / 4 for k in numbers], pa.float32()),
        "seen": pa.array(
            [[(k + j) % ITEMS for j in range(1, 1 + k % 3)] for k in numbers],
            pa.list_(pa.int32()),
        ),
        "query.user": pa.array(numbers, pa.int32()),
        "query.history": fixed([[k, 0] for k in numbers], pa.int32()),
        "query.jobs": pa.array([[k] * (k % 3) for k in numbers], pa.list_(pa.int32())),
        "raw.user": [f"user-{k}" for k in numbers],
        "raw.history": pa.array(
            [["größe"] * (k % 2) for k in numbers], pa.list_(pa.string())
        ),
    }
    if scored:
        columns["scored_candidates"] = fixed(
            [[k % ITEMS, (k + 1) % ITEMS, -1] for k in numbers], pa.int32()
        )
        scores = np.array([[k / 2, -0.25, 0.0] for k in numbers], "float16")
        columns["teacher_scores"] = fixed(scores, pa.float16())
    return pa.table(columns)


def write(folder, *counts, scored=False):
    """Shards with the given numbers of lists; ids continue from shard to shard."""
    paths, first = [], 0
    for number, count in enumerate(counts):
        paths.append(folder / f"train-{number:05d}.parquet")
        numbers = list(range(first, first + count))
        pq.write_table(shard_table(numbers or [0], scored).slice(0, count), paths[-1])
        first += count
    return paths
