"""Unlabelled lists: which requests are used, their histories, and what they show."""

import numpy as np
import pandas as pd
import pytest

from recdistill.data import read_frames
from recdistill.errors import DataError
from recdistill.pipeline.preparation import interaction_sort, unlabelled_rows
from tests import small_pipelines
from tests.pipeline.logs import LENGTH, SPLITS, random_log, rows_of, run

QUERY = {
    "user_id": {"kind": "id"},
    **small_pipelines.HISTORY,
    "device": {"kind": "category"},
    "age": {"kind": "number", "optional": True},
}
SPLIT_SETTINGS = [
    {"by": "query_time", "valid": 0.2, "test": 0.2},
    {"by": "global_time", "valid": 0.2, "test": 0.2},
    {"by": "leave_last_out"},
]


def frames(seed=1, rows=400, users=24, requests=300):
    """A log, and requests of its users and of users without interactions."""
    log = random_log(seed, rows=rows, users=users, items=30, moments=60)
    user, item, time = zip(*log, strict=True)
    rng = np.random.default_rng(seed)
    asked = [f"u{k}" for k in rng.integers(users + 6, size=requests)]
    names = sorted({*user, *asked})
    return {
        "interactions": pd.DataFrame(
            {
                "user_id": user,
                "item_id": item,
                "timestamp": time,
                "device": [("phone", "desk")[k % 2] for k in time],
            }
        ),
        "queries": pd.DataFrame(
            {"user_id": names, "age": [20.0 + k for k in range(len(names))]}
        ),
        "unlabelled": pd.DataFrame(
            {
                "user_id": asked,
                "timestamp": rng.integers(-3, 64, requests),
                "device": [("desk", "watch")[k % 2] for k in range(requests)],
            }
        ),
    }


def lists_of(prepared):
    return rows_of(prepared, "unlabelled")


def parts_of(prepared, log):
    """The part of each row of the log, from the lists of all parts."""
    part = {}
    for split in SPLITS:
        for first, row in rows_of(prepared, split).items():
            part[log["user_id"][first], log["timestamp"][first]] = split
            assert row["query_id"] == log["user_id"][first]
    return part


@pytest.mark.parametrize("split", SPLIT_SETTINGS, ids=lambda each: each["by"])
def test_requests_of_the_training_part_become_lists_as_a_plain_loop_makes_them(
    split, tmp_path, monkeypatch
):
    monkeypatch.setattr(interaction_sort, "PARTITION_ROWS", 60)
    tables = frames()
    prepared, record = run(
        read_frames(tables),
        tmp_path / "p",
        query=QUERY,
        split=split,
        lists={"seen": "include"},
    )
    log, requests = tables["interactions"], tables["unlabelled"]
    part = parts_of(prepared, log)
    training = {key for key, name in part.items() if name == "train"}
    latest = max(time for _, time in training)
    items = prepared.items["item_id"].to_pylist()
    found, wanted = lists_of(prepared), set()
    for number, (user, time, device) in enumerate(requests.itertuples(index=False)):
        own = log[log["user_id"] == user].sort_values("timestamp", kind="stable")
        last = max((t for u, t in training if u == user), default=-np.inf)
        if split["by"] == "global_time" or own.empty:
            last = latest
        if time > last or (own["timestamp"] == time).any():
            continue
        wanted.add(-1 - number)
        row = found[-1 - number]
        past = own[own["timestamp"] < time]["item_id"].tolist()
        assert [items[k] for k in row["seen"]] == list(dict.fromkeys(past))
        vocabulary = ["", "?", *prepared.schema.items.values.to_pylist()]
        history = [vocabulary[k] for k in row["query.history"] if k]
        assert history == past[::-1][:LENGTH]
        assert row["query_id"] == user
        assert (row["candidates"], row["relevance"]) == ([], [])
        assert row["list_weight"] == 1.0
        # The device "watch" is unknown in training.
        assert (row["query.device"] == 1) == (device == "watch")
        assert (row["query.user_id"] == 1) == own.empty
        assert (row["query_row"] == -1) == own.empty
    assert found.keys() == wanted
    assert record["unlabelled"] == len(wanted) > 50
    assert any(row["query_row"] == -1 for row in found.values())
    # Numbers come from the row of the table `queries`.
    ages = tables["queries"].set_index("user_id")["age"]
    age = [(ages[row["query_id"]], row["query.age"]) for row in found.values()]
    given, looked_up = np.array(age, dtype=object).T
    order = np.argsort(given.astype(float), kind="stable")
    assert np.all(np.diff([value[0] for value in looked_up[order]]) >= 0)


