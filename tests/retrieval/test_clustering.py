"""clustering: inverted lists by k-means, and the recall of a search in them."""

import numpy as np
import pytest

from recdistill.retrieval.clustering import build_lists, capacity_of, recall_by_probes
from tests.retrieval.clustered import clustered


@pytest.fixture(scope="module")
def data():
    return clustered(3_000)


@pytest.fixture(scope="module")
def lists(data):
    return build_lists(data[0], seed=1)


class TestBuildLists:
    def test_every_item_is_in_one_list_and_lists_fit(self, data, lists):
        members = lists.members[lists.members >= 0]
        np.testing.assert_array_equal(np.sort(members), np.arange(3_000))
        assert lists.members.shape[1] == capacity_of(3_000) == 16
        assert (lists.members >= 0).any(axis=1).all()

    def test_centroids_are_means_of_their_lists(self, data, lists):
        for centroid, members in zip(lists.centroids[:9], lists.members, strict=False):
            mean = data[0][members[members >= 0]].mean(axis=0)
            np.testing.assert_allclose(centroid, mean, atol=1e-6)

    def test_the_same_seed_gives_the_same_lists(self, data, lists):
        again = build_lists(data[0], seed=1)
        np.testing.assert_array_equal(again.members, lists.members)

    def test_equal_items_are_distributed_over_the_lists(self):
        lists = build_lists(np.ones((100, 3), "float32"), seed=0)
        assert (lists.members >= 0).sum() == 100
        assert (lists.members >= 0).sum(axis=1).max() <= 16

    def test_one_item_is_one_list(self):
        lists = build_lists(np.ones((1, 3), "float32"), seed=0)
        assert lists.members[0, 0] == 0
        assert (lists.members >= 0).sum() == 1


def test_recall_by_probes_equals_the_recall_of_a_search(data, lists):
    items, queries = data
    best = np.argsort(-(queries @ items.T), axis=1)[:, :20]
    found = recall_by_probes(lists, queries, best, len(items))
    for row, query in enumerate(queries[:5]):
        nearest = np.argsort(-(lists.centroids @ query), kind="stable")
        for probes in (1, 4, 40):
            seen = lists.members[nearest[:probes]]
            want = np.isin(best[row], seen).mean()
            assert found[row, probes - 1] == pytest.approx(want)
    np.testing.assert_allclose(found[:, -1], 1.0)
