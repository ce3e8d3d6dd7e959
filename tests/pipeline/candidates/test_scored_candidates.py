"""Training lists of teachers with partial scores."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from recdistill.errors import ScoreError, TeacherError
from recdistill.pipeline.candidates import scored_candidates
from recdistill.pipeline.candidates.scored_candidates import (
    ScoredTrainingLists,
    lists_to_evaluate,
)
from recdistill.teachers import ScoreTable
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


@pytest.mark.parametrize(
    ("key", "listwise", "said"),
    [
        ("Q0", False, "No row of the table t has the id of a query .*'Q0'.*'q0'"),
        ("l0", True, "No row of the table t has the id of a list .*'l0'.*'L0'"),
        ("q2", False, "must have scores for valid lists"),  # Known from the training.
    ],
)
def test_a_table_without_known_ids_is_named_as_the_cause(
    monkeypatch, key, listwise, said
):
    shards = {"train": lists([[0], [1], [0]]), "valid": lists([[1], [0]])}
    if listwise:
        names = np.array(["L0", "L1", "L2"], object)
        shards = {k: replace(v, source_list=names[: len(v)]) for k, v in shards.items()}
    monkeypatch.setattr(scored_candidates, "read_lists", lambda name, **_: shards[name])
    monkeypatch.setattr(
        scored_candidates, "in_order", lambda names, *_: [shards[n] for n in names]
    )
    prepared = SimpleNamespace(shards=lambda split: [split], held_out=("valid",))
    row = pa.RecordBatch.from_pydict({"key": [key], "item": ["a"], "score": [0.5]})
    tables = [ScoreTable([row], ["a", "b"], "table t")]
    with pytest.raises(TeacherError, match=said):
        list(lists_to_evaluate(prepared, "valid", tables))
