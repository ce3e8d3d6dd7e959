"""Collation: the tensor contract of a batch, for each source of candidates."""

from dataclasses import replace

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recdistill.data.batches import catalogue_mask, catalogue_relevance
from recdistill.data.collation import Collator, score_catalogue
from tests.data.list_builders import ITEMS, lists, ragged, rng


def test_the_catalogue_is_shared_by_the_lists_of_a_batch():
    one = lists([[2], [0, 5]], seen=[[1], [3]])
    x, y, weight = Collator(ITEMS)(one, rng())
    assert set(x) == {"candidate_index", "mask", "query"}
    assert x["candidate_index"].dtype == np.int32
    assert x["candidate_index"].tolist() == list(range(ITEMS))
    np.testing.assert_array_equal(x["mask"], catalogue_mask(one, ITEMS))
    np.testing.assert_array_equal(y["labels"], catalogue_relevance(one, ITEMS))
    assert set(y) == {"labels"}
    assert weight.tolist() == [1.0, 2.0]
    assert x["query"]["number"].tolist() == [0.0, 1.0]


class TestSampled:
    def collate(self, one, tail, seed=0):
        x, y, _ = Collator(ITEMS, tail=tail)(one, rng(seed))
        assert x["candidate_index"].dtype == np.int32 and x["mask"].dtype == bool
        assert y["labels"].dtype == np.float32
        assert x["candidate_index"].shape == x["mask"].shape == y["labels"].shape
        return x["candidate_index"], x["mask"], y["labels"]

    def test_positives_come_first_with_their_relevance(self):
        one = lists([[2, 6], [5]], relevance=[[3.0, 0.5], [2.0]])
        index, mask, relevance = self.collate(one, tail=3)
        assert index.shape == (2, 2 + 3)
        assert index[0, :2].tolist() == [2, 6] and index[1, 0] == 5
        assert mask[:, :2].tolist() == [[True, True], [True, False]]
        assert relevance[:, :2].tolist() == [[3.0, 0.5], [2.0, 0.0]]
        assert not relevance[:, 2:].any()

    def test_all_lists_have_the_same_tail_without_duplicates(self):
        index, _, _ = self.collate(lists([[0], [1], [2]]), tail=6)
        assert (index[:, 1:] == index[:1, 1:]).all()
        assert len(set(index[0, 1:].tolist())) == 6

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(
            st.tuples(
                st.lists(st.integers(-1, ITEMS - 1), max_size=3, unique=True),
                st.lists(st.integers(0, ITEMS - 1), max_size=4),
            ),
            min_size=1,
            max_size=4,
        ),
        st.integers(1, ITEMS + 3),
        st.integers(0, 9),
    )
    def test_candidates_are_unique_and_seen_items_are_not_negatives(
        self, rows, tail, seed
    ):
        one = lists([p for p, _ in rows], [s for _, s in rows])
        index, mask, relevance = self.collate(one, tail, seed)
        assert index.min() >= 0 and index.max() < ITEMS
        drawn = index[0, -min(tail, ITEMS) :].tolist()
        for k, (positives, seen) in enumerate(rows):
            reachable = [p for p in positives if p >= 0]
            free = [d for d in drawn if d not in reachable and d not in seen]
            real = index[k][mask[k]].tolist()
            assert sorted(real) == sorted(reachable + free)
            labels = dict(zip(real, relevance[k][mask[k]].tolist(), strict=True))
            assert labels == {i: 1.0 * (i in reachable) for i in real}
            assert not relevance[k][~mask[k]].any()

    def test_a_tail_larger_than_the_catalogue_is_the_catalogue(self):
        index, mask, _ = self.collate(lists([[3]]), tail=100)
        assert sorted(index[0][mask[0]].tolist()) == list(range(ITEMS))

    def test_a_positive_is_not_its_own_negative(self):
        index, mask, _ = self.collate(lists([[0], [1, 2]]), tail=100)
        assert index[0][mask[0]].tolist().count(0) == 1
        assert mask.sum(axis=1).tolist() == [ITEMS, ITEMS]

    def test_a_tail_of_0_leaves_only_the_positives(self):
        index, mask, _ = self.collate(lists([[3]]), tail=0)
        assert index.tolist() == [[3]] and mask.tolist() == [[True]]

    def test_items_are_sampled_uniformly(self):
        one, count = lists([[-1]]), np.zeros(ITEMS)
        for seed in range(400):
            index, mask, _ = self.collate(one, tail=2, seed=seed)
            count += np.bincount(index[mask], minlength=ITEMS)
        # 400 draws of 2 of 8 items: 100 each, with a deviation of 8.7.
        np.testing.assert_allclose(count, 100, atol=4 * 8.7)


