"""sequences: windows over a query's training items, and their batches."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data.sequences import Windows, training_windows, window_batches

LENGTH = 4
ITEM_INDEX = np.arange(30) + 2


def windows_of(paths, features=(), length=LENGTH):
    return training_windows(paths, "history", features, ITEM_INDEX, length)


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


def with_features(path, **columns):
    """The file with these query features."""
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.append_column(f"query.{name}", values)
    pq.write_table(table, path)
    return path


def test_windows_end_with_the_last_item_and_are_half_a_window_apart(tmp_path):
    paths = [shard(tmp_path, {"ann": range(9)}), shard(tmp_path, {"bob": [20, 21]})]
    found = windows_of(paths).items
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
    found = windows_of(paths).items
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
    found = windows_of([path]).items
    assert found[-1].tolist() == [0, 0, 3, 4, 5]


def test_an_unknown_positive_ends_a_window_with_0(tmp_path):
    path = shard(tmp_path, {"ann": [3, 4, 5]})
    table = pq.read_table(path)
    missing = pa.array([[4], [-1]], pa.list_(pa.int32()))
    table = table.set_column(3, "candidates", missing)
    pq.write_table(table, path)
    found = windows_of([path]).items
    assert found[-1].tolist() == [0, 0, 5, 6, 0]


def test_batches_have_every_window_once_in_each_epoch_and_depend_on_the_seed():
    items = np.arange(7, dtype="int32")[:, None] + np.zeros(3, "int32")
    windows = Windows(items, np.zeros((7, 2), int), {})

    def first_items(seed):
        stream = window_batches(windows, 2, seed).as_numpy_iterator()
        return np.concatenate([next(stream)["windows"][:, 0] for _ in range(7)])

    first, same, moved = first_items(1), first_items(1), first_items(2)
    assert sorted(first[:7]) == list(range(7)) and sorted(first[7:]) == list(range(7))
    assert first.tolist() == same.tolist() != moved.tolist()


def test_query_features_are_those_of_the_list_in_which_an_item_was_chosen(tmp_path):
    ann = shard(tmp_path, {"ann": [5, 6, 7, 5, 8, 5], "bob": [7, 5, 6]})
    cid = shard(tmp_path, {"cid": [5, 6]})
    hours = pa.array([10, 11, 12, 13, 14, 20, 21], pa.int32())
    with_features(ann, hour=hours, fixed=pa.array([1.0] * 5 + [2.0] * 2))
    with_features(cid, hour=pa.array([30], pa.int32()), fixed=pa.array([3.0]))
    found = windows_of([ann, cid], ["hour", "fixed"])
    assert (found.items - 2).tolist() == [
        [-2, -2, -2, 5, 6],
        [-2, 5, 6, 7, 5],
        [6, 7, 5, 8, 5],
        [-2, -2, 7, 5, 6],
        [-2, -2, -2, 5, 6],
    ]
    batch = found.take(np.arange(5))
    # The first item of a query was not the choice in any list.
    assert batch["query"]["hour"].tolist() == [
        [0, 0, 0, 10],
        [0, 10, 11, 12],
        [11, 12, 13, 14],
        [0, 0, 20, 21],
        [0, 0, 0, 30],
    ]
    assert batch["query"]["fixed"][:, -1].tolist() == [1.0, 1.0, 1.0, 2.0, 3.0]


def test_an_item_without_a_list_has_no_query_features_and_the_others_keep_theirs(
    tmp_path,
):
    path = shard(tmp_path, {"ann": [5, 6, 7, 8, 9]})
    with_features(path, hour=pa.array([10, 11, 12, 13], pa.int32()))
    table = pq.read_table(path)
    pq.write_table(table.take([0, 2, 3]), path)  # Without the list of item 7.
    found = windows_of([path], ["hour"])
    assert (found.items[-1] - 2).tolist() == [5, 6, 7, 8, 9]
    hours = found.take(np.array([len(found) - 1]))["query"]["hour"]
    assert hours.tolist() == [[10, 0, 12, 13]]


def test_query_features_with_several_values_are_padded_to_the_longest(tmp_path):
    paths = []
    for name, values in (("ann", [[3, 4]]), ("bob", [[5]])):
        path = shard(tmp_path, {name: [1, 2]})
        paths.append(with_features(path, tags=pa.array(values, pa.list_(pa.int32()))))
    found = windows_of(paths, ["tags"], length=1)
    stream = window_batches(found, 2, seed=1).as_numpy_iterator()
    tags = next(stream)["query"]["tags"]
    assert sorted(tags.tolist()) == [[[3, 4]], [[5, 0]]]
