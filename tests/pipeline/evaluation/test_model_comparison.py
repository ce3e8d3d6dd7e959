"""Comparison of the models: full rankings of the test lists."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.pipeline.candidates.sampled_candidates import SampledCandidates
from recdistill.pipeline.evaluation import model_comparison
from recdistill.pipeline.evaluation.judged_lists import judged_lists
from recdistill.pipeline.evaluation.model_comparison import rank_test_lists
from recdistill.pipeline.models.scorers import PopularityScorer
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.ranking import candidate_ranker
from recdistill.pipeline.ranking.list_slices import segments
from tests import small_pipelines
from tests.pipeline.logs import random_log, rows_of, run
from tests.pipeline.tiny_runs import ranking


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    log = random_log(4, rows=300, users=20, items=15, moments=9_000)
    log[:] = [
        (user, "nowhere" if time > 8_900 else item, time) for user, item, time in log
    ]
    folder = tmp_path_factory.mktemp("prepared") / "p"
    settings = {"lists": {"seen": "exclude"}}
    prepared, record = run(small_pipelines.dataset(log), folder, **settings)
    assert record["unreachable"]["test"] > 0
    assert "nowhere" not in prepared.items["item_id"].to_pylist()
    return prepared


def test_every_test_list_is_ranked_in_full_by_every_model(prepared, monkeypatch):
    size = prepared.catalogue_size
    monkeypatch.setattr(candidate_ranker, "PAIRS_AT_ONCE", 7 * size)
    order = np.random.default_rng(3).normal(size=size).astype("float32")

    def fixed(x):
        assert len(x["mask"]) <= 7
        return np.broadcast_to(order, x["mask"].shape)

    calls = []
    scorers = {
        "popularity": PopularityScorer(prepared.popularity),
        "distilled": fixed,
        "teacher": fixed,
    }
    rows = rank_test_lists(
        ranking(scorers, prepared, ["mrr", "hit@1"]),
        prepared,
        lambda *call: calls.append(call),
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


def test_of_many_test_lists_the_same_sample_is_ranked_and_exported(prepared, tmp_path):
    every = list(rows_of(prepared, "test"))
    fewer = Prepared(prepared.folder, test_lists=len(every) // 2)
    calls = []
    scorers = {
        "popularity": PopularityScorer(prepared.popularity),
        "distilled": PopularityScorer(prepared.popularity),
        "teacher": PopularityScorer(prepared.popularity),
    }
    rank = ranking(scorers, fewer, ["ndcg@3"])
    rows = rank_test_lists(rank, fewer, lambda *call: calls.append(call))
    sample = rows.models["distilled"]["list_id"].to_pylist()
    assert len(sample) == len(every) // 2 == calls[-1][1] == calls[-1][2]
    assert set(sample) < set(every) and sample == sorted(sample, key=every.index)
    assert sample[-1] != every[len(sample) - 1]  # Not the first ones.
    again = Prepared(prepared.folder, test_lists=len(every) // 2)
    assert np.array_equal(again.evaluated_rows, fewer.evaluated_rows)
    drawn = SampledCandidates.draw(fewer, 2, seed=1)
    assert set(drawn.list_id.tolist()) == set(sample)
    pq.write_table(rows.models["distilled"], tmp_path / "rows.parquet")
    judged = judged_lists(fewer, tmp_path / "rows.parquet", ["ndcg@3"], 3)
    assert sum(len(each.reported) for each in judged.batches) <= 3
    most = Prepared(prepared.folder, test_lists=len(every))
    assert most.evaluated_rows.tolist() == list(range(len(every)))


@pytest.mark.parametrize(("retrieved", "left"), [(None, [4]), (3, [3]), (2, [])])
def test_survival_is_measured_where_a_list_can_be_shortened(
    prepared, monkeypatch, retrieved, left
):
    size = prepared.catalogue_size
    seen = [set(own["seen"]) for own in rows_of(prepared, "test").values()]
    longest = size - min(len(each - {-1}) for each in seen)
    wanted = (3, 4, longest, size) if retrieved else (4, longest, size)
    monkeypatch.setattr(model_comparison, "SURVIVAL", wanted)
    scorers = {
        name: PopularityScorer(sign * prepared.popularity)
        for name, sign in (("popularity", 1), ("distilled", -1), ("teacher", 1))
    }
    rows = rank_test_lists(
        ranking(scorers, prepared, ["hit@2"], retrieved),
        prepared,
        small_pipelines.quiet,
    )
    names = [n for n in rows.agreement.column_names if n.startswith("survival")]
    assert names == [f"survival@{n}" for n in left]


def test_nan_scores_are_an_error_that_names_the_model(prepared):
    def broken(x):
        return np.full(x["mask"].shape, np.nan, "float32")

    scorers = {"teacher": broken, "distilled": broken}
    with pytest.raises(ValueError, match="Received"):
        rank_test_lists(
            ranking(scorers, prepared, ["mrr"]), prepared, small_pipelines.quiet
        )


def test_retrieved_candidates_are_the_union_of_the_first_items_of_each_retriever(
    prepared,
):
    size, top = prepared.catalogue_size, 3
    rng = np.random.default_rng(5)
    values = {
        name: rng.normal(size=size).astype("float32")
        for name in ("baseline", "distilled", "teacher")
    }
    values = {"popularity": prepared.popularity, **values}

    def scorer(name):
        def score(x):
            index = np.asarray(x["candidate_index"])
            assert name != "teacher" or index.ndim == 2  # It never ranks the catalogue.
            return np.broadcast_to(values[name][index], x["mask"].shape)

        return score

    scorers = {name: scorer(name) for name in values}
    metrics = ["mrr", "hit@1", "ndcg@3"]
    rows = rank_test_lists(
        ranking(scorers, prepared, metrics, top), prepared, small_pipelines.quiet
    )
    stored = rows_of(prepared, "test")
    found = rows.retrieval
    judged = {name: table.to_pylist() for name, table in rows.models.items()}
    everywhere = {name: table.to_pylist() for name, table in found.models.items()}
    recall = found.recall.to_pylist()
    lengths, missed = [], 0
    for number, own in enumerate(stored.values()):
        (positive,), seen = own["candidates"], set(own["seen"])
        ranked = {
            name: [k for k in np.argsort(-v, kind="stable") if k not in seen]
            for name, v in values.items()
        }
        union = {
            k for name, one in ranked.items() if name != "teacher" for k in one[:top]
        }
        lengths.append(len(union))
        assert recall[number]["recall@3"] == (positive in union)
        missed += positive not in union
        for name, one in ranked.items():
            among = [k for k in one if k in union]
            row = judged[name][number]
            assert row["top"] == among[:10]
            value = 1 / (1 + among.index(positive)) if positive in union else 0.0
            assert row["mrr"] == pytest.approx(value)
            if name != "teacher" and positive >= 0:
                full = everywhere[name][number]
                assert full["mrr"] == pytest.approx(1 / (1 + one.index(positive)))
                # Up to the number of retrieved items, both protocols agree.
                assert (full["hit@1"], full["ndcg@3"]) == (row["hit@1"], row["ndcg@3"])
    assert 0 < missed < len(stored)
    assert found.candidates == pytest.approx(np.mean(lengths))
    whole = rank_test_lists(
        ranking(scorers | {"teacher": scorer("baseline")}, prepared, ["mrr"]),
        prepared,
        small_pipelines.quiet,
    )
    hashes = [each.lists.table({})["candidates"] for each in (rows, whole)]
    assert hashes[0] == hashes[1]  # The lists are the same; the protocol differs.
