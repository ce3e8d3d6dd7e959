"""Partitions: every row is in its part of the time split."""

import numpy as np
import pyarrow as pa
import pytest

from recdistill.data import synthetic
from recdistill.errors import DataError
from recdistill.features.specs import CategoriesSpec, CategorySpec
from recdistill.pipeline.config import SplitConfig
from recdistill.pipeline.preparation import interaction_sort
from recdistill.pipeline.preparation.feature_columns import FeatureColumn
from recdistill.pipeline.preparation.partitions import Partitions
from recdistill.pipeline.preparation.row_parts import TEST, TRAIN, VALID
from tests import small_pipelines


def deal(data, folder, features=(), **split):
    folder.mkdir(exist_ok=True)
    for leftover in folder.iterdir():
        leftover.unlink()
    return Partitions(
        data,
        SplitConfig(**split),
        folder,
        small_pipelines.quiet,
        features=features,
    )


def rows_of(parts, part):
    """Of each row: its number, query, item, time, split, and how much is earlier."""
    return zip(
        part.table["row"].to_pylist(),
        parts.query_ids.take(part.table["query"].combine_chunks()).to_pylist(),
        parts.item_ids.take(part.table["item"].combine_chunks()).to_pylist(),
        part.time.tolist(),
        part.split.tolist(),
        (part.first_of_moment - part.first_of_query).tolist(),
        strict=True,
    )


def by_row(parts):
    """For each row of the source: query, item, time, split, and how much is earlier."""
    rows = {}
    for part in parts:
        rows |= {row: rest for row, *rest in rows_of(parts, part)}
    return rows


def history(user, *times):
    return [(user, f"i{k}", time) for k, time in enumerate(times)]


@pytest.mark.parametrize(
    ("rows", "shares", "parts"),
    [
        (1, (0.1, 0.1), (1, 0, 0)),
        (2, (0.1, 0.1), (2, 0, 0)),
        (3, (0.1, 0.1), (1, 1, 1)),  # one each, though 0.1 * 3 is less
        (10, (0.1, 0.1), (8, 1, 1)),
        (19, (0.1, 0.1), (17, 1, 1)),
        (20, (0.1, 0.1), (16, 2, 2)),
        (30, (0.1, 0.1), (24, 3, 3)),
        (100, (0.29, 0.1), (61, 29, 10)),  # 0.29 * 100 is 29, not 28.999…
        (10, (0.3, 0.2), (5, 3, 2)),
    ],
)
def test_the_last_share_of_each_query_is_held_out(tmp_path, rows, shares, parts):
    data = small_pipelines.dataset(history("ann", *range(rows)))
    (part,) = deal(data, tmp_path / "p", valid=shares[0], test=shares[1])
    train, valid, test = parts
    expected = [TRAIN] * train + [VALID] * valid + [TEST] * test
    assert part.split.tolist() == expected


def test_rows_are_sorted_by_query_and_time_and_ties_keep_their_order(tmp_path):
    data = small_pipelines.dataset(
        [
            ("bob", "x", 5),
            ("ann", "x", 9),
            ("ann", "y", 2),
            ("bob", "y", 5),
            ("ann", "z", 2),
            ("bob", "z", 1),
        ]
    )
    (part,) = deal(data, tmp_path / "p")
    assert part.table["row"].to_pylist() == [2, 4, 1, 5, 0, 3]
    assert part.first_of_query.tolist() == [0, 0, 0, 3, 3, 3]
    assert part.first_of_moment.tolist() == [0, 0, 2, 3, 4, 4]
    # Fewer than three moments: nothing is held out.
    assert part.split.tolist() == [TRAIN] * 6


def test_rows_of_one_query_and_time_are_one_list_unless_their_features_differ(tmp_path):
    log = [("ann", f"i{k}", time) for k, time in enumerate([1, 1, 2, 3, 3, 3, 4])]
    (part,) = deal(small_pipelines.dataset(log), tmp_path / "p")
    assert part.first_of_list.tolist() == [0, 0, 2, 3, 3, 3, 6]
    assert part.split.tolist() == [TRAIN] * 3 + [VALID] * 3 + [TEST]
    table = pa.table(
        {
            "user_id": ["ann"] * 4,
            "item_id": ["a", "b", "c", "d"],
            "timestamp": [5, 5, 5, 5],
            "tags": [["x"], ["x"], ["x", "y"], None],
            "shop": ["n", "m", "m", "m"],
        }
    )
    data = small_pipelines.dataset(table)
    for name, spec, first in (
        ("tags", CategoriesSpec(), [0, 0, 2, 3]),
        ("shop", CategorySpec(), [0, 1, 1, 1]),
    ):
        feature = FeatureColumn(name, spec, "interactions", name)
        (part,) = deal(data, tmp_path / name, [feature])
        assert part.first_of_list.tolist() == first