def test_unlabelled_requests_change_nothing_else(tmp_path):
    tables = frames()
    with_requests, record = run(read_frames(tables), tmp_path / "with", query=QUERY)
    del tables["unlabelled"]
    without, other = run(read_frames(tables), tmp_path / "without", query=QUERY)
    for key in ("unlabelled", "unlabelled_without_history", "requests"):
        assert record.pop(key) > 50 > other.pop(key) == 0
    for key in ("fingerprint", "source"):
        assert record.pop(key) != other.pop(key)
    assert record == other
    assert not without.shards("unlabelled")
    for split in SPLITS:
        assert rows_of(with_requests, split) == rows_of(without, split)
    assert with_requests.training_queries.tolist() == without.training_queries.tolist()


def test_requests_have_raw_values_for_a_teacher_that_reads_them(tmp_path):
    teacher = {"kind": "callable", "function": "some.module:score"}
    prepared, _ = run(
        read_frames(frames()), tmp_path / "p", query=QUERY, teacher=teacher
    )
    for row in lists_of(prepared).values():
        assert row["raw.device"] in ("desk", "watch")
        assert len(row["raw.history"]) == sum(k != 0 for k in row["query.history"])


def test_no_request_in_the_training_part_gives_no_list(tmp_path):
    tables = frames()
    tables["unlabelled"]["timestamp"] += 1_000
    prepared, record = run(read_frames(tables), tmp_path / "late", query=QUERY)
    assert (record["unlabelled"], prepared.shards("unlabelled")) == (0, [])
    assert record["requests"] == 300
    tables["unlabelled"] = tables["unlabelled"].iloc[:0]
    prepared, record = run(read_frames(tables), tmp_path / "empty", query=QUERY)
    assert (record["unlabelled"], prepared.shards("unlabelled")) == (0, [])


