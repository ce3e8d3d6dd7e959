"""Slices of the test lists, against plain loops over the lists."""

import numpy as np
import pytest

from recdistill.data.shard_reading import in_order
from recdistill.pipeline.ranking import list_slices
from recdistill.pipeline.ranking.list_slices import (
    ListSlices,
    groups_of,
    segments,
    strata,
)
from tests.pipeline.logs import random_log, rich, rows_of, run


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        # Of 20 interactions, 10 are in the head and 18 in head and torso.
        ([6, 5, 4, 3, 2], ["head", "head", "torso", "torso", "tail"]),
        ([5, 3, 1, 1], ["head", "torso", "torso", "tail"]),
        ([0, 6, 1, 0, 2], ["new", "head", "torso", "new", "torso"]),
        ([0, 0], ["new", "new"]),
    ],
)
def test_items_are_segmented_by_their_share_of_the_interactions(counts, found):
    assert segments(np.array(counts, "float32")).tolist() == found


@pytest.mark.parametrize(
    ("counts", "count", "found"),
    [
        # The first two items have 11 of 20 interactions, the first three 15.
        ([6, 5, 4, 3, 2], 4, [0, 1, 2, 3, 3]),
        ([2, 3, 4, 5, 6], 2, [1, 1, 1, 0, 0]),
        ([0, 6, 1, 0, 2], 3, [2, 0, 2, 2, 2]),
        ([3, 1], 1, [0, 0]),
        ([0, 0], 2, [1, 1]),
        ([], 2, []),
    ],
)
def test_strata_have_about_equal_numbers_of_interactions(counts, count, found):
    got = strata(np.array(counts, "float32"), count)
    assert got.tolist() == found
    assert got.dtype == "int32"


def test_counts_are_divided_into_groups_of_about_equal_size():
    groups = groups_of(np.array([9, 0, 1, 1, 5, 0, 7]))
    named = {name: np.flatnonzero(inside).tolist() for name, inside in groups.items()}
    assert named == {"0": [1, 5], "1": [2, 3], "5": [4], "7 to 9": [0, 6]}
    alike = groups_of(np.array([3, 3, 3]))
    assert [name for name, inside in alike.items() if inside.any()] == ["3"]
    assert groups_of(np.array([0, 0]))["0"].all()


LENGTH = 12
QUERY = {
    "history": {"kind": "history", "length": LENGTH},
    "device": {"kind": "category"},
    "job": {"kind": "category", "optional": True},
}
CANDIDATE = {"item_id": {"kind": "id"}, "tags": {"kind": "categories"}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    log = random_log(4, rows=300, users=20, items=15, moments=40)
    devices = ["phone", "desk", "watch"]
    data = rich(log, device=[devices[time % 7 % 3] for _, _, time in log])
    folder = tmp_path_factory.mktemp("prepared") / "p"
    return run(data, folder, query=QUERY, candidate=CANDIDATE)[0]


def slices_of(prepared, at_once=7):
    found = ListSlices(prepared)
    for lists in in_order(prepared.shards("test"), at_once):
        found.add(lists)
    return found.members()


def test_every_list_is_in_the_slices_of_its_query_and_its_item(prepared):
    members = slices_of(prepared)
    assert list(members) == ["item", "activity", "history", "device", "job", "tags"]
    tags = prepared.items["tags"].to_pylist()
    segment = segments(prepared.popularity)
    lengths = np.diff(prepared.training_rows.offsets)
    several = 0
    for number, row in enumerate(rows_of(prepared, "test").values()):
        own = {
            kind: [name for name, inside in slices.items() if inside[number]]
            for kind, slices in members.items()
        }
        items = [item for item in row["candidates"] if item >= 0]
        kinds = {segment[item] for item in items}
        several += len(kinds) > 1
        assert own["item"] == (["mixed"] if len(kinds) > 1 else sorted(kinds))
        (activity,), (history,) = own["activity"], own["history"]
        assert within(lengths[row["query_row"]], activity)
        assert within(len(row["raw.history"][-LENGTH:]), history)
        assert own["device"] == [row["raw.device"]]
        assert own["job"] == [row["raw.job"] or "no value"]
        found = {tag for item in items for tag in tags[item]}
        assert sorted(own["tags"]) == sorted(found or {"no value"})
    assert several


def within(count, name):
    low, _, high = name.partition(" to ")
    return int(low) <= count <= int(high or low)


def test_rare_categories_share_a_slice(prepared, monkeypatch):
    all_of_them = slices_of(prepared)["device"]
    monkeypatch.setattr(list_slices, "MOST_CATEGORIES", 1)
    few = slices_of(prepared)["device"]
    most = max(all_of_them, key=lambda name: all_of_them[name].sum())
    assert list(few) == [most, "other values"]
    np.testing.assert_array_equal(few[most], all_of_them[most])
    np.testing.assert_array_equal(few["other values"], ~few[most])


def test_a_kind_with_one_slice_is_left_out(prepared, monkeypatch):
    monkeypatch.setattr(list_slices, "GROUPS", 1)
    assert "activity" not in slices_of(prepared)
