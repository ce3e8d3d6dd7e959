"""indexing: the kind of index and its measured recall."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.retrieval import indexing
from recdistill.retrieval.clustering import (
    build_lists,
    recall_by_probes,
)
from recdistill.retrieval.indexing import IndexSettings, build_index
from tests.retrieval.clustered import clustered


@pytest.fixture(scope="module")
def data():
    return clustered(3_000)


class TestBuildIndex:
    def test_ivf_reads_the_fewest_lists_that_reach_the_target(self, data):
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

    @pytest.mark.parametrize("kind", ["exact", "ivf"])
    def test_more_items_than_there_are_can_be_asked_for(self, data, kind):
        items, queries = data[0][:5], data[1]
        built = build_index(items, queries, 10, IndexSettings(kind, "bfloat16"))
        assert built.facts["k"] == 5

    def test_the_graph_has_the_expected_recall(self, data):
        items, queries = data
        built = build_index(items, queries, 20, IndexSettings("ivf"))
        rows, _ = built.index.top_k(tf.constant(queries), 20)
        best = np.argsort(-(queries @ items.T), axis=1)[:, :20]
        found = [np.isin(*pair).mean() for pair in zip(best, rows.numpy(), strict=True)]
        assert np.mean(found) == pytest.approx(built.expected_recall, abs=1e-6)
        assert built.expected_recall < 1

    def test_recall_is_measured_on_queries_that_did_not_choose_the_probes(self, data):
        items, queries = data
        queries = queries.copy()
        queries[1::2] *= -1  # Away from every centre: harder than those that choose.
        facts = build_index(items, queries, 20, IndexSettings("ivf")).facts
        assert facts["recall"] < 0.98

    def test_all_lists_are_read_if_half_are_not_enough(self):
        rng = np.random.default_rng(0)
        items = rng.normal(size=(200, 32)).astype("float32")
        queries = rng.normal(size=(8, 32)).astype("float32")
        built = build_index(items, queries, 50, IndexSettings("ivf"))
        assert built.facts["share_read"] == built.expected_recall == 1.0

    def test_auto_is_exact_for_few_items_and_if_ivf_reads_too_much(
        self, data, monkeypatch
    ):
        items, queries = data
        auto = IndexSettings("auto")
        assert build_index(items, queries, 20, auto).kind == "exact"
        monkeypatch.setattr(indexing, "IVF_FROM", 1_000)
        assert build_index(items, queries, 20, auto).kind == "ivf"
        noise = np.random.default_rng(1).normal(size=(2, 1_200, 32)).astype("float32")
        assert build_index(noise[0], noise[1][:9], 100, auto).kind == "exact"

    def test_the_recall_of_bfloat16_storage_is_measured(self, data):
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
    def test_an_impossible_target_recall_is_refused(self, target):
        with pytest.raises(ValueError, match=f"above 0 .*target_recall={target}"):
            IndexSettings("ivf", target_recall=target)
