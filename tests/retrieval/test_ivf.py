"""ivf: a search reads the nearest lists, and more lists if these are not enough."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.retrieval.clustering import InvertedLists, build_lists
from recdistill.retrieval.exact import LOWEST
from recdistill.retrieval.ivf import IVFIndex


class TestIVF:
    """Items 0 and 1 to the right, 2 and 3 above; a query sees the nearer pair."""

    items = np.array([[2, 0], [3, 0], [0, 2], [0, 3]], "float32")
    lists = InvertedLists(
        np.array([[2.5, 0], [0, 2.5]]), np.array([[0, 1, -1], [2, 3, -1]])
    )

    def three_lists(self):
        items = np.concatenate([self.items, [[-1, -1], [-2, -2]]]).astype("float32")
        centroids = np.concatenate([self.lists.centroids, [[-1.5, -1.5]]])
        members = np.array([[0, 1, -1], [2, 3, -1], [4, 5, -1]])
        return IVFIndex(items, InvertedLists(centroids, members), probes=1, probes_k=2)

    def test_only_the_nearest_lists_are_read(self):
        # Item 3 would score 1.2, but its list is second.
        rows, scores = self.three_lists().top_k(tf.constant([[0.5, 0.4]]), 2)
        assert rows.numpy().tolist() == [[1, 0]]
        assert scores.numpy()[0] == pytest.approx([1.5, 1.0])

    def test_a_larger_k_reads_more_lists(self):
        # Three of 2 items a list: ⌈3 · 1 / 2⌉ = 2 lists, more than half: everything.
        rows, _ = self.three_lists().top_k(tf.constant([[0.5, 0.4]]), 3)
        assert rows.numpy().tolist() == [[1, 3, 0]]

    def test_exclusions_leave_no_place_empty(self):
        exclude = tf.constant([[1, 0]])
        rows, _ = self.three_lists().top_k(tf.constant([[0.5, 0.4]]), 2, exclude)
        assert rows.numpy().tolist() == [[3, 2]]

    def test_a_query_reads_its_own_lists_whatever_the_others_need(self):
        queries = tf.constant([[0.5, 0.4], [0.4, 0.5]])
        exclude = tf.constant([[-1, -1], [3, 2]])
        rows, scores = self.three_lists().top_k(queries, tf.constant([1, 3]), exclude)
        # The second query searches everything; item 3 is still unseen by the first.
        assert rows.numpy().tolist() == [[1, -1, -1], [1, 0, 4]]
        assert scores.numpy()[0].tolist() == pytest.approx([1.5, LOWEST, LOWEST])

    def test_a_batch_without_queries_has_an_empty_answer(self):
        items = np.random.default_rng(1).normal(size=(200, 3)).astype("float32")
        lists = build_lists(items, seed=1)
        index = IVFIndex(items, lists, probes=3, probes_k=5)
        assert 2 * 3 <= len(lists.centroids)
        rows, scores = index.top_k(tf.zeros([0, 3]), 4)
        assert rows.shape == scores.shape == (0, 4)

    def test_equal_scores_come_in_the_order_of_their_rows(self):
        items = np.ones((60, 3), "float32")
        shuffled = np.random.default_rng(0).permutation(60).reshape(6, 10)
        lists = InvertedLists(np.ones((6, 3)), shuffled)
        index = IVFIndex(items, lists, probes=3, probes_k=30)
        rows, _ = index.top_k(tf.ones([1, 3]), 30)
        np.testing.assert_array_equal(rows[0], np.sort(shuffled[:3].ravel()))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"probes": 0}, r"`probes` must be from 1 to .*, 2\. Received: probes=0"),
            ({"probes": 3}, "Received: probes=3"),
            ({"probes_k": 0}, "`probes_k` must be positive. Received: 0"),
            ({"embeddings": np.ones((5, 2))}, "4 members for 5 rows"),
        ],
    )
    def test_invalid_arguments_are_refused(self, changes, message):
        plain = {"embeddings": self.items, "lists": self.lists}
        with pytest.raises(ValueError, match=message):
            IVFIndex(**{**plain, "probes": 1, "probes_k": 1, **changes})
