"""Sampled evaluation: the candidates, the metrics among them, and the labels."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.evaluation.report.page import render_page
from recdistill.evaluation.report.receipt import candidate_set, verdict
from recdistill.pipeline.candidates.sampled_candidates import (
    SampledCandidates,
)
from recdistill.pipeline.evaluation.judged_lists import judged_lists
from recdistill.pipeline.evaluation.model_comparison import rank_test_lists
from tests import small_pipelines
from tests.evaluation.report.example_reports import report
from tests.pipeline.logs import random_log, rows_of, run
from tests.pipeline.tiny_runs import ranking

NUMBER = 6


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    log = random_log(4, rows=300, users=20, items=15, moments=9_000)
    log[:] = [(u, "nowhere" if time > 8_900 else item, time) for u, item, time in log]
    folder = tmp_path_factory.mktemp("prepared") / "p"
    return run(small_pipelines.dataset(log), folder, lists={"seen": "exclude"})[0]


@pytest.fixture(scope="module")
def sampled(prepared):
    return SampledCandidates.draw(prepared, NUMBER, seed=3)


def candidates_of(sampled):
    rows = range(len(sampled.list_id))
    taken = (sampled.candidates.take(np.array([row])).values.tolist() for row in rows)
    return dict(zip(sampled.list_id.tolist(), taken, strict=True))


def test_candidates_are_the_positives_and_others_that_the_query_has_not_seen(
    prepared, sampled
):
    lists, unreachable = rows_of(prepared, "test"), 0
    drawn = candidates_of(sampled)
    assert drawn.keys() == lists.keys()
    for number, stored in lists.items():
        positives = {row for row in stored["candidates"] if row >= 0}
        others = set(drawn[number]) - positives
        assert positives <= set(drawn[number])
        free = prepared.catalogue_size - len(positives | set(stored["seen"]))
        assert len(others) == min(NUMBER, free)
        assert not others & set(stored["seen"])
        unreachable += not positives
    assert unreachable > 0


def test_the_same_seed_draws_the_same_candidates_and_they_survive_a_file(
    prepared, sampled, tmp_path
):
    again = SampledCandidates.draw(prepared, NUMBER, seed=3)
    assert candidates_of(again) == candidates_of(sampled)
    other = SampledCandidates.draw(prepared, NUMBER, seed=4)
    assert candidates_of(other) != candidates_of(sampled)
    sampled.save(tmp_path / "c.parquet")
    stored = SampledCandidates.load(tmp_path / "c.parquet")
    assert candidates_of(stored) == candidates_of(sampled)


def test_every_free_item_is_drawn_equally_often(prepared):
    counts, free = np.zeros(prepared.catalogue_size), np.zeros(prepared.catalogue_size)
    lists = rows_of(prepared, "test")
    for seed in range(60):
        for name, rows in candidates_of(
            SampledCandidates.draw(prepared, 2, seed=seed)
        ).items():
            taken = {*lists[name]["candidates"], *lists[name]["seen"]}
            others = [row for row in range(len(free)) if row not in taken]
            if len(others) > 2:
                free[others] += 2 / len(others)
                counts[[row for row in rows if row not in taken]] += 1
    np.testing.assert_allclose(counts, free, rtol=0.25)


def test_all_models_rank_the_sampled_candidates(prepared, sampled):
    size = prepared.catalogue_size
    order = np.random.default_rng(3).normal(size=size).astype("float32")

    def fixed(x):
        return order[x["candidate_index"]]

    rows = rank_test_lists(
        ranking({"teacher": fixed, "distilled": fixed}, prepared, ["mrr"]),
        prepared,
        small_pipelines.quiet,
        sampled=sampled,
    )
    drawn, lists = candidates_of(sampled), rows_of(prepared, "test")
    for row in rows.models["teacher"].to_pylist():
        ranked = sorted(drawn[row["list_id"]], key=lambda item: -order[item])
        (positive,) = lists[row["list_id"]]["candidates"]
        want = 1 / (1 + ranked.index(positive)) if positive >= 0 else 0.0
        assert row["mrr"] == pytest.approx(want)
        assert row["top"] == ranked[:10]


def test_the_export_is_judged_on_the_sampled_candidates(prepared, sampled, tmp_path):
    import pyarrow as pa

    ids = list(rows_of(prepared, "test"))
    table = pa.table({"list_id": ids, "mrr@5": [0.5] * len(ids)})
    pq.write_table(table, tmp_path / "rows.parquet")
    judged = judged_lists(
        prepared, tmp_path / "rows.parquet", ["mrr@5"], 1_000, sampled=sampled
    )
    sent = np.concatenate([batch.allow_ids for batch in judged.batches])
    widths = sorted((sent != "").sum(axis=1))
    assert widths == sorted(map(len, candidates_of(sampled).values()))


def test_sampled_evaluation_is_named_in_every_output():
    protocol = report().protocol.model_copy(update={"candidates": "sampled:100"})
    sampled = report(protocol=protocol)
    label = "100 sampled candidates, not the full catalogue"
    assert candidate_set("sampled:100") == label
    assert "NDCG@10 among 100 sampled candidates" in verdict(sampled, "ndcg@10")
    assert label in render_page(sampled)
    assert "sampled" not in verdict(report(), "ndcg@10")
    assert candidate_set("sampled:1000").startswith("1,000 sampled")


def test_a_sample_of_all_items_is_called_so():
    items = report().dataset.items
    for number, all_of_them in ((items - 1, False), (items, True)):
        candidates = f"sampled:{number}"
        protocol = report().protocol.model_copy(update={"candidates": candidates})
        said = verdict(report(protocol=protocol), "ndcg@10")
        assert (f"among all {items:,} items" in said) == all_of_them
        assert ("sampled" in said) != all_of_them
        assert ("all" in candidate_set(candidates, items).split()) == all_of_them
