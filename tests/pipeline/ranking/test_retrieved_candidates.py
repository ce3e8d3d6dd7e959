"""retrieved_candidates: what an evaluation needs, and lists that check a teacher."""

from types import SimpleNamespace

import pytest

from recdistill.errors import ConfigError
from recdistill.pipeline.ranking import retrieved_candidates
from recdistill.pipeline.ranking.retrieved_candidates import (
    check_evaluation,
    lists_for_teacher,
)
from tests import small_pipelines

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
