"""sequences: windows over a query's training items, and their batches."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.data.sequences import Windows, training_windows, window_batches
from recdistill.data.shard_reading import SEEN

LENGTH = 4
ITEM_INDEX = np.arange(30) + 2


def windows_of(paths, features=(), length=LENGTH, limit=100):
    return training_windows(paths, "history", features, ITEM_INDEX, length, limit)


def shard(folder, queries, history=LENGTH, first=1, exclude=False):
    """One file with a list for each set of items that a query chose at one time.

    Args:
        folder: Its folder.
        queries: For each query the items in their order; a tuple was chosen at once.
        history: Length of the stored histories.
        first: Number of the first list of a query; a query without an earlier
            interaction has a list only with 0.
        exclude: Whether repeats are in no list.
    """
    rows = []
    for name, chosen in queries.items():
        past = []
        for number, items in enumerate(chosen):
            items = items if isinstance(items, tuple) else (items,)
            new = [item for item in items if not (exclude and item in past)]
            if number >= first and new:
                latest = [ITEM_INDEX[i] for i in past[::-1]][:history]
                latest += [0] * (history - len(latest))
                rows.append((name, latest, sorted({*new}), [*past]))
            past += items
    names, past, positives, seen = zip(*rows, strict=True)
    ones = np.ones(len(rows), "float32")
    table = {
        "list_id": np.arange(len(rows)),
        "query_id": pa.array(names),
        "query_row": np.zeros(len(rows), "int64"),
        "candidates": pa.array(positives, pa.list_(pa.int32())),
        "relevance": pa.array(
            [[1.0] * len(each) for each in positives], pa.list_(pa.float32())
        ),
        "list_weight": ones,
        "seen": pa.array(seen, pa.list_(pa.int32())),
        "query.history": pa.array(past, pa.list_(pa.int32(), history)),
    }
    path = folder / f"train-{len(list(folder.iterdir())):05d}.parquet"
    metadata = {SEEN: b"exclude" if exclude else b"include"}
    pq.write_table(pa.table(table, metadata=metadata), path)
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
    windows = Windows(items, np.full((7, 2), -1), {})

    def first_items(seed):
        stream = window_batches(windows, 2, seed).as_numpy_iterator()
        return np.concatenate([next(stream)["windows"][:, 0] for _ in range(7)])

    first, same, moved = first_items(1), first_items(1), first_items(2)
    assert sorted(first[:7]) == list(range(7)) and sorted(first[7:]) == list(range(7))
    assert first.tolist() == same.tolist() != moved.tolist()


def hours_of(path, **options):
    """For each window, its items and the numbers of the lists that have them."""
    size = pq.read_metadata(path).num_rows
    with_features(path, hour=pa.array(np.arange(size) + 1, pa.int32()))
    found = windows_of([path], ["hour"], **options)
    batch = found.take(np.arange(len(found)))
    hours = batch["query"]["hour"]
    np.testing.assert_array_equal(batch["known"], hours > 0)
    items = (batch["windows"] - 2).tolist()
    return list(zip(items, (hours - 1).tolist(), strict=True))


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


def test_a_repeat_that_is_in_no_list_has_no_query_features_and_others_keep_theirs(
    tmp_path,
):
    path = shard(tmp_path, {"ann": [4, 5, 6, 7, 5, 8]}, exclude=True)
    assert hours_of(path)[-1] == ([5, 6, 7, 5, 8], [1, 2, -1, 3])


def test_repeats_right_after_the_first_choice_have_no_query_features(tmp_path):
    path = shard(tmp_path, {"ann": [4, 4, 4, 5]}, first=0, exclude=True)
    assert hours_of(path)[-1] == ([-2, 4, 4, 4, 5], [0, -1, -1, 1])


def test_items_that_were_chosen_together_have_the_query_features_of_that_time(tmp_path):
    path = shard(tmp_path, {"ann": [4, (5, 6), (5, 6), 7]})
    assert hours_of(path)[-1] == ([5, 6, 5, 6, 7], [0, 1, 1, 2])


def test_the_first_item_of_a_query_has_query_features_if_it_has_a_list(tmp_path):
    path = shard(tmp_path, {"ann": [4, 5, 6], "bob": [7]}, first=0)
    assert hours_of(path)[-2:] == [
        ([-2, -2, 4, 5, 6], [-1, 0, 1, 2]),
        ([-2, -2, -2, -2, 7], [-1, -1, -1, 3]),
    ]
    # Without query features nothing can be learned about an item with none before it.
    assert windows_of([path]).items[-1].tolist() == [0, 0, 6, 7, 8]


def test_an_item_at_the_end_of_a_stored_history_is_not_the_first_one(tmp_path):
    path = shard(tmp_path, {"ann": [4, 5, 6, 7]}, first=0, history=2)
    assert hours_of(path)[-1] == ([-2, -2, 5, 6, 7], [-1, -1, 2, 3])


def test_a_limit_of_the_lists_of_a_query_leaves_the_others_without_features(tmp_path):
    path = shard(tmp_path, {"ann": [4, 5, 6, 7, 8], "bob": [5, 6, 5]}, first=2)
    assert hours_of(path)[-2:] == [
        ([4, 5, 6, 7, 8], [-1, 0, 1, 2]),
        ([-2, -2, 5, 6, 5], [-1, -1, -1, 3]),
    ]


@pytest.mark.parametrize("exclude", [False, True])
def test_the_list_of_an_item_is_found_among_many_repeats(tmp_path, exclude):
    rng = np.random.default_rng(0)
    chosen, every, list_of, begin_of = {}, {}, {}, []
    for name in ("ann", "bob", "cid"):
        chosen[name] = [
            tuple(rng.integers(0, 25, rng.integers(1, 4))) for _ in range(30)
        ]
        past, own = every.setdefault(name, []), list_of.setdefault(name, [])
        for time, items in enumerate(chosen[name]):
            new = {item for item in items if not (exclude and item in past)}
            listed = time > 0 and len(new) > 0
            own += [len(begin_of) if listed and i in new else -1 for i in items]
            begin_of += [len(past)] * listed
            past += items
    path = shard(tmp_path, chosen, exclude=exclude)
    names = pq.read_table(path)["query_id"].to_pylist()
    known = 0
    for items, found in hours_of(path):
        end = begin_of[found[-1]]
        history = slice(max(0, end - LENGTH), end)
        past, own = (each[names[found[-1]]][history] for each in (every, list_of))
        assert past == [item for item in items[:-1] if item >= 0]
        each = zip(past[1:], found[-len(own) : -1], own[1:], strict=True)
        for place, (item, got, want) in enumerate(each, start=1):
            # A repeat may have the list of a first choice that is not in the window.
            assert got == want or (want < 0 and exclude and item not in past[:place])
            known += want >= 0
    assert known > 25


def test_of_more_windows_than_the_limit_a_sample_is_kept(tmp_path):
    users = {f"u{k}": [k % 7, (k + 1) % 7, (k + 2) % 7] for k in range(40)}
    paths = [shard(tmp_path, users), shard(tmp_path, {"zoe": [20, 21]})]
    for path in paths:
        size = pq.read_metadata(path).num_rows
        with_features(path, hour=pa.array(np.arange(size) + 1, pa.int32()))
    every, some = (windows_of(paths, ["hour"], limit=n) for n in (1_000, 20))
    assert len(some) == 20 < len(every)
    assert len(some.query["hour"]) < len(every.query["hour"])
    whole = every.take(np.arange(len(every)))
    places = {tuple(items): n for n, items in enumerate(whole["windows"].tolist())}
    sample = some.take(np.arange(len(some)))
    for items, hours in zip(sample["windows"], sample["query"]["hour"], strict=True):
        assert tuple(items) in places
        assert (hours > 0).sum() == (items > 0).sum() - 1


def test_query_features_with_several_values_are_padded_to_the_longest(tmp_path):
    paths = []
    for name, values in (("ann", [[3, 4]]), ("bob", [[5]])):
        path = shard(tmp_path, {name: [1, 2]})
        paths.append(with_features(path, tags=pa.array(values, pa.list_(pa.int32()))))
    found = windows_of(paths, ["tags"], length=1)
    stream = window_batches(found, 2, seed=1).as_numpy_iterator()
    tags = next(stream)["query"]["tags"]
    assert sorted(tags.tolist()) == [[[3, 4]], [[5, 0]]]


def test_a_file_without_lists_has_no_windows(tmp_path):
    path = shard(tmp_path, {"ann": [1, 2]})
    with_features(path, hour=pa.array([7], pa.int32()))
    empty = tmp_path / "empty.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), empty)
    for paths in ([empty, path], [path, empty]):
        assert windows_of(paths, ["hour"]).items.tolist() == [[0, 0, 0, 3, 4]]


def test_the_memory_of_the_query_features_is_checked_for_each_file(tmp_path):
    paths, needed = [], []
    for name, items in (("ann", range(9)), ("bob", range(5))):
        path = shard(tmp_path, {name: items})
        hours = pa.array(np.arange(len(items) - 1), pa.int32())
        paths.append(with_features(path, hour=hours))
    training_windows(
        paths, "history", ["hour"], ITEM_INDEX, LENGTH, 1_000, needed.append
    )
    # Numbers of 4 bytes for 8 and for 4 lists, twice while they are joined.
    assert needed == [2 * 4 * 8, 4 * 8 + 2 * 4 * 4]
