"""Validation: metrics of full rankings of a seeded sample of lists."""

from dataclasses import replace

import numpy as np
import pytest

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.pipeline.candidates import scored_candidates
from recdistill.pipeline.ranking import validation
from recdistill.pipeline.ranking.validation import Validation
from tests import small_pipelines
from tests.pipeline.logs import random_log, rows_of, run

METRICS = ("ndcg@10", "mrr")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    log = random_log(2, rows=300, users=20, items=60, moments=9_000)
    folder = tmp_path_factory.mktemp("prepared") / "p"
    return run(small_pipelines.dataset(log), folder, lists={"seen": "exclude"})[0]


def measured(lists, scores, metrics):
    """Metrics of lists whose scores are known."""
    rows = Validation([lists], scores.shape[1], metrics).rows(lambda x: scores)
    return {name: rows[name].to_numpy() for name in metrics}


def lists_of(positives, seen):
    """One list for each positive."""

    def ragged(rows):
        offsets = np.cumsum([0, *map(len, rows)])
        return Ragged(np.concatenate(rows).astype("int32"), offsets)

    count = len(positives)
    return Lists(
        list_id=np.arange(count),
        query_id=np.array([f"u{k}" for k in range(count)], object),
        query={},
        positives=ragged([[p] for p in positives]),
        relevance=Ragged(np.ones(count, "float32"), np.arange(count + 1)),
        seen=ragged(seen),
        weight=np.ones(count, "float32"),
        query_row=np.arange(count),
    )


def test_seen_items_are_masked_and_an_unreachable_positive_counts_as_0():
    lists = lists_of([2, 2, 1, -1, 0], seen=[[], [0], [0], [2], [0, 1]])
    scores = np.tile(np.array([3.0, 2.0, 1.0], "float32"), (5, 1))
    values = measured(lists, scores, ["mrr", "hit@1", "ndcg@10"])
    # Rank 3; rank 2, as the first is seen; rank 1; nowhere; a repeat is no candidate.
    np.testing.assert_allclose(values["mrr"], [1 / 3, 1 / 2, 1, 0, 0])
    np.testing.assert_allclose(values["hit@1"], [0, 0, 1, 0, 0])
    np.testing.assert_allclose(
        values["ndcg@10"], [1 / np.log2(4), 1 / np.log2(3), 1, 0, 0]
    )


def test_a_repeat_competes_with_all_other_seen_items_where_they_are_candidates():
    lists = replace(lists_of([0, 2], seen=[[0, 1], [1, 2]]), seen_excluded=False)
    scores = np.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]], "float32")
    values = measured(lists, scores, ["mrr"])
    np.testing.assert_allclose(values["mrr"], [1 / 3, 1 / 2])


def test_validation_ranks_a_seeded_sample_in_full(prepared, monkeypatch):
    monkeypatch.setattr(scored_candidates, "LISTS_AT_ONCE", 4)
    whole = Validation.sample(prepared, METRICS, 10_000, seed=1)
    assert max(map(len, whole.lists)) == 4
    everything = rows_of(prepared, "valid")
    rows = whole.rows(first_items_first).to_pylist()
    assert {row["list_id"] for row in rows} == everything.keys()
    for row in rows:
        stored = everything[row["list_id"]]
        (positive,) = stored["candidates"]
        better = set(range(positive)) - set(stored["seen"])
        assert row["mrr"] == pytest.approx(1 / (1 + len(better)))
        assert row["query_id"] == stored["query_id"]
    mean = np.mean([row["ndcg@10"] for row in rows])
    assert whole(first_items_first) == pytest.approx(mean)
    samples = [
        [row["list_id"] for row in part.rows(first_items_first).to_pylist()]
        for part in (
            Validation.sample(prepared, METRICS, 9, seed) for seed in (1, 1, 2)
        )
    ]
    assert samples[0] == samples[1] != samples[2]
    assert len(samples[0]) == 9


def first_items_first(x):
    size = x["mask"].shape[1]
    return np.tile(-np.arange(size, dtype="float32"), (len(x["mask"]), 1))


def test_a_teacher_that_cannot_rank_the_catalogue_is_validated_on_sampled_lists():
    lists = lists_of([2, 9, -1], seen=[[0], [], []])
    whole = Validation([lists], 10, ["mrr"])
    popularity = np.array([9, 8, 7, 0, 0, 0, 0, 0, 0, 0])
    (found,) = whole.with_sampled_candidates(popularity, 3, seed=1).lists
    rows = [found.scored_candidates.take([k]).values for k in range(3)]
    common = set(rows[2].tolist())  # The positive of this list is unknown.
    assert {0, 1, 2} <= common and 3 <= len(common) <= 6
    assert [set(row.tolist()) for row in rows] == [common, common | {9}, common]


def test_fewer_lists_of_a_large_catalogue_are_ranked_during_training(monkeypatch):
    pieces = [lists_of([k % 9] * 4, seen=[[]] * 4) for k in range(3)]
    pieces = [replace(p, list_id=p.list_id + 4 * k) for k, p in enumerate(pieces)]
    whole = Validation(pieces, 10, ["mrr"])
    monkeypatch.setattr(validation, "FEWEST_LISTS", 1)

    def chosen(scores, lists=whole):
        monkeypatch.setattr(validation, "SCORES_OF_A_VALIDATION", scores)
        found = lists.during_training()
        assert len(found) == sum(map(len, found.lists))
        return [k for each in found.lists for k in each.list_id]

    assert chosen(120) == list(range(12))
    # Five lists of ten items, spread over all: 12 / 5 = 2.4 apart.
    assert chosen(50) == [0, 2, 4, 7, 9]
    assert chosen(10) == chosen(1) == [0]
    # Lists with candidates of their own cost these only.
    sampled = whole.with_sampled_candidates(np.arange(10), 2, seed=0)
    assert len(chosen(50, sampled)) > 5
    monkeypatch.setattr(validation, "FEWEST_LISTS", 3)
    assert chosen(1) == [0, 4, 8]
    assert whole.spread(12) is whole
