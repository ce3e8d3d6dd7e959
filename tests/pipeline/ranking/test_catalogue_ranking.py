"""Rankings of a catalogue by blocks, compared with a plain loop."""

import numpy as np
import pytest

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.evaluation.rows import measure_ranks
from recdistill.metrics.ranking import MISSED
from recdistill.pipeline.ranking import catalogue_ranking
from recdistill.pipeline.ranking.catalogue_ranking import (
    NotRankableError,
    positives_of,
    rank_candidates,
    rank_catalogue,
    rank_same_scores,
    rank_scores,
)


def ragged(rows, dtype="int32"):
    offsets = np.cumsum([0, *map(len, rows)])
    return Ragged(np.array([x for row in rows for x in row], dtype), offsets)


def lists_of(positives, seen, relevance=None, **others):
    count = len(positives)
    if relevance is None:
        relevance = [[1.0] * len(row) for row in positives]
    return Lists(
        list_id=np.arange(count),
        query_id=np.array([f"u{k}" for k in range(count)], object),
        query={},
        positives=ragged(positives),
        relevance=ragged(relevance, "float32"),
        seen=ragged(seen),
        weight=np.ones(count, "float32"),
        query_row=np.arange(count),
        **others,
    )


def random_lists(rng, count, items):
    """Lists with repeated, excluded and unknown positives, some with very many."""
    positives = [
        rng.integers(-1, items, 30 if k % 7 == 0 else rng.integers(0, 4)).tolist()
        for k in range(count)
    ]
    relevance = [rng.integers(0, 3, len(row)).tolist() for row in positives]
    seen = [
        rng.choice(items, rng.integers(0, items), replace=False) for _ in range(count)
    ]
    return lists_of(positives, seen, relevance)


def by_loop(scores, lists, candidates):
    """The ranking of one list after the other, and its positives with their ranks."""
    top, found = [], []
    for row in range(len(lists)):
        one = lists.take(np.array([row]))
        items = [k for k in candidates(row) if k not in set(one.seen.values.tolist())]
        ranked = sorted(items, key=lambda k: (-scores[row, k], k))
        top.append(ranked)
        pairs = zip(one.positives.values, one.relevance.values, strict=True)
        pairs = [(int(k), float(g)) for k, g in pairs]
        grade = {k: g for k, g in pairs if k >= 0}
        own = [(k, g) for k, g in grade.items() if k not in set(one.seen.values)]
        own += [(k, g) for k, g in pairs if k < 0]
        found += sorted(
            (row, 1 + ranked.index(k) if k in items else MISSED, g)
            for k, g in own
            if g > 0
        )
    return top, found


def assert_ranks(got, found):
    pairs = zip(got.ranks.row, got.ranks.rank, got.ranks.gain, strict=True)
    # The missed positives of a list have no order.
    got = sorted((int(row), int(rank), float(gain)) for row, rank, gain in pairs)
    assert got == sorted(found)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_catalogue_is_ranked_in_blocks_as_by_a_plain_loop(monkeypatch, dtype):
    rng = np.random.default_rng(1)
    items = 41
    lists = random_lists(rng, 23, items)
    # Few different scores: most are tied.
    scores = rng.integers(0, 6, (23, items)).astype(dtype)
    monkeypatch.setattr(catalogue_ranking, "SCORES_AT_ONCE", 4 * items)
    blocks = []

    def score(block):
        blocks.append(len(block))
        return scores[block.list_id]

    got = rank_catalogue(score, lists, items, 10)
    assert blocks == [4, 4, 4, 4, 4, 3]
    top, found = by_loop(scores, lists, lambda row: range(items))
    for row, ranked in enumerate(top):
        expected = (ranked + [-1] * 10)[:10]
        assert got.top[row].tolist() == expected
    ranks = got.ranks
    pairs = zip(ranks.row, ranks.rank, ranks.gain, strict=True)
    assert [tuple(map(float, each)) for each in pairs] == found
    assert ranks.batch_size == 23


@pytest.mark.parametrize("top", [0, 10, 60])
def test_the_same_scores_for_all_lists_are_ranked_as_by_a_plain_loop(monkeypatch, top):
    rng = np.random.default_rng(3)
    items = 41
    lists = random_lists(rng, 23, items)
    scores = rng.integers(0, 6, items).astype("float32")
    monkeypatch.setattr(catalogue_ranking, "SCORES_AT_ONCE", 4 * items)
    got = rank_same_scores(scores, lists, top)
    every = np.broadcast_to(scores, (23, items))
    expected, found = by_loop(every, lists, lambda row: range(items))
    for row, ranked in enumerate(expected):
        assert got.top[row].tolist() == (ranked + [-1] * top)[:top]
    assert_ranks(got, found)
    none = rank_same_scores(scores, lists.take(np.zeros(0, int)), top)
    assert none.top.shape == (0, top) and none.ranks.batch_size == 0