def test_rows_of_one_request_need_not_be_neighbours(tmp_path):
    table = {
        "user_id": ["ann"] * 6,
        "item_id": ["z", "a", "b", "c", "d", "e"],
        "timestamp": [1, 5, 5, 5, 5, 5],
        "device": ["web", "app", "web", None, "app", "web"],
    }
    data = small_pipelines.dataset(pa.table(table))
    spec = CategorySpec(optional=True)
    feature = FeatureColumn("device", spec, "interactions", "device")
    (part,) = deal(data, tmp_path / "p", [feature])
    assert part.table["row"].to_pylist() == [0, 1, 4, 2, 5, 3]
    assert part.first_of_list.tolist() == [0, 1, 1, 3, 3, 5]


def test_a_global_split_cuts_at_moments_that_all_queries_share(tmp_path):
    data = small_pipelines.dataset(
        [*history("ann", 0, 1, 2, 3, 4), *history("bob", 5, 6, 7, 8, 9)]
    )
    parts = deal(data, tmp_path / "p", by="global_time", valid=0.2, test=0.1)
    split = {row: values[3] for row, values in by_row(parts).items()}
    assert [split[row] for row in range(10)] == [TRAIN] * 7 + [VALID] * 2 + [TEST]


def test_a_global_split_never_divides_a_moment(tmp_path):
    rng = np.random.default_rng(4)
    times = rng.integers(0, 25, 400)
    data = small_pipelines.dataset(
        [(f"u{k % 9}", f"i{k % 7}", int(time)) for k, time in enumerate(times)]
    )
    parts = deal(data, tmp_path / "p", by="global_time", valid=0.2, test=0.2)
    seen = {}
    for _, _, time, split, _ in by_row(parts).values():
        assert seen.setdefault(time, split) == split
    ordered = [seen[time] for time in sorted(seen)]
    assert ordered == sorted(ordered)
    assert set(ordered) == {TRAIN, VALID, TEST}


def test_a_global_split_comes_close_to_the_shares(tmp_path):
    data = synthetic(200, 60, 4_000, seed=5)
    parts = deal(data, tmp_path / "p", by="global_time", valid=0.1, test=0.2)
    split = np.concatenate([part.split for part in parts])
    shares = np.bincount(split) / len(split)
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.002)


@pytest.mark.parametrize("by", ["query_time", "global_time"])
def test_the_batches_of_the_stream_do_not_change_the_partitions(tmp_path, by):
    table = pa.Table.from_batches(synthetic(50, 40, 700).interactions())
    whole = by_row(deal(small_pipelines.dataset(table), tmp_path / "p", by=by))
    assert len(whole) == 700
    for size in (1, 64, 699):
        data = small_pipelines.dataset(table, batch_rows=size)
        assert by_row(deal(data, tmp_path / "p", by=by)) == whole


@pytest.mark.parametrize("by", ["query_time", "global_time"])
def test_many_partitions_give_the_split_of_one(tmp_path, monkeypatch, by):
    data = synthetic(80, 40, 1_500)
    whole = by_row(deal(data, tmp_path / "p", by=by))
    monkeypatch.setattr(interaction_sort, "PARTITION_ROWS", 100)
    parts = deal(data, tmp_path / "p", by=by)
    assert len(parts) == 15
    assert by_row(parts) == whole
    queries = [set(part.query.tolist()) for part in parts]
    assert sum(map(len, queries)) == len(set.union(*queries)) == 80
    assert max(part.table.num_rows for part in parts) < 300


def test_partitions_can_be_read_twice(tmp_path):
    parts = deal(synthetic(20, 20, 150), tmp_path / "p")
    assert by_row(parts) == by_row(parts)


def test_no_interactions_are_an_error_that_names_the_data_set(tmp_path):
    with pytest.raises(DataError, match="`memory` has no interactions"):
        deal(small_pipelines.dataset([]), tmp_path / "p")


def test_progress_is_reported(tmp_path):
    calls = []
    (tmp_path / "p").mkdir()
    Partitions(
        synthetic(20, 20, 150),
        SplitConfig(),
        tmp_path / "p",
        lambda *call: calls.append(call),
    )
    assert calls == [
        ("Reading interactions", 150, None),
        ("Partitioning interactions", 150, 150),
    ]


