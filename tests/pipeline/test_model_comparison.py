"""Comparison of the models: full rankings of the test lists."""

import numpy as np
import pytest

from recdistill.pipeline import model_comparison, scored_candidates
from recdistill.pipeline.model_comparison import rank_test_lists
from recdistill.pipeline.scorers import popularity_scorer
from tests import small_pipelines
from tests.pipeline.logs import random_log, rows_of, run


@pytest.mark.parametrize(
    ("counts", "head"),
    [
        ([5, 3, 1, 1], [True, False, False, False]),  # 5 of 10 are half
        ([4, 3, 2, 1], [True, True, False, False]),
        ([1, 1, 1, 1], [True, True, False, False]),  # ties by position
        ([0, 0, 2, 0], [False, False, True, False]),
    ],
)
def test_the_head_is_the_items_that_make_up_half_of_the_interactions(counts, head):
    assert model_comparison._head_items(np.array(counts, "float32")).tolist() == head


def test_an_item_without_training_interactions_is_new():
    counts = np.array([0, 6, 1, 0, 2], "float32")
    found = model_comparison._segments(counts)
    assert found == ["new", "head", "tail", "new", "tail"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    log = random_log(4, rows=300, users=20, items=15, moments=40)
    log[:] = [
        (user, "nowhere" if time == 39 else item, time) for user, item, time in log
    ]
    folder = tmp_path_factory.mktemp("prepared") / "p"
    settings = {"lists": {"seen": "exclude"}}
    prepared, record = run(small_pipelines.dataset(log), folder, **settings)
    assert record["unreachable"]["test"] > 0
    assert "nowhere" not in prepared.items["item_id"].to_pylist()
    return prepared


def test_every_test_list_is_ranked_in_full_by_every_model(prepared, monkeypatch):
    size = prepared.catalogue_size
    monkeypatch.setattr(scored_candidates, "PAIRS_AT_ONCE", 7 * size)
    order = np.random.default_rng(3).normal(size=size).astype("float32")

    def fixed(x):
        assert len(x["mask"]) <= 7
        return np.broadcast_to(order, x["mask"].shape)

    calls = []
    scorers = {
        "popularity": popularity_scorer(prepared.popularity),
        "distilled": fixed,
        "teacher": fixed,
    }
    rows = rank_test_lists(
        scorers, prepared, ["mrr", "hit@1"], lambda *call: calls.append(call)
    )
    lists = rows_of(prepared, "test")
    assert rows.models.keys() == scorers.keys()
    judged = rows.models["distilled"].to_pylist()
    assert [row["list_id"] for row in judged] == list(lists)
    lost = 0
    head = model_comparison._head_items(prepared.popularity)
    for row, segment in zip(judged, rows.segments, strict=True):
        stored = lists[row["list_id"]]
        (positive,), seen = stored["candidates"], set(stored["seen"])
        ranked = [
            k for k in np.argsort(-order) if k not in seen or k == positive
        ]  # the top is of real candidates alone
        assert row["top"] == ranked[:10]
        if positive < 0:
            lost += 1
            assert (row["mrr"], row["hit@1"], segment) == (0.0, 0.0, "tail")
        else:
            rank = 1 + ranked.index(positive)
            assert row["mrr"] == pytest.approx(1 / rank)
            assert row["hit@1"] == (rank == 1)
            assert segment == ("head" if head[positive] else "tail")
    assert rows.unreachable == lost > 0
    assert {"head", "tail"} == set(rows.segments)
    assert rows.models["teacher"].equals(rows.models["distilled"])
    alike = rows.agreement
    assert alike["list_id"].to_pylist() == list(lists)
    for name in ("overlap@10", "kendall_tau@10", "rbo"):
        np.testing.assert_allclose(alike[name].to_numpy(), 1.0, err_msg=name)
    assert calls[-1] == ("Ranking the test lists", len(lists), len(lists))


def test_nan_scores_are_an_error_that_names_the_model(prepared):
    def broken(x):
        return np.full(x["mask"].shape, np.nan, "float32")

    scorers = {"teacher": broken, "distilled": broken}
    with pytest.raises(ValueError, match="Received"):
        rank_test_lists(scorers, prepared, ["mrr"], small_pipelines.quiet)
