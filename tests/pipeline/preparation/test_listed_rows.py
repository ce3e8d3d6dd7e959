"""Listwise data: what was shown and not chosen, in all parts; and refused rows."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from recdistill.data import read_frames
from recdistill.data.shard_reading import read_lists
from recdistill.errors import DataError
from recdistill.pipeline.candidates.retriever import Retriever
from recdistill.pipeline.evaluation.judged_lists import measure_answer
from recdistill.pipeline.preparation import interaction_sort
from recdistill.pipeline.ranking.validation import Validation
from recdistill.pipeline.scores.score_writing import ScoreWriter
from recdistill.pipeline.training.trainer import Trainer
from tests import small_pipelines
from tests.data.list_builders import as_lists
from tests.pipeline.logs import SPLITS, rows_of, run
from tests.pipeline.score_stores import hashes_of, write_with

QUERY = {
    **small_pipelines.HISTORY,
    "device": {"kind": "category", "optional": True},
    "tags": {"kind": "categories"},
}
CLICKS = {"relevance": "clicked"}


def impressions(users=30, lists=8, shown=5, items=20, seed=1):
    """Lists of random items, some chosen; the device is that of the list, or null."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for moment in range(lists):
            name = f"{user}-{moment}"
            chosen = rng.random(shown) < 0.3
            for item, click in zip(rng.permutation(items), chosen, strict=False):
                rows.append((name, f"u{user}", f"i{item:02d}", moment, int(click)))
    return rows