def test_a_query_without_interactions_may_fall_into_an_empty_partition(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(interaction_sort, "PARTITION_ROWS", 10)
    tables = frames(users=2, rows=90)
    requests = pd.DataFrame(
        {"user_id": [f"new{k}" for k in range(40)], "timestamp": 5, "device": "desk"}
    )
    tables |= {"unlabelled": requests}
    del tables["queries"]
    query = {name: spec for name, spec in QUERY.items() if name != "age"}
    prepared, record = run(read_frames(tables), tmp_path / "p", query=query)
    assert record["unlabelled"] == 40
    found = [row["query_id"] for row in lists_of(prepared).values()]
    assert sorted(found) == sorted(requests["user_id"])


def test_the_table_needs_the_columns_of_the_query_features(tmp_path):
    tables = frames()
    tables["unlabelled"] = tables["unlabelled"].drop(columns="device")
    with pytest.raises(DataError, match="Table `unlabelled` has no column 'device'"):
        run(read_frames(tables), tmp_path / "p", query=QUERY)
    tables["unlabelled"] = tables["unlabelled"].drop(columns="timestamp")
    with pytest.raises(DataError, match="Table `unlabelled` has no column 'timestamp'"):
        read_frames(tables)


def test_a_history_must_be_a_list(tmp_path):
    tables = frames()
    tables["unlabelled"] = tables["unlabelled"].assign(history="i1|i2")
    with pytest.raises(DataError, match=r"must be lists of item ids.*string"):
        run(read_frames(tables), tmp_path / "p", query=QUERY)


def test_a_bad_value_of_a_request_is_named_with_its_row():
    tables = frames()
    tables["unlabelled"]["user_id"] = tables["unlabelled"]["user_id"].mask(
        tables["unlabelled"].index == 7
    )
    with pytest.raises(DataError, match=r"Table `unlabelled`.*user_id.*row 8"):
        read_frames(tables)


def test_a_column_of_the_history_is_the_history_of_its_request(tmp_path):
    tables = frames()
    past = [["i3", "i1", "never", "i7", "i3"], [], ["i9"]]
    requests = tables["unlabelled"].iloc[:60]
    requests = requests.assign(history=[past[k % 3] for k in range(60)])
    tables["unlabelled"] = requests
    prepared, record = run(read_frames(tables), tmp_path / "p", query=QUERY)
    items = prepared.items["item_id"].to_pylist()
    vocabulary = ["", "?", *prepared.schema.items.values.to_pylist()]
    # Also at the time of an interaction: the history says what came before.
    assert record["unlabelled"] == len(lists_of(prepared)) > 40
    for name, row in lists_of(prepared).items():
        given = [item for item in past[(-1 - name) % 3] if item != "never"]
        assert [items[k] for k in row["seen"]] == given
        history = [vocabulary[k] for k in row["query.history"] if k]
        assert history == given[::-1][:LENGTH]
        assert row["query_id"] == requests["user_id"].iloc[-1 - name]
        assert (row["query.device"] == 1) == (
            requests["device"].iloc[-1 - name] == "watch"
        )


def impressions(drawn=False):
    """Lists, a third of them without a click; some users never click."""
    rng = np.random.default_rng(4)
    rows = []
    for user in range(20):
        for moment in range(9):
            clicks = rng.random(4) < (0.0 if user >= 16 or moment % 3 == 1 else 0.7)
            for item, click in zip(rng.permutation(20), clicks, strict=False):
                rows.append(
                    (f"{user}-{moment}", f"u{user}", f"i{item}", moment, int(click))
                )
    names = ("list_id", "user_id", "item_id", "timestamp", "relevance")
    table = pd.DataFrame(rows, columns=names)
    return table.drop(columns="timestamp") if drawn else table


def test_lists_without_a_relevant_row_are_unlabelled_with_what_they_showed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(interaction_sort, "PARTITION_ROWS", 40)
    table = impressions()
    query = small_pipelines.HISTORY
    prepared, record = run(
        read_frames({"lists": table}),
        tmp_path / "p",
        query=query,
        lists={"seen": "include"},
    )
    items = prepared.items["item_id"].to_pylist()
    clicked = table[table["relevance"] > 0]
    training = [row["source_list"] for row in rows_of(prepared, "train").values()]
    last = clicked[clicked["list_id"].isin(training)].groupby("user_id")
    last = last["timestamp"].max()
    wanted = set()
    for name, rows in table.groupby("list_id"):
        user, time = rows["user_id"].iloc[0], rows["timestamp"].iloc[0]
        if not rows["relevance"].any() and time <= last.get(user, last.max()):
            wanted.add(name)
    found = {row["source_list"]: row for row in lists_of(prepared).values()}
    assert found.keys() == wanted
    assert record["unlabelled"] == len(wanted) > 20
    assert {"u17"} <= {row["query_id"] for row in found.values()}
    for name, row in found.items():
        shown = table[table["list_id"] == name]
        past = clicked[
            (clicked["user_id"] == row["query_id"])
            & (clicked["timestamp"] < shown["timestamp"].iloc[0])
        ]
        assert {items[k] for k in row["seen"]} == set(past["item_id"])
        assert {items[k] for k in row["not_chosen"]} == set(shown["item_id"])


def test_seen_items_of_an_unlabelled_list_are_not_its_candidates(tmp_path):
    data = read_frames({"lists": impressions()})
    prepared, _ = run(data, tmp_path / "p", lists={"seen": "exclude"})
    found = [
        (set(row["seen"]), set(row["not_chosen"]))
        for row in lists_of(prepared).values()
    ]
    assert any(seen for seen, _ in found)
    assert not any(seen & shown for seen, shown in found)


def test_listwise_data_without_times_has_unlabelled_lists_of_the_training_part(
    tmp_path,
):
    data = read_frames({"lists": impressions(drawn=True)}, {"time": None})
    split = {"by": "leave_random_out"}
    prepared, record = run(data, tmp_path / "p", split=split, lists={"seen": "include"})
    found = lists_of(prepared).values()
    assert 0 < record["unlabelled"] == len(found) < 16 * 3 + 4 * 9
    own = [row for row in found if row["query_row"] >= 0]
    assert any(row["seen"] for row in own)
    assert not any(row["seen"] for row in found if row["query_row"] < 0)


def test_a_table_of_requests_beside_lists_is_refused():
    with pytest.raises(DataError, match="must not have the key unlabelled"):
        read_frames({"lists": impressions(), "unlabelled": frames()["unlabelled"]})


def test_the_latest_requests_of_each_query_are_kept(tmp_path, monkeypatch):
    tables = frames()
    _, every = run(read_frames(tables), tmp_path / "all", query=QUERY)
    lists = {"per_query": 2}
    monkeypatch.setattr(unlabelled_rows, "PIECE", 7)
    prepared, record = run(
        read_frames(tables), tmp_path / "p", query=QUERY, lists=lists
    )
    assert record["unlabelled"] < every["unlabelled"]
    found = pd.DataFrame(
        [(row["query_id"], -1 - name) for name, row in lists_of(prepared).items()],
        columns=["user", "row"],
    )
    found["time"] = tables["unlabelled"]["timestamp"].to_numpy()[found["row"]]
    whole, _ = run(read_frames(tables), tmp_path / "again", query=QUERY)
    used = pd.DataFrame(
        [(row["query_id"], -1 - name) for name, row in lists_of(whole).items()],
        columns=["user", "row"],
    )
    used["time"] = tables["unlabelled"]["timestamp"].to_numpy()[used["row"]]
    for user, own in used.groupby("user"):
        latest = sorted(own["time"])[-2:]
        assert sorted(found[found["user"] == user]["time"]) == latest


def test_pieces_of_a_partition_give_the_same_lists(tmp_path, monkeypatch):
    tables = frames()
    tables["unlabelled"]["history"] = [["i1", "i2"], [], ["i3"]] * 100
    whole, _ = run(read_frames(tables), tmp_path / "whole", query=QUERY)
    monkeypatch.setattr(unlabelled_rows, "PIECE", 7)
    pieces, _ = run(read_frames(tables), tmp_path / "pieces", query=QUERY)
    assert lists_of(pieces) == lists_of(whole)
    assert len(pieces.shards("unlabelled")) > len(whole.shards("unlabelled"))


def test_unlabelled_lists_have_the_mean_weight_of_the_training_rows(tmp_path):
    tables = frames()
    weights = np.random.default_rng(1).uniform(50, 150, len(tables["interactions"]))
    tables["interactions"]["w"] = weights.astype("float32")
    data = read_frames(tables, {"weight": "w"})
    split = {"by": "global_time", "valid": 0.2, "test": 0.2}
    prepared, _ = run(data, tmp_path / "p", query=QUERY, split=split)
    found = {row["list_weight"] for row in lists_of(prepared).values()}
    last = max(
        tables["interactions"]["timestamp"][first]
        for first in rows_of(prepared, "train")
    )
    mean = weights[tables["interactions"]["timestamp"] <= last].mean()
    assert [*found] == [pytest.approx(mean, rel=1e-5)]


def test_requests_of_queries_without_a_needed_row_are_left_out(tmp_path):
    tables = frames()
    required = {**QUERY, "age": {"kind": "number"}}
    known = set(tables["interactions"]["user_id"])
    queries = tables["queries"]
    tables["queries"] = queries[queries["user_id"].isin(known)]
    prepared, record = run(read_frames(tables), tmp_path / "p", query=required)
    found = {row["query_id"] for row in lists_of(prepared).values()}
    assert found <= known
    assert record["unlabelled_without_row"] > 0 < record["unlabelled_without_history"]


def test_times_of_another_unit_are_an_error(tmp_path):
    tables = frames()
    tables["interactions"]["timestamp"] += 1_700_000_000
    tables["unlabelled"]["timestamp"] += 1_700_000_000
    _, record = run(read_frames(tables), tmp_path / "same", query=QUERY)
    assert record["unlabelled"] > 50
    log = tables["interactions"]
    log["timestamp"] = pd.to_datetime(log["timestamp"], unit="s", utc=True)
    with pytest.raises(DataError, match=r"microseconds\. Received: seconds"):
        run(read_frames(tables), tmp_path / "p", query=QUERY)


def test_without_times_a_history_could_hold_the_answer(tmp_path):
    tables = frames()
    tables["unlabelled"]["history"] = [["i1"]] * 300
    for name in ("interactions", "unlabelled"):
        tables[name] = tables[name].drop(columns="timestamp")
    split = {"by": "leave_random_out"}
    data = read_frames(tables, {"time": None})
    with pytest.raises(DataError, match="must not have the column `history`"):
        run(data, tmp_path / "p", query=QUERY, split=split)
    tables["unlabelled"] = tables["unlabelled"].drop(columns="history")
    data = read_frames(tables, {"time": None})
    _, record = run(data, tmp_path / "q", query=QUERY, split=split)
    assert 50 < record["unlabelled"] < 300
