"""sequences: windows over a query's training items, and their batches."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data.sequences import training_windows, window_batches

LENGTH = 4
ITEM_INDEX = np.arange(30) + 2


def shard(folder, queries, history=LENGTH):
    """One file with a list for each interaction after the first of each query."""
    rows = []
    for name, items in queries.items():
        for place in range(1, len(items)):
            past = [ITEM_INDEX[i] for i in items[:place][::-1]][:history]
            rows.append((name, past + [0] * (history - len(past)), [items[place]]))
    names, past, positives = zip(*rows, strict=True)
    ones = np.ones(len(rows), "float32")
    table = {
        "list_id": np.arange(len(rows)),
        "query_id": pa.array(names),
        "query_row": np.zeros(len(rows), "int64"),
        "candidates": pa.array(positives, pa.list_(pa.int32())),
        "relevance": pa.array([[1.0]] * len(rows), pa.list_(pa.float32())),
        "list_weight": ones,
        "seen": pa.array([[]] * len(rows), pa.list_(pa.int32())),
        "query.history": pa.array(past, pa.list_(pa.int32(), history)),
    }
    path = folder / f"train-{len(list(folder.iterdir())):05d}.parquet"
    pq.write_table(pa.table(table), path)
    return path


def test_windows_end_with_the_last_item_and_are_half_a_window_apart(tmp_path):
    paths = [shard(tmp_path, {"ann": range(9)}), shard(tmp_path, {"bob": [20, 21]})]
    found = training_windows(paths, "history", ITEM_INDEX, LENGTH)
    assert found.dtype == np.int32
    assert found.tolist() == [
        [0, 0, 2, 3, 4],
        [2, 3, 4, 5, 6],
        [4, 5, 6, 7, 8],
        [6, 7, 8, 9, 10],
        [0, 0, 0, 22, 23],
    ]


def test_every_item_is_predicted_from_all_or_half_a_window_before_it(tmp_path):
    paths = [shard(tmp_path, {"ann": range(25)})]
    found = training_windows(paths, "history", ITEM_INDEX, LENGTH)
    context = {}
    for window in found:
        for place in range(1, len(window)):
            if window[place - 1]:
                known = np.count_nonzero(window[:place])
                context[window[place]] = max(context.get(window[place], 0), known)
    assert sorted(context) == list(range(3, 27))
    assert all(known >= min(item - 2, 3) for item, known in context.items())


def test_a_history_that_is_shorter_than_the_window_is_padded(tmp_path):
    path = shard(tmp_path, {"ann": range(4)}, history=2)
    found = training_windows([path], "history", ITEM_INDEX, LENGTH)
    assert found[-1].tolist() == [0, 0, 3, 4, 5]


def test_an_unknown_positive_ends_a_window_with_0(tmp_path):
    path = shard(tmp_path, {"ann": [3, 4, 5]})
    table = pq.read_table(path)
    missing = pa.array([[4], [-1]], pa.list_(pa.int32()))
    table = table.set_column(3, "candidates", missing)
    pq.write_table(table, path)
    found = training_windows([path], "history", ITEM_INDEX, LENGTH)
    assert found[-1].tolist() == [0, 0, 5, 6, 0]


def test_batches_have_every_window_once_in_each_epoch_and_depend_on_the_seed():
    windows = np.arange(7, dtype="int32")[:, None] + np.zeros(3, "int32")
    stream = window_batches(windows, 2, seed=1).as_numpy_iterator()
    first = np.concatenate([next(stream)[:, 0] for _ in range(7)])
    assert sorted(first[:7]) == list(range(7)) and sorted(first[7:]) == list(range(7))
    again = window_batches(windows, 2, seed=1).as_numpy_iterator()
    same = np.concatenate([next(again)[:, 0] for _ in range(7)])
    other = window_batches(windows, 2, seed=2).as_numpy_iterator()
    moved = np.concatenate([next(other)[:, 0] for _ in range(7)])
    assert first.tolist() == same.tolist() != moved.tolist()
