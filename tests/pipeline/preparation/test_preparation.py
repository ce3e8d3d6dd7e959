"""Preparation: lists equal those of plain loops, and errors name the remedy."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from recdistill.errors import DataError
from recdistill.pipeline.config import load_config
from recdistill.pipeline.preparation import interaction_sort, list_shards
from recdistill.pipeline.preparation.dataset_loading import load_dataset
from recdistill.pipeline.preparation.preparation import prepare
from recdistill.pipeline.preparation.prepared_data import Prepared
from tests import small_pipelines
from tests.pipeline.logs import (
    LENGTH,
    RICH,
    SPLITS,
    lists_of,
    random_log,
    rich,
    rows_of,
    run,
    split_by_query,
)
from tests.real_data import real_data


def expected_lists(log, split_of):
    """The contents of the list of each query and time, computed by plain loops."""
    lists = {}
    for row, rows in lists_of(log).items():
        user, _, time = log[row]
        own = [(t, k, i) for k, (u, i, t) in enumerate(log) if u == user]
        earlier = [i for t, _, i in sorted(own) if t < time]
        lists[row] = {
            "split": split_of[row],
            "query_id": user,
            "positives": list(dict.fromkeys(log[k][1] for k in rows)),
            "seen": list(dict.fromkeys(earlier)),
            "history": earlier[-LENGTH:],
        }
    return lists


def split_by_moment(log, valid, test):
    """The cuts are the moments where the share of earlier rows is reached."""
    times = np.sort([time for _, _, time in log])

    def cut(share):
        place = int(np.ceil(round(share * len(times), 6))) - 1
        return times[place]

    first, second = cut(1 - valid - test), cut(1 - test)
    return {
        row: "train" if time <= first else "valid" if time <= second else "test"
        for row, (_, _, time) in enumerate(log)
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("by", "reference"),
    [("query_time", split_by_query), ("global_time", split_by_moment)],
)
def test_lists_equal_those_of_plain_loops(tmp_path, by, reference, seed):
    log = random_log(seed)
    shares = {"valid": 0.15, "test": 0.2}
    prepared, record = run(
        small_pipelines.dataset(log), tmp_path / "p", split={"by": by, **shares}
    )
    expected = expected_lists(log, reference(log, **shares))
    catalogue = prepared.items["item_id"].to_pylist()
    vocabulary = ["", "?", *prepared.schema.items.vocabulary]
    found = 0
    for split in SPLITS:
        lists = rows_of(prepared, split)
        wanted = {k: v for k, v in expected.items() if v["split"] == split}
        assert record["lists"][split] == len(wanted) > 0
        assert lists.keys() == wanted.keys()
        for row, want in wanted.items():
            got, found = lists[row], found + 1
            assert got["query_id"] == want["query_id"]
            assert [catalogue[k] for k in got["candidates"]] == want["positives"]
            assert got["relevance"] == [1.0] * len(want["positives"])
            assert got["list_weight"] == 1.0
            assert [catalogue[k] for k in got["seen"]] == want["seen"]
            read = [vocabulary[k] for k in got["query.history"]]
            newest_first = want["history"][::-1]
            assert read == newest_first + [""] * (LENGTH - len(newest_first))
            if split == "test":
                assert got["raw.history"] == want["history"]
            else:
                assert "raw.history" not in got
    assert found == len(expected) < len(log)


def test_training_rows_are_the_distinct_training_items_of_each_query(tmp_path):
    log = random_log(5)
    prepared, _ = run(small_pipelines.dataset(log), tmp_path / "p")
    split = split_by_query(log, 0.1, 0.1)
    vocabulary = prepared.schema.items.vocabulary
    for part in SPLITS:
        for row, got in rows_of(prepared, part).items():
            training_row = prepared.training_rows.take(
                np.array([got["query_row"]])
            ).values
            own = {
                item
                for k, (user, item, _) in enumerate(log)
                if user == log[row][0] and split[k] == "train"
            }
            assert sorted(vocabulary[k - 2] for k in training_row) == sorted(own)


def test_popularity_and_vocabulary_count_the_training_part_only(tmp_path):
    log = random_log(6)
    prepared, record = run(small_pipelines.dataset(log), tmp_path / "p")
    split = split_by_query(log, 0.1, 0.1)
    count = {}
    for row, (_, item, _) in enumerate(log):
        if split[row] == "train":
            count[item] = count.get(item, 0) + 1
    stored = dict(
        zip(prepared.items["item_id"].to_pylist(), prepared.popularity, strict=True)
    )
    assert stored == count
    by_frequency = sorted(count, key=lambda item: (-count[item], item))
    assert list(prepared.schema.items.vocabulary) == by_frequency
    assert record["interactions"] == len(log)
    assert record["queries"] == 6
    assert record["items"] == len(count)


def test_per_query_keeps_the_latest_training_lists_of_each_query(tmp_path):
    log = random_log(7)
    prepared, record = run(
        small_pipelines.dataset(log), tmp_path / "p", lists={"per_query": 4}
    )
    split = split_by_query(log, 0.1, 0.1)
    kept = set()
    for user in {user for user, _, _ in log}:
        own = sorted((log[k][2], k) for k in lists_of(log) if log[k][0] == user)
        kept |= set([k for _, k in own if split[k] == "train"][-4:])
    assert rows_of(prepared, "train").keys() == kept
    assert record["lists"]["train"] == len(kept)
    assert len(rows_of(prepared, "test")) == [split[k] for k in lists_of(log)].count(
        "test"
    )
    # The model of the items still learns from all of the training part.
    assert prepared.popularity.sum() == list(split.values()).count("train")


def test_per_query_allows_a_part_without_training_rows():
    writer = SimpleNamespace(_per_query=4)
    rows = np.zeros(0, "int64")
    assert len(list_shards.ListShardWriter._latest(writer, None, rows)) == 0


def test_small_partitions_give_the_same_lists(tmp_path, monkeypatch):
    log = random_log(8, rows=300, users=40)
    whole, record = run(small_pipelines.dataset(log), tmp_path / "whole")
    monkeypatch.setattr(interaction_sort, "PARTITION_ROWS", 30)
    parts, same_record = run(
        small_pipelines.dataset(log, batch_rows=17), tmp_path / "parts"
    )
    assert same_record == record
    assert len(parts.shards("train")) > 5
    assert not (parts.folder / "partitions").exists()
    assert parts.schema.items.vocabulary == whole.schema.items.vocabulary
    for split in SPLITS:
        one, other = rows_of(whole, split), rows_of(parts, split)
        assert one.keys() == other.keys()
        for row, want in one.items():
            places = [want.pop("query_row")], [other[row].pop("query_row")]
            assert other[row] == want
            training_rows = [
                prepared.training_rows.take(np.array(place)).values.tolist()
                for prepared, place in zip((whole, parts), places, strict=True)
            ]
            assert training_rows[0] == training_rows[1]


def test_a_query_with_many_repeats_has_each_seen_item_once(tmp_path):
    log = [("bot", f"i{k % 5}", k) for k in range(400)]
    log += [(f"u{u}", f"i{(u + k) % 5}", k) for u in range(5) for k in range(4)]
    data = small_pipelines.dataset(log)
    prepared, _ = run(data, tmp_path / "p", lists={"seen": "include"})
    for split in SPLITS:
        for row in rows_of(prepared, split).values():
            assert len(set(row["seen"])) == len(row["seen"]) <= 5


def test_lists_with_many_seen_items_are_split_over_files(tmp_path, monkeypatch):
    log = random_log(8, rows=300, users=3, moments=200)
    whole, record = run(small_pipelines.dataset(log), tmp_path / "whole")
    monkeypatch.setattr(list_shards, "SEEN_ITEMS", 80)
    parts, same_record = run(small_pipelines.dataset(log), tmp_path / "parts")
    assert same_record == record
    for split in SPLITS:
        assert len(parts.shards(split)) > 2
        seen = [
            sum(map(len, pq.read_table(path)["seen"].to_pylist()))
            for path in parts.shards(split)
        ]
        assert max(seen) < 80 + 40  # one list more than the limit at most
        assert rows_of(parts, split) == rows_of(whole, split)


@pytest.mark.parametrize("seed", range(2))
def test_stored_lookups_equal_the_lookup_of_the_raw_values(tmp_path, seed):
    log = random_log(seed, rows=400, users=50, moments=10_000)
    device = [("phone", "desk")[k % 2] for k in range(len(log))]
    for row, split in split_by_query(log, 0.1, 0.1).items():
        if split == "test" and row % 3 == 0:
            device[row] = "watch"
    prepared, record = run(rich(log, device=device), tmp_path / "p", **RICH)
    count = record["lists"]["test"]
    assert count > 10
    raw = prepared.raw_queries(count)
    graph = tf.function(prepared.schema.lookup_query)
    looked_up = {name: value.numpy() for name, value in graph(raw).items()}
    lists = list(rows_of(prepared, "test").values())
    for name, value in looked_up.items():
        stored = [row[f"query.{name}"] for row in lists]
        # Eager and graph may round the last bit of a number differently.
        exact = {"rtol": 2e-7 if value.dtype == np.float32 else 0, "err_msg": name}
        np.testing.assert_allclose(value, stored, **exact)
    # Unknown and missing values were among them.
    assert {1, 2, 3} == set(looked_up["device"])
    assert 0 in looked_up["job"]
    assert (looked_up["likes"] == 0).all(axis=1).any()
    assert 1.0 in looked_up["age"][:, 1]
    assert (looked_up["history"] == 0).any()


def test_catalogue_rows_are_the_lookup_of_the_item_table(tmp_path):
    log = random_log(3)
    prepared, _ = run(rich(log, extra_items=["i96"]), tmp_path / "p", **RICH)
    catalogue = prepared.catalogue
    vocabulary = prepared.schema.items.vocabulary
    for row, item in enumerate(prepared.items["item_id"].to_pylist()):
        index = vocabulary.index(item) + 2 if item in vocabulary else 1
        assert catalogue["item_id"][row] == index == prepared.item_index[row]
    trained = prepared.popularity > 0
    price = np.array(prepared.items["price"].to_pylist())
    mean, deviation = price[trained].mean(), price[trained].std()
    np.testing.assert_allclose(
        catalogue["price"][:, 0], (price - mean) / deviation, rtol=1e-5, atol=1e-6
    )
    assert not trained[-1]


def test_numbers_of_the_context_are_standardised_by_the_training_part(tmp_path):
    log = random_log(9, moments=10_000)
    hour = [float((7 * k) % 24) for k in range(len(log))]
    prepared, _ = run(rich(log, hour=hour), tmp_path / "p", **RICH)
    split = split_by_query(log, 0.1, 0.1)
    train = [hour[k] for k in range(len(log)) if split[k] == "train"]
    encoder = next(e for e in prepared.schema.query if e.feature == "hour")
    assert encoder.mean == pytest.approx(np.mean(train))
    assert encoder.deviation == pytest.approx(np.std(train))


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_numbers_of_any_scale_are_standardised(tmp_path, scale):
    log = random_log(9, moments=10_000)
    hour = [scale * ((7 * k) % 24) for k in range(len(log))]
    prepared, _ = run(rich(log, hour=hour), tmp_path / "p", **RICH)
    encoder = next(e for e in prepared.schema.query if e.feature == "hour")
    assert encoder.deviation == pytest.approx(6.9 * scale, rel=0.1)


@pytest.mark.parametrize("number", [0.0, 0.1, 3.3e8])
def test_equal_numbers_have_the_deviation_one(tmp_path, number):
    log = random_log(9, moments=10_000)
    prepared, _ = run(rich(log, hour=[number] * len(log)), tmp_path / "p", **RICH)
    encoder = next(e for e in prepared.schema.query if e.feature == "hour")
    assert encoder.deviation == 1


def test_relevance_and_weight_come_from_their_columns(tmp_path):
    log = random_log(10)
    table = pa.table(
        {
            "user_id": [user for user, _, _ in log],
            "item_id": [item for _, item, _ in log],
            "timestamp": pa.array([time for _, _, time in log], pa.int64()),
            "stars": pa.array(np.arange(len(log)), pa.float32()),
            "trust": pa.array(np.arange(len(log)) / 2, pa.float32()),
        }
    )
    data = small_pipelines.dataset(table, relevance="stars", weight="trust")
    prepared, _ = run(data, tmp_path / "p")
    for split in SPLITS:
        for row, got in rows_of(prepared, split).items():
            rows = lists_of(log)[row]
            # Of the rows of an item, the last one has the greatest relevance.
            greatest = {log[k][1]: float(k) for k in rows}
            assert sorted(got["relevance"]) == sorted(greatest.values())
            own = [k for k in rows if float(k) in greatest.values()]
            assert got["list_weight"] == pytest.approx(np.mean(own) / 2)


def test_a_positive_that_training_never_saw_is_counted_as_unreachable(tmp_path):
    # No item table: the catalogue is what the training part has.
    log = [(f"u{u}", f"i{k % 4}", k) for u in range(3) for k in range(10)]
    log[9] = ("u0", "only-tested", 9)
    log[18] = ("u1", "only-validated", 8)
    prepared, record = run(small_pipelines.dataset(log), tmp_path / "p")
    assert record["unreachable"] == {"train": 0, "valid": 1, "test": 1}
    assert record["items"] == 4
    assert rows_of(prepared, "test")[9]["candidates"] == [-1]
    assert rows_of(prepared, "valid")[18]["candidates"] == [-1]
    # An unknown item is no candidate, but stays in the history, as unknown.
    after = rows_of(prepared, "test")[19]
    assert after["raw.history"][-1] == "only-validated"
    assert after["query.history"][0] == 1
    assert len(after["seen"]) == 4
    # Test histories: the last 3 of 9 items each; one of them is unknown.
    assert record["unknown"]["train"] == {"history": 0.0}
    assert record["unknown"]["test"] == {"history": round(1 / 9, 6)}


def test_copies_of_an_unseen_positive_count_once(tmp_path):
    log = [(f"u{u}", f"i{k % 4}", k) for u in range(3) for k in range(10)]
    log[9] = ("u0", "only-tested", 9)
    log += [log[9], ("u0", "also-new", 9)]
    prepared, _ = run(small_pipelines.dataset(log), tmp_path / "p")
    assert rows_of(prepared, "test")[9]["candidates"] == [-1, -1]


def test_names_of_folders_are_no_columns(tmp_path):
    log = random_log(1)
    want, _ = run(small_pipelines.dataset(log), tmp_path / "plain")
    (tmp_path / "query=ann" / "item=i1").mkdir(parents=True)
    folder = tmp_path / "query=ann" / "item=i1" / "time=5"
    got, _ = run(small_pipelines.dataset(log), folder)
    for split in SPLITS:
        assert rows_of(got, split) == rows_of(want, split)


def test_an_item_table_makes_an_unseen_positive_reachable(tmp_path):
    log = [(f"u{u}", f"i{k % 4}", k) for u in range(3) for k in range(10)]
    log[9] = ("u0", "only-tested", 9)
    items = pa.table({"item_id": ["only-tested", "i0", "i1", "i2", "i3", "unused"]})
    prepared, record = run(small_pipelines.dataset(log, items), tmp_path / "p")
    assert record["unreachable"]["test"] == 0
    assert record["items"] == 6
    assert rows_of(prepared, "test")[9]["candidates"] == [0]
    assert prepared.item_index[[0, 5]].tolist() == [1, 1]
    assert record["unknown"]["items"] == {"item_id": round(2 / 6, 6)}


def test_a_query_feature_that_is_unknown_in_all_held_out_lists_is_an_error(tmp_path):
    rows = 30
    log = pa.table(
        {
            "user_id": [f"u{k % 3}" for k in range(rows)],
            "item_id": [f"i{k % 4}" for k in range(rows)],
            "timestamp": pa.array(range(rows), pa.int64()),
            "day": [f"d{k // 3}" for k in range(rows)],
        }
    )
    query = small_pipelines.HISTORY | {"day": {"kind": "category"}}
    message = refusal(small_pipelines.dataset(log), tmp_path / "p", query=query)
    assert message.startswith(
        "The query feature `day` (table `interactions`, `day`) must have values of the "
        "training part in the validation and test lists"
    )
    assert "Received: 6 values, none of which occurs in the training" in message


def refusal(data, folder, **settings):
    with pytest.raises(DataError) as caught:
        run(data, folder, **settings)
    return str(caught.value)


def test_no_interactions_are_an_error(tmp_path):
    said = refusal(small_pipelines.dataset([]), tmp_path / "p")
    assert "`memory` has no interactions" in said
    assert "Set `dataset.path` to a folder with data" in said


def test_too_few_lists_are_an_error_that_says_which(tmp_path):
    log = [("u0", f"i{k}", k) for k in range(5)]  # one user: one list is held out
    said = refusal(small_pipelines.dataset(log), tmp_path / "p")
    assert "has 1 valid list(s) and 1 test list(s); at least two in each part" in said
    assert "change the shares of `split`" in said


def test_columns_may_have_the_names_of_ours(tmp_path):
    ours = ["row", "list_id", "query_row", "candidates", "seen", "list_weight", "split"]
    log = random_log(4, moments=10_000)
    user, item, time = zip(*log, strict=True)
    interactions = pa.table(
        {"query_id": user, "train_count": item, "relevance": time}
        | {name: [f"{name} {k % 3}" for k in range(len(log))] for name in ours}
    )
    catalogue = sorted(set(item))
    items = pa.table(
        {"train_count": catalogue}
        | {name: [f"{name} {k % 4}" for k in range(len(catalogue))] for name in ours}
    )
    data = small_pipelines.dataset(
        interactions, items, query="query_id", item="train_count", time="relevance"
    )
    category = {"kind": "category"}
    settings = {
        "query": {"source_list": {"kind": "history"}, **dict.fromkeys(ours, category)},
        "candidate": {
            "train_count": {"kind": "id"},
            **{f"its_{name}": category | {"column": name} for name in ours},
        },
    }
    prepared, record = run(data, tmp_path / "p", **settings)
    assert record["interactions"] == len(log)
    lists = {k: got for split in SPLITS for k, got in rows_of(prepared, split).items()}
    for row, got in lists.items():
        assert got["query_id"] == user[row]
        assert [catalogue[k] for k in got["candidates"]] == [item[row]]
        for name in ours:
            if f"raw.{name}" in got:
                assert got[f"raw.{name}"] == f"{name} {row % 3}"
    for name in ours:
        raw = prepared.raw_candidates[f"its_{name}"].tolist()
        assert raw == [f"{name} {k % 4}" for k in range(len(catalogue))]
    trained = [got for k, got in rows_of(prepared, "train").items()]
    assert prepared.popularity.sum() >= len(trained)


def test_a_test_part_of_new_items_only_is_an_error(tmp_path):
    log = [(f"u{k % 3}", f"i{k % 5}" if k < 27 else f"new{k}", k) for k in range(30)]
    split = {"by": "global_time"}
    said = refusal(small_pipelines.dataset(log), tmp_path / "a", split=split)
    assert "no item of the catalogue in any of its 3 test lists" in said
    items = pa.table({"item_id": sorted({item for _, item, _ in log})})
    data = small_pipelines.dataset(log, items)
    _, record = run(data, tmp_path / "b", split=split, lists={"seen": "include"})
    assert record["unreachable"]["test"] == 0


def test_weights_that_are_all_0_are_an_error(tmp_path):
    log = random_log(1)
    user, item, time = zip(*log, strict=True)
    table = pa.table(
        {"user_id": user, "item_id": item, "timestamp": time, "plays": [0.0] * len(log)}
    )
    data = small_pipelines.dataset(table, weight="plays")
    said = refusal(data, tmp_path / "p")
    assert "has the weight 0 in all rows of the training part (column `plays`)" in said


def test_a_single_item_is_an_error(tmp_path):
    log = [(f"u{u}", "same", k) for u in range(3) for k in range(5)]
    said = refusal(small_pipelines.dataset(log), tmp_path / "p")
    assert "has 1 item(s); at least two are required" in said


def test_a_split_without_a_training_part_is_an_error(tmp_path):
    log = [(f"u{u}", f"i{u}", 7) for u in range(9)]  # one moment: no earlier part
    said = refusal(
        small_pipelines.dataset(log), tmp_path / "p", split={"by": "global_time"}
    )
    assert "`split`" in said


def test_a_feature_without_a_column_is_an_error_that_lists_the_columns(tmp_path):
    log = random_log(0)
    query = {**RICH["query"], "gender": {"kind": "category", "column": "sex"}}
    said = refusal(rich(log), tmp_path / "a", **RICH | {"query": query})
    assert "The query feature `gender` needs a column 'sex'" in said
    assert "queries: user_id, job, age, likes" in said
    candidate = {**RICH["candidate"], "year": {"kind": "number"}}
    said = refusal(rich(log), tmp_path / "b", **RICH | {"candidate": candidate})
    assert "The candidate feature `year` needs a column 'year'" in said
    assert "items: item_id, tags, price, title" in said
    candidate = {"item_id": {"kind": "id"}, "year": {"kind": "number"}}
    said = refusal(small_pipelines.dataset(log), tmp_path / "c", candidate=candidate)
    assert said.endswith(
        "needs a column 'year'. There is no table `items` in `memory`."
    )


def test_candidates_without_the_items_own_id_are_an_error(tmp_path):
    candidate = {"title": {"kind": "id"}}
    settings = RICH | {"candidate": candidate}
    said = refusal(rich(random_log(0)), tmp_path / "p", **settings)
    assert "of kind 'id' for the item column 'item_id'. Received: ['title']" in said


def test_a_query_without_its_row_is_an_error_that_names_it(tmp_path):
    log = random_log(0)
    data = small_pipelines.dataset(
        log, queries=pa.table({"user_id": ["u0"], "job": ["cook"]})
    )
    settings = {"query": {"job": {"kind": "category"}}}
    settings["teacher"] = {"kind": "reference"}
    said = refusal(data, tmp_path / "p", **settings)
    assert "Table `queries` has no row for the query 'u1'" in said
    assert "which the feature(s) job need. Add a row" in said


def test_queries_and_items_without_a_row_have_missing_values(tmp_path):
    log = random_log(2)
    items = pa.table(
        {"item_id": ["i0", "i1"], "price": [1.0, 2.0], "tags": [["new"], ["old"]]}
    )
    queries = pa.table(
        {"user_id": ["u0"], "job": ["cook"], "age": [30.0], "likes": [["a", "b"]]}
    )
    optional = {"optional": True}
    settings = {
        "query": {
            "user_id": {"kind": "id"},
            "job": {"kind": "category", **optional},
            "age": {"kind": "number", **optional},
            "likes": {"kind": "categories"},
        },
        "candidate": {
            "item_id": {"kind": "id"},
            "price": {"kind": "number", **optional},
            "tags": {"kind": "categories"},
        },
        "teacher": {"kind": "reference"},
    }
    data = small_pipelines.dataset(log, items, queries)
    prepared, record = run(data, tmp_path / "p", **settings)
    trained = {
        log[k][1]
        for k, part in split_by_query(log, 0.1, 0.1).items()
        if part == "train"
    }
    others = sorted(trained - {"i0", "i1"})
    assert prepared.items["item_id"].to_pylist() == ["i0", "i1", *others]
    assert record["added_items"] == len(others) > 3
    price = prepared.raw_candidates["price"]
    assert price[:2].tolist() == [1.0, 2.0]
    assert np.isnan(price[2:]).all()
    for got in rows_of(prepared, "test").values():
        known = got["query_id"] == "u0"
        assert got["raw.user_id"] == got["query_id"]
        assert got["raw.job"] == ("cook" if known else "")
        assert got["raw.likes"] == (["a", "b"] if known else [])
        assert np.isnan(got["raw.age"]) != known
        assert got["query.user_id"] > 1


@pytest.mark.parametrize("ids", [[], ["0", "01"]])
def test_tables_none_of_whose_ids_are_in_use_are_errors(tmp_path, ids):
    log = random_log(0)
    ids = pa.array(ids, pa.string())
    data = small_pipelines.dataset(log, pa.table({"item_id": ids}))
    said = refusal(data, tmp_path / "a")
    assert "Table `items` has no row for any of the items of the training part" in said
    assert ("for example '0'" if len(ids) else "it has no row") in said
    queries = pa.table({"user_id": ids, "job": ids})
    query = {"job": {"kind": "category", "optional": True}}
    data = small_pipelines.dataset(log, queries=queries)
    said = refusal(data, tmp_path / "b", query=query, teacher={"kind": "reference"})
    assert "Table `queries` has no row for any of the queries" in said


def test_an_item_table_that_lacks_many_training_items_is_an_error(tmp_path):
    items = pa.table({"item_id": [f"i{k}" for k in range(6)], "price": [1.0] * 6})
    candidate = {"item_id": {"kind": "id"}, "price": {"kind": "number"}}
    data = small_pipelines.dataset(random_log(0), items)
    said = refusal(data, tmp_path / "p", candidate=candidate)
    assert "Table `items` lacks 3 item(s) of the training part, such as 'i6'" in said
    assert "which the feature(s) price need. They have " in said
    assert "of the training interactions; at most 20%" in said


def test_items_that_left_the_item_table_count_in_histories_only(tmp_path):
    log = random_log(0)
    split_of = split_by_query(log, 0.1, 0.1)
    gone = {number: item == "i8" for number, (_, item, _) in enumerate(log)}
    items = pa.table({"item_id": [f"i{k}" for k in range(8)], "price": [1.0] * 8})
    candidate = {"item_id": {"kind": "id"}, "price": {"kind": "number"}}
    settings = {"candidate": candidate, "lists": {"seen": "include"}}
    data = small_pipelines.dataset(log, items)
    prepared, record = run(data, tmp_path / "p", **settings)
    expected = {
        split: sum(gone[k] and split_of[k] == split for k in gone) for split in SPLITS
    }
    assert expected["train"] and expected["test"]
    assert record["unlisted_items"] == 1
    assert record["unlisted_interactions"] == expected
    assert record["items"] == prepared.catalogue_size == 8
    values = prepared.schema.items.values.to_pylist()
    assert sorted(values) == [f"i{k}" for k in range(9)]
    index = {item: place + 2 for place, item in enumerate(values)}
    for split in SPLITS:
        lists, loops = rows_of(prepared, split), expected_lists(log, split_of)
        own = {
            first
            for first, rows in lists_of(log).items()
            if split_of[first] == split and not all(gone[k] for k in rows)
        }
        assert set(lists) == own
        for row, got in lists.items():
            history = [index[item] for item in loops[row]["history"][::-1]]
            assert [v for v in got["query.history"] if v] == history
            assert got["seen"] == [int(i[1:]) for i in loops[row]["seen"] if i != "i8"]
    trained = {
        (user, index[item])
        for k, (user, item, _) in enumerate(log)
        if split_of[k] == "train"
    }
    assert len(prepared.training_rows.values) == len(trained)


@pytest.mark.parametrize("split", SPLITS)
def test_a_missing_value_is_an_error_with_table_column_and_row(tmp_path, split):
    log = random_log(0)
    parts = split_by_query(log, 0.1, 0.1)
    row = next(k for k in range(5, len(log)) if parts[k] == split)
    device = ["phone"] * len(log)
    device[row] = None
    said = refusal(rich(log, device=device), tmp_path / "p", **RICH)
    assert f"Table `interactions`, column `device`, row {row + 1}: the value" in said
    assert "set `optional = true`" in said


def test_a_feature_whose_sets_are_all_empty_can_be_read_back(tmp_path):
    log = random_log(1)
    users = [f"u{k}" for k in range(6)]
    likes = pa.array([[]] * 6, pa.list_(pa.string()))
    data = small_pipelines.dataset(
        log, queries=pa.table({"user_id": users, "likes": likes})
    )
    query = {**small_pipelines.HISTORY, "likes": {"kind": "categories"}}
    prepared, record = run(data, tmp_path / "p", query=query)
    raw = prepared.raw_queries(record["lists"]["test"])
    assert raw["likes"].tolist() == [[""]] * record["lists"]["test"]
    assert (prepared.schema.lookup_query(raw)["likes"].numpy() == 0).all()


OUTSIDE = {"kind": "callable", "function": "some.module:score"}


def test_an_external_teacher_has_raw_values_in_every_split(tmp_path):
    data = rich(random_log(4))
    plain, _ = run(data, tmp_path / "plain", **RICH)
    prepared, _ = run(data, tmp_path / "raw", **RICH, teacher=OUTSIDE)
    for split in SPLITS:
        lists = rows_of(prepared, split)
        for row, without in rows_of(plain, split).items():
            got = lists[row]
            looked_up = {k: v for k, v in without.items() if not k.startswith("raw.")}
            assert {k: got[k] for k in looked_up} == looked_up
            raw = {k for k in got if k.startswith("raw.")}
            assert raw == {f"raw.{name}" for name in RICH["query"]}
            assert got["raw.user_id"] == got["query_id"]
            assert len(got["raw.history"]) == sum(v != 0 for v in got["query.history"])


def listed(rows, **more):
    """Listwise interactions: rows (list, user, item, time)."""
    name, user, item, time = zip(*rows, strict=True)
    table = pa.table(
        {
            "list_id": pa.array(name, pa.string()),
            "user_id": pa.array(user, pa.string()),
            "item_id": pa.array(item, pa.string()),
            "timestamp": pa.array(time, pa.int64()),
        }
    )
    return small_pipelines.dataset(table, list="list_id", **more)


def test_rows_of_one_list_become_one_list(tmp_path):
    # Ann's lists at 1, 2, … have 1, 2, 3, 1, 2, … items; two lists share moment 7.
    log, number = [], 0
    for time in range(1, 11):
        for name in ("x", "y") if time == 7 else ("x",):
            for _ in range(1 + (time - 1) % 3):
                log.append((f"{time}{name}", "ann", f"i{number % 13}", time))
                number += 1
    shuffled = [log[k] for k in np.random.default_rng(1).permutation(len(log))]
    data = listed(shuffled)
    settings = {"split": {"valid": 0.2, "test": 0.19}, "lists": {"seen": "include"}}
    prepared, record = run(data, tmp_path / "p", **settings)
    catalogue = prepared.items["item_id"].to_pylist()
    found = {}
    for split in SPLITS:
        for got in rows_of(prepared, split).values():
            name = got["source_list"]
            assert name not in found
            found[name] = split
            own = {item for each, _, item, _ in log if each == name}
            items = [catalogue[k] for k in got["candidates"] if k >= 0]
            assert set(items) <= own
            assert len(got["candidates"]) == len(got["relevance"]) == len(own)
            time = int(name[:-1])
            earlier = {item for _, _, item, when in log if when < time}
            assert {catalogue[k] for k in got["seen"]} == earlier & set(catalogue)
    assert len(found) == 11
    # Of 11 lists the last 2 are the test part and the 2 before them the validation
    # part.
    assert [found[name] for name in ("6x", "7x")] == ["train", "train"]
    assert [found[name] for name in ("7y", "8x")] == ["valid", "valid"]
    assert [found[name] for name in ("9x", "10x")] == ["test", "test"]
    assert record["lists"]["test"] == 2


def test_a_list_of_two_moments_is_refused(tmp_path):
    rows = [("a", "ann", f"i{k}", k) for k in range(9)]
    with pytest.raises(DataError, match=r"same query and time.* Received: list 'a'"):
        run(listed(rows), tmp_path / "p")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("pipeline", "folder", "table"),
    [
        ("movielens_latest_small", "ml-latest-small", "ratings.csv"),
        ("amazon_beauty", "amazon-beauty", "interactions.parquet"),
    ],
)
def test_lists_of_real_data_are_correct(tmp_path, pipeline, folder, table):
    path = real_data(folder)
    read = pd.read_csv if table.endswith("csv") else pd.read_parquet
    log = read(path / table)
    query = log.columns[0]
    (time,) = {"timestamp", "position"} & set(log.columns)
    moments = log.groupby(query)[time].nunique()
    size = moments.to_numpy()
    file = Path(__file__).parents[3] / "pipelines" / f"{pipeline}.toml"
    settings = load_config(file, [f"dataset.path={path}", "lists.per_query=5"])
    share = 0 if settings.split.by == "leave_last_out" else 0.1
    held = np.where(size < 3, 0, np.maximum(1, np.floor(size * share + 1e-7)))
    (tmp_path / "p").mkdir()
    data = load_dataset(settings.dataset, small_pipelines.quiet)
    record = prepare(data, settings, tmp_path / "p", small_pipelines.quiet)
    assert record["interactions"] == len(log)
    assert record["queries"] == len(size)
    assert record["lists"]["test"] == record["lists"]["valid"] == held.sum()
    assert record["lists"]["train"] == np.minimum(size - 2 * held, 5).sum()
    assert record["unreachable"] == {"train": 0, "valid": 0, "test": 0}
    prepared = Prepared(tmp_path / "p")
    number = log.groupby(query)[time].rank(method="dense")
    in_training = number <= log[query].map(moments - 2 * held)
    assert prepared.popularity.sum() == in_training.sum()
    assert prepared.catalogue_size == record["items"] >= log[log.columns[1]].nunique()


def test_an_item_of_earlier_days_only_is_an_unreachable_positive(tmp_path):
    log = random_log(2)
    before, _ = run(small_pipelines.dataset(log), tmp_path / "a")
    gone = before.schema.items.vocabulary[0]
    kept = [row for row in log if row[1] != gone]
    last = max(time for *_, time in log) + 1
    users = sorted({user for user, *_ in log})
    kept += [(users[0], gone, last), *((user, kept[0][1], last) for user in users[1:])]
    records = {}
    for name, earlier in (("cold", None), ("warm", before.schema)):
        (tmp_path / name).mkdir()
        data, config = small_pipelines.dataset(kept), small_pipelines.config()
        records[name] = prepare(
            data, config, tmp_path / name, small_pipelines.quiet, earlier
        )
    assert records["cold"]["unreachable"]["test"] > 0
    for key in ("lists", "unreachable", "unlisted_interactions"):
        assert records["warm"][key] == records["cold"][key]


def test_vocabularies_that_extend_earlier_ones_keep_their_indices(tmp_path):
    log = random_log(2)
    before, _ = run(small_pipelines.dataset(log), tmp_path / "a")
    # The most frequent item has left, and another is the most frequent one now.
    gone = before.schema.items.vocabulary[0]
    kept = [row for row in log if row[1] != gone]
    kept += [(user, "new", -k) for k, (user, _, _) in enumerate(log)]
    (tmp_path / "b").mkdir()
    config = small_pipelines.config()
    data = small_pipelines.dataset(kept)
    prepare(data, config, tmp_path / "b", small_pipelines.quiet, before.schema)
    after = Prepared(tmp_path / "b")
    assert after.schema.items.vocabulary == (*before.schema.items.vocabulary, "new")
    assert gone not in after.item_ids.tolist()
    row = after.item_ids.tolist().index("new")
    assert after.item_index[row] == 2 + len(before.schema.items.vocabulary)