class TestShared:
    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(
            st.tuples(
                st.lists(st.integers(-1, ITEMS - 1), max_size=3, unique=True),
                st.lists(st.integers(0, ITEMS - 1), max_size=4),
            ),
            min_size=1,
            max_size=4,
        ),
        st.integers(0, ITEMS + 3),
        st.integers(0, 9),
    )
    def test_shared_candidates_give_the_same_lists_as_separate_ones(
        self, rows, tail, seed
    ):
        one = lists([p for p, _ in rows], [s for _, s in rows])
        apart, want, _ = Collator(ITEMS, tail)(one, rng(seed))
        x, got, _ = Collator(ITEMS, tail, shared=True)(one, rng(seed))
        index = x["candidate_index"]
        assert index.dtype == np.int32 and got["labels"].dtype == np.float32
        assert x["mask"].shape == got["labels"].shape == (len(rows), len(index))

        def candidates(index, mask, labels):
            return sorted(zip(index[mask].tolist(), labels[mask].tolist(), strict=True))

        for k in range(len(rows)):
            own = apart["candidate_index"][k], apart["mask"][k], want["labels"][k]
            together = index, x["mask"][k], got["labels"][k]
            assert candidates(*together) == candidates(*own)


class TestStored:
    stored = np.array([[2, 4, -1], [5, 0, 1]])

    def lists(self, positives=((2,), (1, -1)), **more):
        scores = np.array([[0.5, -1.0, 9.0], [1.0, 2.0, 3.0]], "float16")
        return lists(
            positives,
            relevance=[[3.0] * len(p) for p in positives],
            candidates=self.stored,
            teacher_scores=scores,
            **more,
        )

    def test_candidates_keep_their_places_beside_their_scores(self):
        x, y, _ = Collator(ITEMS, with_teacher=True)(self.lists(), rng())
        assert x["candidate_index"].tolist() == [[2, 4, 0], [5, 0, 1]]
        assert x["candidate_index"].dtype == np.int32
        assert x["mask"].tolist() == [[True, True, False], [True] * 3]
        assert x["teacher_scores"].dtype == np.float32
        assert x["teacher_scores"].tolist() == [[0.5, -1.0, 9.0], [1.0, 2.0, 3.0]]
        assert y["labels"].tolist() == [[3.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
        assert y["labels"].dtype == np.float32

    def test_item_0_and_padding_are_distinguished(self):
        x, y, _ = Collator(ITEMS, with_teacher=True)(self.lists(((0,), (0,))), rng())
        assert y["labels"].tolist() == [[0.0, 0.0, 0.0], [0.0, 3.0, 0.0]]
        assert x["mask"][1].all()

    def test_stored_candidates_are_ignored_without_a_teacher(self):
        x, _, _ = Collator(ITEMS)(self.lists(), rng())
        assert "teacher_scores" not in x
        assert x["candidate_index"].tolist() == list(range(ITEMS))

    def test_scores_of_the_whole_catalogue_need_no_candidates(self):
        scores = np.arange(2.0 * ITEMS).reshape(2, ITEMS).astype("float16")
        one = lists([[2], [5]], teacher_scores=scores)
        x, _, _ = Collator(ITEMS, with_teacher=True)(one, rng())
        np.testing.assert_array_equal(x["teacher_scores"], scores)
        assert x["candidate_index"].shape == (ITEMS,)


def test_training_rows_of_the_queries_are_in_the_batch():
    one = lists([[1], [2], [3]])
    one.query_row[:] = [2, -1, 0]
    training_rows = ragged([[4, 5, 6], [7], [8]])
    x, _, _ = Collator(ITEMS, training_rows=training_rows)(one, rng())
    # A query that the training part lacks, row -1, has nothing to leave out.
    assert x["training_row"].tolist() == [[8, 0, 0], [0, 0, 0], [4, 5, 6]]
    assert x["training_row"].dtype == np.int32


def test_the_whole_catalogue_is_scored_for_every_query():
    def score(batch):
        assert batch["mask"].shape == (3, ITEMS)
        index = tf.cast(batch["candidate_index"], tf.float32)
        return 10.0 * batch["query"]["number"][:, None] + index[None]

    got = score_catalogue(score, lists([[1], [2], [3]]), ITEMS)
    want = [[10.0 * query + item for item in range(ITEMS)] for query in range(3)]
    np.testing.assert_array_equal(got, want)
    assert isinstance(got, np.ndarray) and got.dtype == np.float32


class TestShown:
    """Item 2 was chosen, 5 and 1 were shown; the second list chose 0 and showed 7."""

    ONE = lists([[2], [0]], not_chosen=ragged([[5, 1], [7]]))

    def test_shown_items_are_candidates_with_relevance_0(self):
        x, y, _ = Collator(ITEMS, tail=1)(self.ONE, rng())
        index, mask = x["candidate_index"], x["mask"]
        drawn = int(index[0, -1])
        for k, own in enumerate(([2, 5, 1], [0, 7])):
            assert set(index[k][mask[k]].tolist()) == {*own, drawn}
            assert index[k][y["labels"][k] > 0].tolist() == own[:1]

    def test_lists_that_share_candidates_have_their_own_masks(self):
        x, y, _ = Collator(ITEMS, tail=1, shared=True)(self.ONE, rng())
        index = x["candidate_index"]
        assert index.ndim == 1
        drawn = int(index[-1])
        for k, own in enumerate(({2, 5, 1}, {0, 7})):
            assert set(index[x["mask"][k]].tolist()) == own | {drawn}
            assert index[y["labels"][k] > 0].tolist() == [(2, 0)[k]]

    def test_teacher_scores_are_about_all_candidates_relevance_about_few(self):
        scores = np.arange(2.0 * ITEMS).reshape(2, ITEMS)
        scored = replace(self.ONE, teacher_scores=scores)
        x, y, _ = Collator(ITEMS, tail=1, with_teacher=True)(scored, rng())
        assert x["mask"].all() and x["teacher_scores"].shape == (2, ITEMS)
        labelled = [set(np.flatnonzero(row).tolist()) for row in y["mask"]]
        [drawn] = labelled[0] & labelled[1] or [None]
        assert labelled[0] - {drawn} == {2, 5, 1} - {drawn}
        assert labelled[1] - {drawn} == {0, 7} - {drawn}
        np.testing.assert_array_equal(y["labels"].argmax(axis=1), [2, 0])

    def test_stored_candidates_are_about_shown_ones_too(self):
        stored = np.array([[2, 5, 1, 6], [0, 7, 3, -1]])
        scored = replace(self.ONE, candidates=stored, teacher_scores=np.ones((2, 4)))
        x, y, _ = Collator(ITEMS, tail=0, with_teacher=True)(scored, rng())
        assert x["mask"].tolist() == [[True] * 4, [True, True, True, False]]
        assert y["mask"].tolist() == [
            [True, True, True, False],
            [True, True, False, False],
        ]