def test_listed_candidates_are_ranked_as_by_a_plain_loop():
    rng = np.random.default_rng(2)
    items = 30
    lists = random_lists(rng, 12, items)
    scores = rng.integers(0, 4, (12, items)).astype("float32")
    listed = [
        np.setdiff1d(rng.choice(items, 12, replace=False), lists.seen.take([k]).values)
        for k in range(12)
    ]
    candidates = ragged(listed).padded(-1)
    own = np.take_along_axis(scores, np.maximum(candidates, 0), axis=1)
    own[candidates < 0] = np.nan
    got = rank_candidates(own, candidates, lists, 5)
    top, found = by_loop(scores, lists, lambda row: listed[row].tolist())
    for row, ranked in enumerate(top):
        assert got.top[row].tolist() == (ranked + [-1] * 5)[:5]
    assert_ranks(got, found)


def test_a_positive_that_is_no_candidate_counts_as_missed():
    # Of four positives two are candidates, one is not, and one has no row.
    lists = lists_of([[0, 1, 2, -1]], seen=[[]])
    scores = np.array([[3.0, 1.0, 2.0]], "float32")
    ranks = rank_candidates(scores, np.array([[0, 1, 3]], "int32"), lists, 3).ranks
    assert ranks.rank.tolist() == [1, 3, MISSED, MISSED]
    names = [
        "recall@1",
        "recall@10",
        "hit@1",
        "map@10",
        "ndcg@3",
        "mrr",
        "rbp@9",
        "err@9",
    ]
    got = {name: float(v[0]) for name, v in measure_ranks(ranks, names).items()}
    assert got["recall@1"] == 1 / 4
    assert got["recall@10"] == 2 / 4
    assert got["map@10"] == (1 / 1 + 2 / 3) / 4
    ideal = sum(1 / np.log2(place + 1) for place in (1, 2, 3))
    assert got["ndcg@3"] == pytest.approx((1 + 1 / 2) / ideal)
    assert (got["hit@1"], got["mrr"]) == (1.0, 1.0)
    assert got["rbp@9"] == pytest.approx(0.2 + 0.2 * 0.8**2)
    satisfied = 1 / 16
    assert got["err@9"] == pytest.approx(satisfied + (1 - satisfied) * satisfied / 3)
    # Without a candidate among its positives a list counts 0, exactly.
    alone = lists_of([[2, -1]], seen=[[]])
    ranks = rank_candidates(scores, np.array([[0, 1, 3]], "int32"), alone, 3).ranks
    assert all(value[0] == 0.0 for value in measure_ranks(ranks, names).values())


def test_an_excluded_item_is_not_ahead_of_a_positive_with_the_lowest_score():
    lists = lists_of([[2]], seen=[[0]])
    got = rank_scores(np.full((1, 3), -np.inf, "float32"), lists, 5)
    assert got.ranks.rank.tolist() == [2]  # Only item 1 is ahead.
    assert got.top.tolist() == [[1, 2, -1, -1, -1]]


def test_excluded_items_take_no_place_of_an_item_with_the_lowest_score():
    scores = np.array([[5.0, 1.0, -np.inf]], "float32")
    got = rank_scores(scores, lists_of([[2]], seen=[[0]]), 2)
    assert got.top.tolist() == [[1, 2]]


def test_scores_that_are_not_numbers_are_refused_unless_the_item_is_excluded():
    lists = lists_of([[2]], seen=[[0]])
    got = rank_scores(np.array([[np.nan, 1.0, 2.0]], "float32"), lists, 2)
    assert got.top.tolist() == [[2, 1]]
    for bad in (np.nan, np.inf):
        scores = np.array([[0.0, bad, 2.0]], "float32")
        with pytest.raises(NotRankableError, match="in list 0"):
            rank_scores(scores, lists, 2)
        with pytest.raises(NotRankableError, match="in list 0"):
            rank_candidates(scores[:, 1:], np.array([[1, 2]], "int32"), lists, 2)


def test_positives_are_in_the_catalogue_and_not_excluded_and_each_counts_once():
    lists = lists_of(
        [[4, -1, 3, 4], [], [1]], seen=[[3], [], []], relevance=[[1, 1, 1, 2], [], [0]]
    )
    row, item, gain = positives_of(lists)
    assert (row.tolist(), item.tolist(), gain.tolist()) == ([0], [4], [2.0])


def test_lists_with_drawn_candidates_can_be_joined():
    parts = [lists_of([[1]], seen=[[0]], drawn=3) for _ in range(2)]
    assert Lists.joined(parts).drawn == 3
    assert Lists.joined(parts).positives.values.tolist() == [1, 1]
