"""retriever: candidates and weights equal plain loops, and sums are unbiased."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import DRAWN
from recdistill.pipeline.candidates.candidate_selection import mixed
from recdistill.pipeline.candidates.retriever import (
    Retriever,
    SecondRound,
    most_observed,
)
from recdistill.pipeline.config import ListsConfig

ITEMS = 40
TOP = [30, 3, 7, 11]
POPULARITY = np.array([9.0, 1, 1, 8, 1, 7] + [0.0] * (ITEMS - 6), "float32")


def ragged(rows):
    lengths = np.cumsum([0, *map(len, rows)])
    return Ragged(np.array([k for row in rows for k in row], "int32"), lengths)


def lists_of(positives, seen):
    count = len(positives)
    return Lists(
        list_id=np.arange(count),
        query_id=np.array([f"u{k}" for k in range(count)]),
        query={},
        positives=ragged(positives),
        relevance=ragged([[1] * len(row) for row in positives]),
        seen=ragged(seen),
        weight=np.ones(count, "float32"),
        query_row=np.full(count, -1),
    )


def always(items):
    return lambda lists: np.tile(np.array(items, "int32"), (len(lists), 1))


def first_round(lists, keys, **settings):
    config = ListsConfig(
        size="retrieved", **{"retriever_top": 4, "popular": 3, "tail": 6, **settings}
    )
    ids = mixed(np.arange(ITEMS, dtype="uint64"))
    return Retriever(always(TOP), POPULARITY, config, 2, ids)(lists, keys, "")


def test_candidates_are_observed_retrieved_popular_and_drawn_each_once():
    lists = lists_of([[7, 20], [5], [-1]], [[0], [1, 2, 3], []])
    keys = np.arange(3, dtype="uint64")
    found = first_round(lists, keys)
    chosen = found.items[:, : -found.drawn]
    # The most popular items are 0, 3 and 5; a missing positive (-1) is no candidate.
    assert chosen.tolist() == [
        [7, 20, 30, 3, 11, 5, -1, -1, -1],
        [5, 30, 7, 11, 0, -1, -1, -1, -1],
        [30, 3, 7, 11, 0, 5, -1, -1, -1],
    ]
    assert found.drawn == 6
    for row, seen in enumerate(([0], [1, 2, 3], [])):
        free = set(range(ITEMS)) - set(chosen[row].tolist()) - set(seen)
        drawn = found.items[row, -6:].tolist()
        assert drawn == sorted(set(drawn))
        assert set(drawn) <= free
        assert found.drawn_weight[row] == pytest.approx(len(free) / 6)
    weight = found.item_weight()
    assert (weight[:, :-6] == 1.0).all()
    np.testing.assert_array_equal(
        weight[:, -6:], found.drawn_weight[:, None] + 0 * weight[:, -6:]
    )


def test_a_weighted_sum_over_a_list_estimates_the_sum_over_the_catalogue():
    draws = 4_000
    lists = lists_of([[7, 20]] * draws, [[0, 39]] * draws)
    found = first_round(lists, np.arange(draws, dtype="uint64") * np.uint64(7919))
    value = np.random.default_rng(3).exponential(size=ITEMS)
    real = found.items >= 0
    sums = (value[found.items] * found.item_weight() * real).sum(axis=1)
    total = sum(value[k] for k in range(ITEMS) if k not in (0, 39))
    error = sums.std() / draws**0.5
    assert abs(sums.mean() - total) < 4 * error
    assert error < 0.01 * total


def test_all_items_are_drawn_if_the_tail_is_longer_than_the_rest():
    lists = lists_of([[7]], [[0, 1]])
    found = first_round(lists, np.zeros(1, "uint64"), tail=500)
    real = found.items[found.items >= 0]
    assert sorted(real) == [k for k in range(ITEMS) if k not in (0, 1)]
    assert found.drawn_weight[0] == 1.0


def test_the_second_round_adds_new_items_and_moves_drawn_ones(tmp_path):
    lists = lists_of([[7]], [[0]])
    table = pa.table(
        {
            "list_id": [0],
            "query_id": ["u0"],
            "candidates": pa.array([[7]], pa.list_(pa.int32())),
            "relevance": pa.array([[1.0]], pa.list_(pa.float32())),
            "seen": pa.array([[0]], pa.list_(pa.int32())),
            "list_weight": pa.array([1.0], pa.float32()),
            "query_row": [-1],
            "scored_candidates": pa.array(
                [[7, 30, -1, 4, 9, 21]], pa.list_(pa.int32(), 6)
            ),
            "teacher_scores": pa.array([[0.0] * 6], pa.list_(pa.float32(), 6)),
            "drawn_weight": pa.array([12.0], pa.float32()),
        }
    ).replace_schema_metadata({DRAWN: "3"})
    pq.write_table(table, tmp_path / "scores-00000.parquet")
    added = SecondRound(always([9, 30, 17, 7, 2]), tmp_path, 2)
    found = added(lists, np.zeros(1, "uint64"), "scores-00000.parquet")
    # 9 was drawn and is certain now; 30 and 7 were there; 2 is one too many.
    assert found.items.tolist() == [[7, 30, -1, 9, 17, 4, -1, 21]]
    assert (found.drawn, found.drawn_weight.tolist()) == (3, [12.0])
    assert found.item_weight().tolist() == [[1, 1, 1, 1, 1, 12, 12, 12]]


def test_joined_lists_keep_what_was_drawn():
    lists = lists_of([[7], [5]], [[0], [1]])
    found = first_round(lists, np.arange(2, dtype="uint64"))
    lists = replace(
        lists,
        candidates=found.items,
        drawn=found.drawn,
        drawn_weight=found.drawn_weight,
    )
    both = Lists.joined([lists.take(np.array([0])), lists.take(np.array([1]))])
    np.testing.assert_array_equal(both.item_weight(), found.item_weight())


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ([1] * 100, 1),
        ([1] * 9_999 + [5_000], 13),  # as many as all other candidates
        ([40] * 9_999 + [5_000], 40),
        ([1] * 9_999 + [9], 9),
        ([1] * 499 + [5_000], 5_000),  # a thousandth of the lists is less than one
    ],
)
def test_one_long_list_does_not_make_all_stored_lists_long(sizes, most):
    config = ListsConfig(size="retrieved", retriever_top=4, popular=3, tail=6)
    assert most_observed(np.array(sizes), config) == most


def test_of_a_longer_list_the_first_observed_items_are_candidates():
    lists = lists_of([[20, 21, 22, 23], [5]], [[], []])
    found = first_round(lists, np.arange(2, dtype="uint64"))
    assert found.items[0, :2].tolist() == [20, 21]
    assert not {22, 23} & set(found.items[0, : -found.drawn].tolist())
    assert found.items[1, 0] == 5
