"""Lists in memory: candidates, masks and relevance over the catalogue."""

import numpy as np

from recdistill.data.batches import (
    Lists,
    catalogue_mask,
    catalogue_relevance,
    raw_inputs,
)
from tests.data.list_builders import ITEMS, as_lists, lists, ragged


class TestCatalogue:
    def test_seen_items_are_masked_also_if_they_are_positives(self):
        one = lists([[2], [0, 5], [-1]], seen=[[1, 2], [], [7, 7]])
        got = catalogue_mask(one, ITEMS)
        assert got.dtype == bool
        absent = [np.flatnonzero(~row).tolist() for row in got]
        assert absent == [[1, 2], [], [7]]

    def test_no_seen_item_is_masked_if_seen_items_are_candidates(self):
        one = lists([[2], [0, 5], [-1]], seen=[[1, 2], [], [7]], seen_excluded=False)
        assert catalogue_mask(one, ITEMS).all()
        assert catalogue_mask(one.take(np.array([2, 0])), ITEMS).all()

    def test_relevance_skips_items_outside_the_catalogue(self):
        one = lists([[2], [0, 5], [-1]], relevance=[[3.0], [1.0, 0.5], [9.0]])
        got = catalogue_relevance(one, ITEMS)
        assert got.dtype == np.float32
        want = np.zeros((3, ITEMS))
        want[0, 2], want[1, 0], want[1, 5] = 3.0, 1.0, 0.5
        np.testing.assert_array_equal(got, want)

    def test_the_mask_of_scored_candidates_has_nothing_else(self):
        one = lists([[2], [0]], seen=[[1], [0]])
        scored = one.with_scored_candidates(ragged([[1, 2, 3], [0, 7]]))
        got = catalogue_mask(scored, ITEMS)
        assert [np.flatnonzero(row).tolist() for row in got] == [[2, 3], [7]]


class TestShown:
    def test_the_candidates_of_a_list_are_what_it_showed(self):
        one = lists(
            [[2], [0], [-1]], not_chosen=ragged([[5, 1], [], []]), seen=[[1], [], []]
        )
        got = catalogue_mask(one.with_listed_candidates(), ITEMS)
        assert [np.flatnonzero(row).tolist() for row in got] == [[2, 5], [0], []]
        both = one.with_listed_candidates().with_scored_candidates(
            ragged([[5, 7], [0], []])
        )
        assert as_lists(both.scored_candidates) == [[5], [0]]

    def test_without_them_the_candidates_stay(self):
        one = lists([[2], [0]])
        assert one.shown is None
        assert one.with_listed_candidates() is one

    def test_what_was_observed_starts_with_the_positives(self):
        one = lists(
            [[2, 6], [0]],
            [[], []],
            [[3.0, 2.0], [1.0]],
            not_chosen=ragged([[1], [4, 5]]),
        )
        items, relevance = one.observed()
        assert as_lists(items) == [[2, 6, 1], [0, 4, 5]]
        assert as_lists(relevance) == [[3.0, 2.0, 0.0], [1.0, 0.0, 0.0]]


class TestScoredCandidates:
    def test_lists_without_a_scored_candidate_are_left_out(self):
        one = lists([[2], [0], [5]])
        got = one.with_scored_candidates(ragged([[1, 2], [], [5]]))
        assert got.list_id.tolist() == [0, 2]

    def test_two_restrictions_are_intersected(self):
        one = lists([[2], [0]])
        got = one.with_scored_candidates(ragged([[1, 2], [0, 3]]))
        got = got.with_scored_candidates(ragged([[2, 4], [1]]))
        assert got.list_id.tolist() == [0]
        assert got.scored_candidates.values.tolist() == [2]

    def test_only_lists_with_a_scored_positive_can_be_evaluated(self):
        one = lists([[2], [0], [-1]])
        scored = one.with_scored_candidates(ragged([[1, 2], [3], [4]]))
        got = scored.with_scored_positives()
        assert got.list_id.tolist() == [0]
        assert one.with_scored_positives() is one

    def test_positives_without_a_score_are_left_out(self):
        one = lists([[2, -1, 0], [1]], relevance=[[1.0, 2.0, 3.0], [1.0]])
        got = one.with_scored_candidates(ragged([[0, 1], [1]])).with_scored_positives()
        assert got.positives.padded(-1).tolist() == [[0], [1]]
        assert got.relevance.padded(0).tolist() == [[3.0], [1.0]]


def test_raw_lists_are_padded_and_have_a_length():
    history = ragged([["a", "b"], []], dtype=object)
    one = lists([[0], [1]], raw={"history": history, "age": np.array([7.0, 8.0])})
    got = raw_inputs(one)
    assert got["history"].tolist() == [["a", "b"], ["", ""]]
    assert got["history_length"].tolist() == [2, 0]
    assert got["history_length"].dtype == np.int32
    assert got["age"].tolist() == [7.0, 8.0]


def test_a_list_is_known_by_its_query_or_by_its_source_list():
    assert lists([[0]]).list_key.tolist() == ["q0"]
    named = lists([[0]], source_list=np.array(["l9"], object))
    assert named.list_key.tolist() == ["l9"]


def test_joined_lists_are_those_of_all_parts_in_order():
    drawn = {"drawn": 1, "drawn_weight": np.array([2.0], "float32")}
    first = lists([[2]], candidates=np.array([[2, 5]]), **drawn)
    second = lists([[0, 1]], candidates=np.array([[0, 7]]), **drawn)
    got = Lists.joined([first, second])
    assert as_lists(got.positives) == [[2], [0, 1]]
    assert got.candidates.tolist() == [[2, 5], [0, 7]]
    assert (got.drawn, got.drawn_weight.tolist()) == (1, [2.0, 2.0])