def table_of(rows, **more):
    names = ("list_id", "user_id", "item_id", "timestamp", "clicked")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    device = [[None, "phone", "desk"][row[3] % 3] for row in rows]
    tags = pa.array([[], ["a"], ["a", "b"]] * (len(rows) // 3 + 1))
    own = {"device": device, "tags": [tags[row[3] % 3].as_py() for row in rows]}
    return pa.table({**columns, **own, **more})


def prepared_with(folder, rows, **settings):
    frames = {"lists": table_of(rows)}
    data = read_frames(frames, CLICKS)
    return run(data, folder, query=QUERY, **settings)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Prepared impressions in several partitions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interaction_sort, "PARTITION_ROWS", 100)
        rows = impressions()
        folder = tmp_path_factory.mktemp("shown") / "p"
        prepared, record = prepared_with(folder, rows, lists={"seen": "include"})
    assert len(prepared.shards("train")) > 2
    return SimpleNamespace(rows=rows, prepared=prepared, record=record)


def by_list(rows):
    found = {}
    for name, _, item, _, click in rows:
        found.setdefault(name, ({}, {}))[0 if click else 1][item] = True
    return {name: (set(yes), set(no)) for name, (yes, no) in found.items()}


def test_each_list_has_what_was_chosen_and_what_was_only_shown(shown):
    wanted = {name: pair for name, pair in by_list(shown.rows).items() if pair[0]}
    items = shown.prepared.items["item_id"].to_pylist()
    found = {}
    for split in SPLITS:
        for row in rows_of(shown.prepared, split).values():
            pair = (row["candidates"], row["not_chosen"])
            found[row["source_list"]] = tuple({items[k] for k in each} for each in pair)
            assert set(row["relevance"]) == {1.0}
    assert found == wanted
    assert shown.record["not_chosen"] == sum(not row[4] for row in shown.rows)


def test_items_that_were_shown_in_training_are_known_without_a_choice(tmp_path):
    rows = impressions()
    for place, item in ((0, "only-shown"), (-1, "only-tested")):
        name, user, _, moment, _ = impressions()[place]
        rows.append((name, user, item, moment, 0))
    # A list without a choice, at the time of the first interactions.
    rows += [("nothing", "u0", f"unlabelled-{k}", 0, 0) for k in "ab"]
    items = sorted({row[2] for row in rows})
    table = pa.table({"item_id": items, "kind": [item[:4] for item in items]})
    data = read_frames({"lists": table_of(rows), "items": table}, CLICKS)
    candidate = {"item_id": {"kind": "id"}, "kind": {"kind": "category"}}
    prepared, _ = run(data, tmp_path / "p", query=QUERY, candidate=candidate)
    known = {
        each.feature: each.values.to_pylist() for each in prepared.schema.candidate
    }
    assert {"only-shown", "unlabelled-a"} <= {*known["item_id"]}
    assert "only-tested" not in known["item_id"]
    assert {"only", "unla"} <= {*known["kind"]}


def test_models_are_compared_on_the_shown_items_only(shown):
    validation = Validation.sample(shown.prepared, ["mrr"], 10_000, 1)

    def first_items_first(x):
        return -x["candidate_index"].astype("float32")

    got = {
        r["list_id"]: r["mrr"] for r in validation.rows(first_items_first).to_pylist()
    }
    lists = rows_of(shown.prepared, "valid")
    assert got.keys() == lists.keys()
    for name, row in lists.items():
        ranking = sorted(row["candidates"] + row["not_chosen"])
        rank = 1 + min(ranking.index(k) for k in row["candidates"])
        assert got[name] == pytest.approx(1 / rank)


def test_a_shown_item_is_excluded_if_the_query_has_seen_it(tmp_path):
    prepared, _ = prepared_with(
        tmp_path / "p", impressions(), lists={"seen": "exclude"}
    )
    for split in SPLITS:
        for row in rows_of(prepared, split).values():
            assert not set(row["seen"]) & set(row["candidates"] + row["not_chosen"])


def test_an_item_that_a_list_shows_twice_is_chosen_if_it_was_chosen_once(tmp_path):
    rows = impressions(users=12)
    name, user, item, moment, _ = next(row for row in rows if row[4])
    rows += [(name, user, item, moment, relevance) for relevance in (0, 2, 1, 0)]
    prepared, _ = prepared_with(tmp_path / "p", rows, lists={"seen": "include"})
    items = prepared.items["item_id"].to_pylist()
    [row] = [
        row
        for split in SPLITS
        for row in rows_of(prepared, split).values()
        if row["source_list"] == name
    ]
    assert row["candidates"].count(items.index(item)) == 1
    # Of several relevances, the greatest counts.
    assert row["relevance"][row["candidates"].index(items.index(item))] == 2.0
    assert items.index(item) not in row["not_chosen"]


def test_relevance_is_learned_from_shown_items_and_a_few_others(shown):
    settings = small_pipelines.config(query=QUERY)
    trainer = Trainer(
        settings, shown.prepared, None, small_pipelines.quiet, small_pipelines.quiet
    )
    # Five items a list; 1.25 is rounded up. Lists without a click are not there.
    assert trainer.tail == 2


def test_retrieved_lists_store_the_scores_of_all_shown_items(shown, tmp_path):
    size = shown.prepared.catalogue_size
    settings = small_pipelines.config(
        lists={"size": "retrieved", "retriever_top": 2, "popular": 0, "tail": 3}
    ).lists

    def score(x):
        return np.where(x["mask"], x["candidate_index"], 0).astype("float32")

    def top(lists):
        return np.tile(np.array([size - 1, size - 2], "int32"), (len(lists), 1))

    hashes = hashes_of(shown.prepared)
    popularity = shown.prepared.popularity
    propose = Retriever(top, popularity, settings, 5, hashes.ids)
    (tmp_path / "s").mkdir()
    writer = ScoreWriter(score, shown.prepared, settings, 1, hashes, propose)
    record = write_with(writer, tmp_path / "s")
    assert record["list_size"] == 5 + 2 + 3
    for path in (tmp_path / "s").glob("*.parquet"):
        lists = read_lists(path)
        observed, _ = lists.observed()
        for row, own in enumerate(as_lists(observed)):
            stored = lists.candidates[row]
            assert stored[:5].tolist() == own
            best = [k for k in (size - 1, size - 2) if k not in own]
            assert stored[5:7].tolist() == best + [-1] * (2 - len(best))
            want = np.maximum(stored, 0)
            np.testing.assert_array_equal(lists.teacher_scores[row], want)


def refusal(folder, table, query=QUERY):
    with pytest.raises(DataError) as caught:
        run(read_frames({"lists": table}, CLICKS), folder, query=query)
    return str(caught.value)


def test_query_features_that_differ_in_a_list_are_an_error_that_names_them(tmp_path):
    rows = impressions(users=4)
    place = [float(k % 5) for k in range(len(rows))]
    query = {**QUERY, "place": {"kind": "number"}, "spot": {"kind": "category"}}
    spots = [f"s{k % 5}" for k in range(len(rows))]
    said = refusal(tmp_path / "p", table_of(rows, place=place, spot=spots), query)
    assert "must have the same value in all rows of a list" in said
    assert "`place` is " in said and "`spot` is s" in said
    assert "Remove `query.place`, `query.spot` from the configuration" in said
    assert "`device`" not in said and "`tags`" not in said


def test_a_row_that_was_not_chosen_must_have_the_features_of_its_list(tmp_path):
    rows = impressions(users=4)
    device = table_of(rows)["device"].to_pylist()
    # A list with a choice: one of its other rows has another device.
    name = next(row[0] for row in rows if row[4])
    [row, *_] = [k for k, each in enumerate(rows) if each[0] == name and not each[4]]
    device[row] = "watch"
    said = refusal(tmp_path / "p", table_of(rows).set_column(5, "device", [device]))
    assert "`device` is " in said and "watch" in said and repr(name) in said


@pytest.mark.parametrize("size", [1_000_000, 40], ids=["one part", "many parts"])
def test_rows_of_a_list_with_several_queries_are_an_error(tmp_path, monkeypatch, size):
    monkeypatch.setattr(interaction_sort, "PARTITION_ROWS", size)
    # The ids of the lists are unique within each query only.
    rows = [(name.partition("-")[2], *more) for name, *more in impressions(users=12)]
    said = refusal(tmp_path / "p", table_of(rows))
    assert "the same query and time. Received: list '" in said
    assert "make them unique" in said


def test_rows_of_a_list_at_several_times_are_an_error(tmp_path):
    rows = impressions(users=4)
    name = next(row[0] for row in rows if row[4])
    [row, *_] = [k for k, each in enumerate(rows) if each[0] == name and not each[4]]
    rows[row] = (*rows[row][:3], 77, 0)
    device = pa.array(["phone"] * len(rows))
    query = small_pipelines.HISTORY
    said = refusal(
        tmp_path / "p", table_of(rows).set_column(5, "device", device), query
    )
    assert "the same query and time" in said and repr(name) in said and "77" in said


def test_a_candidate_feature_in_the_lists_is_an_error_that_says_why(tmp_path):
    rows = impressions(users=4)
    place = [float(k % 5) for k in range(len(rows))]
    candidate = {"item_id": {"kind": "id"}, "place": {"kind": "number"}}
    data = read_frames({"lists": table_of(rows, place=place)}, CLICKS)
    with pytest.raises(
        DataError, match=r"`place` needs a column .*of the table `items`"
    ):
        run(data, tmp_path / "p", candidate=candidate)


def test_the_served_metric_of_a_list_counts_its_own_candidates(shown):
    # The answer to a query that is restricted to its shown items, best first.
    [path, *_] = shown.prepared.shards("test")
    lists = read_lists(path).with_listed_candidates()
    ids = shown.prepared.item_ids
    answers = [[*ids[sorted(own)], *[""] * 5][:5] for own in as_lists(lists.shown)]
    got = measure_answer(lists, np.array(answers, object), ids, "hit@1")
    want = [
        float(min(own) in set(p))
        for own, p in zip(as_lists(lists.shown), as_lists(lists.positives), strict=True)
    ]
    assert got.tolist() == want
