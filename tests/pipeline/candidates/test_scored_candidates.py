"""Training lists of teachers with partial scores."""

from dataclasses import replace

import pytest

from recdistill.errors import ScoreError
from recdistill.pipeline.candidates import scored_candidates
from recdistill.pipeline.candidates.scored_candidates import ScoredTrainingLists
from tests.data.list_builders import lists, ragged


def found(monkeypatch, scored, excluded):
    shard = lists([[1]] * len(scored), seen=excluded)
    shard = replace(shard, scored_candidates=ragged(scored))
    monkeypatch.setattr(scored_candidates, "read_lists", lambda *_, **__: shard)
    return ScoredTrainingLists.find(["shard"], [], [])


def test_items_that_the_query_has_seen_are_no_candidates(monkeypatch):
    got = found(monkeypatch, [[0, 1], [0, 1, 2], [3, 3]], [[0], [0], []])
    assert {name: rows.tolist() for name, rows in got.rows.items()} == {"shard": [1]}
    assert got.width == 2
    with pytest.raises(ScoreError, match="at least two candidates"):
        found(monkeypatch, [[0, 1]], [[0]])


def test_scored_unlabelled_lists_do_not_replace_training_lists(monkeypatch):
    shards = {
        "train": replace(lists([[1]]), scored_candidates=ragged([[0]])),
        "unlabelled": replace(lists([[1]]), scored_candidates=ragged([[0, 1]])),
    }
    monkeypatch.setattr(scored_candidates, "read_lists", lambda name, **_: shards[name])
    with pytest.raises(ScoreError, match="at least two candidates"):
        ScoredTrainingLists.find(["train"], ["unlabelled"], [])
    shards["train"] = shards["unlabelled"]
    got = ScoredTrainingLists.find(["train"], ["unlabelled"], [])
    assert {name: len(rows) for name, rows in got.rows.items()} == dict.fromkeys(
        shards, 1
    )
