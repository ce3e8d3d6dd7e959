"""judged_lists: requests for a sample of the evaluated test lists."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.pipeline.evaluation import judged_lists as module
from recdistill.pipeline.evaluation.judged_lists import judged_lists, measure_answer
from tests import small_pipelines
from tests.data.list_builders import lists
from tests.pipeline.logs import random_log, rows_of, run

LOG = random_log(1, rows=300, users=20, items=40, moments=50)


def prepared_with(folder, seen, **settings):
    data = small_pipelines.dataset(LOG)
    prepared, _ = run(data, folder / "p", lists={"seen": seen}, **settings)
    rows = rows_of(prepared, "test")
    values = {name: k / 100 for k, name in enumerate(sorted(rows))}
    table = pa.table({"list_id": list(values), "ndcg@10": list(values.values())})
    pq.write_table(table, folder / "rows.parquet")
    return prepared, rows, values


def requests(prepared, folder, metrics=("mrr", "ndcg@10"), limit=1_000):
    return judged_lists(prepared, folder / "rows.parquet", metrics, limit)


def sent(ids):
    return [each for each in ids if each != ""]


def test_a_history_holds_all_that_the_query_had_if_seen_items_are_excluded(tmp_path):
    prepared, rows, values = prepared_with(tmp_path, "exclude")
    judged = requests(prepared, tmp_path)
    assert (judged.metric, judged.k) == ("ndcg@10", 10)
    found = 0
    for batch in judged.batches:
        for k, reported in enumerate(batch.reported):
            [name] = [n for n, value in values.items() if value == reported]
            user, _, time = LOG[name]
            own = sorted((t, row) for row, (u, _, t) in enumerate(LOG) if u == user)
            want = [LOG[row][1] for t, row in own if t < time]
            length = batch.queries["history_length"][k]
            history = batch.queries["history"][k][:length].tolist()
            assert set(history) == set(want)
            latest = want[-small_pipelines.HISTORY["history"]["length"] :]
            assert history[len(history) - len(latest) :] == latest
            assert sent(batch.exclude_ids[k]) == sent(batch.allow_ids[k]) == []
            found += 1
    assert found == len(rows) > 10
    assert max(len(b.queries["history"][0]) for b in judged.batches) > 3


def test_a_query_without_history_sends_what_it_had_as_exclusions(tmp_path):
    query = {"user_id": {"kind": "id"}}
    teacher = {"kind": "reference"}
    prepared, rows, values = prepared_with(
        tmp_path, "exclude", query=query, teacher=teacher
    )
    items = prepared.items["item_id"].to_pylist()
    for batch in requests(prepared, tmp_path).batches:
        for k, reported in enumerate(batch.reported):
            [name] = [n for n, value in values.items() if value == reported]
            want = {items[row] for row in rows[name]["seen"]}
            assert set(sent(batch.exclude_ids[k])) == want


def test_nothing_is_excluded_if_seen_items_are_candidates(tmp_path):
    prepared, _, _ = prepared_with(tmp_path, "include")
    for batch in requests(prepared, tmp_path).batches:
        assert batch.queries["history"].shape[1] <= 3
        assert not sent(batch.exclude_ids.ravel())


def test_a_sample_has_the_wanted_number_of_lists(tmp_path):
    prepared, _, _ = prepared_with(tmp_path, "exclude")
    judged = requests(prepared, tmp_path, limit=7)
    assert sum(len(batch.reported) for batch in judged.batches) == 7


def test_the_metric_of_an_answer_follows_from_the_places_of_the_positives():
    # Item k has the id "ik". The second list lacks one of two positives; the positive
    # of the third is not in the catalogue.
    three = lists([[2], [0, 5], [-1]], relevance=[[1.0], [1.0, 1.0], [1.0]])
    ids = np.array([f"i{k}" for k in range(8)], object)
    answer = np.array([["i1", "i2", "i3"], ["i3", "i5", ""], ["i1", "i2", ""]], object)
    got = measure_answer(three, answer, ids, "ndcg@3")
    second = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    np.testing.assert_allclose(got, [1 / math.log2(3), second, 0.0])
    recall = measure_answer(three, answer, ids, "recall@3")
    np.testing.assert_allclose(recall, [1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("metrics", "expected"), [(["mrr", "hit@2"], ("hit@2", 2)), (["mrr"], ("mrr", 40))]
)
def test_the_first_metric_with_a_cutoff_is_recomputed(tmp_path, metrics, expected):
    prepared, rows, _ = prepared_with(tmp_path, "include")
    size = prepared.catalogue_size
    table = pa.table({"list_id": list(rows), metrics[-1]: [0.5] * len(rows)})
    pq.write_table(table, tmp_path / "rows.parquet")
    judged = requests(prepared, tmp_path, metrics)
    assert (judged.metric, judged.k) == (expected[0], min(expected[1], size))
    # The export ranks the catalogue: only a metric with a cut-off is the same there.
    restricted = judged_lists(
        prepared, tmp_path / "rows.parquet", metrics, 1_000, retrieved=True
    )
    assert (restricted is None) == (metrics == ["mrr"])


def test_a_metric_of_more_items_than_an_answer_may_have_is_not_recomputed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "MOST_ITEMS", 20)
    prepared, *_ = prepared_with(tmp_path, "include")
    assert prepared.catalogue_size > 20
    assert requests(prepared, tmp_path, ["ndcg@21", "mrr"]) is None
    judged = requests(prepared, tmp_path, ["recall@30", "ndcg@10"])
    assert (judged.metric, judged.k) == ("ndcg@10", 10)
