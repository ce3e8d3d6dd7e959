"""list_hashes: a list's hash depends on its own content, and on all of it."""

from dataclasses import replace

import numpy as np
import pytest

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.pipeline.list_hashes import list_hashes


def ragged(*rows):
    offsets = np.cumsum([0, *map(len, rows)])
    return Ragged(np.array([v for row in rows for v in row]), offsets)


def lists():
    return Lists(
        list_id=np.array([7, 8, 9]),
        query_id=np.array(["ann", "bob", "ann"], object),
        query={"history": np.array([[3, 4], [4, 3], [3, 4]])},
        positives=ragged([1], [1], [1]),
        relevance=ragged([1.0], [1.0], [1.0]),
        seen=ragged([5, 6], [5], [5, 6]),
        weight=np.ones(3, "float32"),
        query_row=np.array([0, 1, 0]),
        raw={"words": ragged(["a", "b"], ["ab"], ["a", "b"])},
    )


def test_equal_lists_have_equal_hashes_and_others_do_not():
    got = list_hashes(lists(), 1)
    assert got[0] == got[2] != got[1]
    assert not set(got) & set(list_hashes(lists(), 2))


def test_a_hash_does_not_depend_on_the_other_lists_or_the_place_in_the_data():
    whole = list_hashes(lists(), 1)
    some = lists().take(np.array([2, 1]))
    moved = replace(some, list_id=some.list_id + 10, query_row=some.query_row + 10)
    np.testing.assert_array_equal(list_hashes(moved, 1), whole[[2, 1]])


@pytest.mark.parametrize(
    "change",
    [
        {"query_id": np.array(["eve", "bob", "ann"], object)},
        {"query": {"history": np.array([[4, 3], [4, 3], [3, 4]])}},
        {"query": {"other": np.array([[3, 4], [4, 3], [3, 4]])}},
        {"positives": ragged([2], [1], [1])},
        {"relevance": ragged([2.0], [1.0], [1.0])},
        {"seen": ragged([5], [6, 5], [5, 6])},
        {"not_chosen": ragged([2], [], [])},
        {"seen_excluded": False},
        {"raw": {"words": ragged(["b", "a"], ["ab"], ["a", "b"])}},
        {"raw": {"words": ragged(["ab"], ["ab"], ["a", "b"])}},
    ],
)
def test_a_hash_depends_on_all_of_the_content(change):
    whole, other = list_hashes(lists(), 1), list_hashes(replace(lists(), **change), 1)
    assert other[0] != whole[0]
