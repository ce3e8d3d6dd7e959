"""Comparison of the models: full rankings of the test lists."""

import numpy as np
import pytest

from recdistill.pipeline import scored_candidates
from recdistill.pipeline.list_slices import segments
from recdistill.pipeline.model_comparison import rank_test_lists
from recdistill.pipeline.scorers import popularity_scorer
from tests import small_pipelines
from tests.pipeline.logs import random_log, rows_of, run


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
    segment = segments(prepared.popularity)
    items = rows.slices["item"]
    for number, row in enumerate(judged):
        own = [name for name, inside in items.items() if inside[number]]
        stored = lists[row["list_id"]]
        (positive,), seen = stored["candidates"], set(stored["seen"])
        ranked = [
            k for k in np.argsort(-order) if k not in seen or k == positive
        ]  # the top is of real candidates alone
        assert row["top"] == ranked[:10]
        if positive < 0:
            lost += 1
            assert (row["mrr"], row["hit@1"], own) == (0.0, 0.0, [])
        else:
            rank = 1 + ranked.index(positive)
            assert row["mrr"] == pytest.approx(1 / rank)
            assert row["hit@1"] == (rank == 1)
            assert own == [segment[positive]]
    assert rows.unreachable == lost > 0
    assert list(items) == ["head", "torso", "tail"]
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
