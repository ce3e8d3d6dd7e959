"""Small random logs of interactions, and their split by plain loops."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.pipeline.preparation.preparation import prepare
from recdistill.pipeline.preparation.prepared_data import Prepared
from tests import small_pipelines

SPLITS = ("train", "valid", "test")
LENGTH = 3


def run(data, folder, **settings):
    """The prepared data and the record."""
    folder.mkdir()
    record = prepare(
        data, small_pipelines.config(**settings), folder, small_pipelines.quiet
    )
    assert json.loads(json.dumps(record)) == record
    return Prepared(folder), record


def rows_of(prepared, split):
    """The lists of a split as dicts by list id."""
    tables = [pq.read_table(path) for path in prepared.shards(split)]
    return {row["list_id"]: row for table in tables for row in table.to_pylist()}


def random_log(seed, rows=90, users=6, items=9, moments=12):
    """A log with few moments, so that many interactions have the same time."""
    rng = np.random.default_rng(seed)
    return [
        (f"u{rng.integers(users)}", f"i{rng.integers(items)}", int(time))
        for time in rng.integers(0, moments, rows)
    ]


def lists_of(log):
    """The rows of each list by its first row: those of one query and one time."""
    lists = {}
    for row, (user, _, time) in enumerate(log):
        lists.setdefault((user, time), []).append(row)
    return {rows[0]: rows for rows in lists.values()}


def split_by_query(log, valid, test):
    split = {}
    for user in {user for user, _, _ in log}:
        own = [(k, t) for k, (u, _, t) in enumerate(log) if u == user]
        # The rows of a list count once and stay together.
        times = sorted({time for _, time in own})
        size = len(times)
        held = [0, 0] if size < 3 else [max(1, int(size * s)) for s in (valid, test)]
        for row, time in own:
            from_end = size - times.index(time)
            late = from_end <= held[1]
            split[row] = (
                "test" if late else "valid" if from_end <= sum(held) else "train"
            )
    return split


def rich(log, *, extra_items=(), device=None, hour=None, relevance=None):
    """A data set with features of all kinds in all three tables."""
    user, item, time = zip(*log, strict=True)
    users, items = sorted(set(user)), sorted({*item, *extra_items})
    interactions = pa.table(
        {
            "user_id": user,
            "item_id": item,
            "timestamp": pa.array(time, pa.int64()),
            "device": device or [("phone", "desk")[k % 2] for k in range(len(log))],
            "hour": hour or [float(k % 24) for k in range(len(log))],
            "stars": pa.array(relevance or [3.0] * len(log), pa.float32()),
        }
    )
    jobs = [None, "cook", "", "nurse"]
    tags = [[], ["new"], ["new", "old"], ["rare"]]
    return small_pipelines.dataset(
        interactions,
        items=pa.table(
            {
                "item_id": items,
                "tags": pa.array([tags[digit(i) % 4] for i in items]),
                "price": [1.5 * digit(i) for i in items],
                "title": [f"The Film {i}" for i in items],
            }
        ),
        queries=pa.table(
            {
                "user_id": users,
                "job": [jobs[digit(u) % 4] for u in users],
                "age": [20.0 + digit(u) if digit(u) % 3 else None for u in users],
                "likes": pa.array([tags[digit(u) % 4] for u in users]),
            }
        ),
        batch_rows=40,
        relevance="stars",
    )


def digit(name):
    return int(hashlib.md5(name.encode()).hexdigest(), 16) % 97


RICH = {
    "query": {
        "user_id": {"kind": "id"},
        "history": {"kind": "history", "length": LENGTH},
        "device": {"kind": "category"},
        "hour": {"kind": "number"},
        "job": {"kind": "category", "optional": True},
        "age": {"kind": "number", "optional": True},
        "likes": {"kind": "categories"},
    },
    "candidate": {
        "item_id": {"kind": "id"},
        "tags": {"kind": "categories"},
        "price": {"kind": "number"},
        "title": {"kind": "text", "buckets": 16, "length": 4},
    },
}