@pytest.mark.parametrize("by", ["query_time", "global_time", "leave_last_out"])
def test_copies_of_a_row_are_in_one_part(tmp_path, by):
    rng = np.random.default_rng(7)
    log = [
        row
        for user in range(12)
        for time in range(9)
        for row in [(f"u{user}", f"i{rng.integers(30)}", time)] * rng.integers(1, 4)
    ]
    parts = deal(small_pipelines.dataset(log), tmp_path / "p", by=by)
    seen = {}
    for user, item, time, split, _ in by_row(parts).values():
        assert seen.setdefault((user, item, time), split) == split
    assert {*seen.values()} == {TRAIN, VALID, TEST}


@pytest.mark.parametrize(
    ("shared", "part"), [("y", [TEST, TEST]), ("w", [VALID, TEST])]
)
def test_two_lists_of_one_moment_that_share_an_item_are_in_one_part(
    tmp_path, shared, part
):
    rows = [(f"l{k}", f"i{k}", k) for k in range(5)]
    rows += [("a", "x", 9), ("a", "y", 9), ("b", shared, 9), ("b", "z", 9)]
    name, item, time = zip(*rows, strict=True)
    table = pa.table(
        {
            "list_id": name,
            "user_id": ["ann"] * len(rows),
            "item_id": item,
            "timestamp": time,
        }
    )
    data = small_pipelines.dataset(table, list="list_id")
    (found,) = deal(data, tmp_path / "p", by="leave_last_out")
    assert found.split.tolist() == [TRAIN] * 5 + [part[0]] * 2 + [part[1]] * 2


def test_one_impossible_date_does_not_move_the_global_split(tmp_path):
    start = 1_714_521_600
    log = [(f"u{k % 9}", f"i{k % 7}", start + 60 * k) for k in range(999)]
    for outlier in (0, 253_402_300_799, 1_000 * start):
        data = small_pipelines.dataset([*log, ("u0", "i0", outlier)])
        parts = deal(data, tmp_path / "p", by="global_time")
        split = np.concatenate([part.split for part in parts])
        np.testing.assert_allclose(np.bincount(split), [800, 100, 100], atol=1)


class TestDataWithoutTimes:
    """One interaction of each query is drawn for each held-out part."""

    def drawn(self, folder, seed=0, batch_rows=1_000, time="timestamp"):
        pairs = [(u, (u + 3 * k) % 25) for u in range(40) for k in range(6)]
        log = [(f"u{user}", f"i{item}", 5) for user, item in pairs]
        table = small_pipelines.dataset(log * 2)
        data = small_pipelines.dataset(
            pa.Table.from_batches(table.interactions()).drop_columns(
                [] if time else ["timestamp"]
            ),
            batch_rows=batch_rows,
            time=time,
        )
        folder.mkdir()
        split = SplitConfig(by="leave_random_out")
        found = {}
        parts = Partitions(data, split, folder, small_pipelines.quiet, seed)
        for part in parts:
            for row, user, item, _, where, before in rows_of(parts, part):
                found[row] = (user, item, where, before)
        return found

    def test_each_query_has_one_in_each_held_out_part(self, tmp_path):
        rows = set(self.drawn(tmp_path / "a").values())
        assert len(rows) == 240  # both copies of a row are in one part
        for user in {row[0] for row in rows}:
            own = [row for row in rows if row[0] == user]
            assert sorted(row[2] for row in own) == [TRAIN] * 4 + [VALID, TEST]
            # All others, twice each, come before the one for the test.
            assert sorted(row[3] for row in own) == [0, 2, 4, 6, 8, 10]
        items = {row[1] for row in rows if row[2] == TEST}
        assert len(items) > 10

    def test_the_draw_depends_on_the_seed_only(self, tmp_path):
        rows = self.drawn(tmp_path / "a")
        assert self.drawn(tmp_path / "b", batch_rows=7) == rows
        assert self.drawn(tmp_path / "c", time=None) == rows
        assert self.drawn(tmp_path / "d", seed=1) != rows

    def test_other_splits_need_times(self, tmp_path):
        log = pa.table({"user_id": ["a"], "item_id": ["b"]})
        data = small_pipelines.dataset(log, time=None)
        with pytest.raises(DataError, match=r'Set `split.by` = "leave_random_out"'):
            deal(data, tmp_path / "p")
