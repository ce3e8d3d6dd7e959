"""retrieved_candidates: what an evaluation needs, and lists that check a teacher."""

from types import SimpleNamespace

import numpy as np
import pytest

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.errors import ConfigError
from recdistill.pipeline.models.scorers import PopularityScorer
from recdistill.pipeline.ranking import retrieved_candidates
from recdistill.pipeline.ranking.candidate_ranker import CandidateRanker
from recdistill.pipeline.ranking.retrieved_candidates import (
    Retrieval,
    check_evaluation,
    lists_for_teacher,
)
from tests import small_pipelines


def ragged(*rows, dtype="int32"):
    offsets = np.cumsum([0, *map(len, rows)])
    return Ragged(np.array([x for row in rows for x in row], dtype), offsets)


EXTERNAL = {"kind": "keras", "path": "teacher.keras"}


@pytest.fixture(autouse=True)
def feasible(monkeypatch):
    monkeypatch.setattr(retrieved_candidates, "LARGEST_RANKING", 1_000)
    monkeypatch.setattr(retrieved_candidates, "FEWEST_RANKED", 20)


@pytest.mark.parametrize(
    ("items", "lists", "found"),
    [
        (10, 80, 80),
        (20, 80, 50),  # 1,000 pairs of a list and an item
        (50, 80, 20),
        (51, 80, None),
        (51, 19, 19),  # all lists that there are
        (100, 19, None),
    ],
)
def test_a_teacher_ranks_a_large_catalogue_for_fewer_lists(items, lists, found):
    config = small_pipelines.config(
        lists={"size": "retrieved"}, evaluate={"valid_lists": 80}
    )
    prepared = SimpleNamespace(catalogue_size=items, has_shown_candidates=False)
    assert lists_for_teacher(config, prepared, lists) == found


def test_no_more_lists_are_ranked_than_are_validated():
    config = small_pipelines.config(
        lists={"size": "retrieved"}, evaluate={"valid_lists": 80}
    )
    prepared = SimpleNamespace(catalogue_size=10, has_shown_candidates=False)
    assert lists_for_teacher(config, prepared, 500) == 80


def test_an_external_teacher_has_sampled_candidates():
    config = small_pipelines.config(lists={"size": "retrieved"}, teacher=EXTERNAL)
    prepared = SimpleNamespace(catalogue_size=10, has_shown_candidates=False)
    assert lists_for_teacher(config, prepared, 80) is None


def test_lists_of_shown_candidates_are_all_ranked():
    config = small_pipelines.config(lists={"size": "retrieved"})
    prepared = SimpleNamespace(catalogue_size=10_000, has_shown_candidates=True)
    assert lists_for_teacher(config, prepared, 80) == 80


def test_listed_candidates_cannot_be_sampled():
    class Shown:
        has_shown_candidates = False

    config = small_pipelines.config(evaluate={"sampled_candidates": 5})
    check_evaluation(config, Shown)
    Shown.has_shown_candidates = True

    with pytest.raises(ConfigError, match="sampled_candidates` must be left out"):
        check_evaluation(config, Shown)


def test_err_needs_grades_of_at_most_4():
    class Rated:
        has_shown_candidates = False
        largest_relevance = 5.0

    config = small_pipelines.config(evaluate={"metrics": ["err@10"]})
    with pytest.raises(ConfigError, match=r"err@10 only if .* a relevance of 5"):
        check_evaluation(config, Rated)
    check_evaluation(small_pipelines.config(), Rated)


@pytest.mark.parametrize(
    ("size", "metrics", "retrieved", "least"),
    [
        ("retrieved", ["ndcg@10"], 5, 10),
        ("retrieved", ["ndcg@10", "recall@500"], 200, 500),
        ("retrieved", ["ndcg@10", "recall@500"], 500, None),
        ("catalogue", ["ndcg@10", "recall@500"], 200, None),
    ],
)
def test_as_many_items_are_retrieved_as_a_metric_reads(size, metrics, retrieved, least):
    class Ranked:
        has_shown_candidates = False

    config = small_pipelines.config(
        lists={"size": size}, evaluate={"metrics": metrics, "retrieved": retrieved}
    )
    if least is None:
        check_evaluation(config, Ranked)
    else:
        with pytest.raises(ConfigError, match=f"must be at least {least}"):
            check_evaluation(config, Ranked)


def test_the_gate_needs_a_cut_off_if_the_teacher_ranks_retrieved_candidates():
    class Ranked:
        has_shown_candidates = False

    def config(size, *metrics):
        return small_pipelines.config(
            lists={"size": size}, evaluate={"metrics": metrics}
        )

    with pytest.raises(ConfigError, match=r"cut-off.*'mrr'\. Write \"mrr@10\""):
        check_evaluation(config("retrieved", "mrr", "ndcg@10"), Ranked)
    check_evaluation(config("retrieved", "ndcg@10", "mrr"), Ranked)
    check_evaluation(config("catalogue", "mrr"), Ranked)


def test_a_positive_outside_the_catalogue_counts_in_the_recall_as_in_the_metric():
    lists = Lists(
        list_id=np.arange(2),
        query_id=np.array(["ann", "bob"], object),
        query={},
        positives=ragged([0, -1], [-1]),
        relevance=ragged([1.0, 1.0], [1.0], dtype="float32"),
        seen=ragged([], []),
        weight=np.ones(2, "float32"),
        query_row=np.arange(2),
    )
    ranker = CandidateRanker(PopularityScorer(np.array([3.0, 2.0, 1.0])), 3)
    retrieval = Retrieval({"popularity": ranker}, 2)
    rankings = retrieval.rank(lists)
    found = retrieval.recall(lists, rankings)["recall@2"]
    assert found.tolist() == [0.5, 0.0]
    assert found.tolist() == rankings["popularity"].ranks.recall(2).tolist()
