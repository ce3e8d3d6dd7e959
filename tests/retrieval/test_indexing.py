"""indexing: recall that is measured before it is promised."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.retrieval import indexing
from recdistill.retrieval.clustering import (
    build_lists,
    capacity_of,
    recall_by_probes,
)
from recdistill.retrieval.indexing import IndexSettings, build_index


def clustered(items, dim=8, seed=0):
    """Items around as many centres as a root of their number, and queries there."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(round(items**0.5), dim)) * 2
    place = rng.integers(0, len(centres), items)
    values = centres[place] + rng.normal(size=(items, dim)) * 0.4
    queries = centres[:40] + rng.normal(size=(len(centres[:40]), dim)) * 0.4
    return values.astype("float32"), queries.astype("float32")


@pytest.fixture(scope="module")
def data():
    return clustered(3_000)


@pytest.fixture(scope="module")
def lists(data):
    return build_lists(data[0], seed=1)


class TestNeighbourhoods:
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

    def test_items_that_are_all_the_same_are_shared_out(self):
        lists = build_lists(np.ones((100, 3), "float32"), seed=0)
        assert (lists.members >= 0).sum() == 100
        assert (lists.members >= 0).sum(axis=1).max() <= 16

    def test_one_item_is_one_list(self):
        lists = build_lists(np.ones((1, 3), "float32"), seed=0)
        assert lists.members[0, 0] == 0
        assert (lists.members >= 0).sum() == 1


def test_recall_by_probes_is_what_searching_those_lists_finds(data, lists):
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


class TestBuildIndex:
    def test_ivf_reads_as_few_lists_as_reach_the_target(self, data):
        items, queries = data
        built = build_index(items, queries, 20, IndexSettings("ivf"))
        facts = built.facts
        lists = build_lists(items, seed=1)
        best = np.argsort(-(queries @ items.T), axis=1)[:, :20]
        curve = recall_by_probes(lists, queries[::2], best[::2], len(items))
        enough = curve.mean(axis=0) >= 0.98
        assert facts["probes"] == np.flatnonzero(enough)[0] + 1
        share = facts["probes"] / facts["lists"]
        assert facts["share_read"] == pytest.approx(share, abs=1e-6)
        assert [facts["lists"], 1.0] in facts["recall_curve"]
        assert facts["probes"] in [p for p, _ in facts["recall_curve"]]

    def test_the_graph_finds_what_was_measured(self, data):
        items, queries = data
        built = build_index(items, queries, 20, IndexSettings("ivf"))
        rows, _ = built.index.top_k(tf.constant(queries), 20)
        best = np.argsort(-(queries @ items.T), axis=1)[:, :20]
        found = [np.isin(*pair).mean() for pair in zip(best, rows.numpy(), strict=True)]
        assert np.mean(found) == pytest.approx(built.expected_recall, abs=1e-6)
        assert built.expected_recall < 1

    def test_the_recall_is_of_queries_that_did_not_choose_it(self, data):
        items, queries = data
        queries = queries.copy()
        queries[1::2] *= -1  # Away from every centre: harder than those that choose.
        facts = build_index(items, queries, 20, IndexSettings("ivf")).facts
        assert facts["recall"] < 0.98

    def test_all_lists_are_read_where_half_are_not_enough(self):
        rng = np.random.default_rng(0)
        items = rng.normal(size=(200, 32)).astype("float32")
        queries = rng.normal(size=(8, 32)).astype("float32")
        built = build_index(items, queries, 50, IndexSettings("ivf"))
        assert built.facts["share_read"] == built.expected_recall == 1.0

    def test_auto_is_exact_for_few_items_and_where_ivf_would_not_pay(
        self, data, monkeypatch
    ):
        items, queries = data
        auto = IndexSettings("auto")
        assert build_index(items, queries, 20, auto).kind == "exact"
        monkeypatch.setattr(indexing, "IVF_FROM", 1_000)
        assert build_index(items, queries, 20, auto).kind == "ivf"
        noise = np.random.default_rng(1).normal(size=(2, 1_200, 32)).astype("float32")
        assert build_index(noise[0], noise[1][:9], 100, auto).kind == "exact"

    def test_storage_says_what_it_costs(self, data):
        items, queries = data
        settings = IndexSettings(storage="bfloat16")
        facts = build_index(items, queries, 20, settings).facts
        rounded = tf.cast(tf.cast(items, tf.bfloat16), tf.float32).numpy()
        true, got = (
            np.argsort(-(queries @ table.T), axis=1)[:, :20]
            for table in (items, rounded)
        )
        want = np.mean([np.isin(*pair).mean() for pair in zip(true, got, strict=True)])
        assert facts["storage_recall"] == pytest.approx(want)
        assert 0.8 < want < 1

    @pytest.mark.parametrize("target", [0.0, 1.1])
    def test_a_recall_that_cannot_be_is_refused(self, target):
        with pytest.raises(ValueError, match=f"above 0 .*target_recall={target}"):
            IndexSettings("ivf", target_recall=target)
