"""Roles of columns: ids that are missing, however the data writes that."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.errors import ConfigError
from recdistill.pipeline.config import parse_config
from recdistill.pipeline.preparation.dataset_loading import (
    load_dataset,
    reading_options,
)
from tests.pipeline.proposal import layouts
from tests.pipeline.proposal.proposals import document, log, proposed
from tests.small_pipelines import quiet


def test_rows_without_ids_or_times_are_left_out_by_a_condition(tmp_path):
    lines = log()
    lines[4] = lines[4].replace("u0", "", 1)
    lines[7] = "u1,,1700000000"
    layouts.write(tmp_path / "interactions.csv", lines)
    found = document(tmp_path)
    assert found["dataset"]["keep"] == "user_id != '' and item_id != ''"


def test_a_column_whose_name_ends_another_one_has_its_own_condition(tmp_path):
    lines = ["candidate,user,date", *(f"{i},{u},{t}" for u, i, t in layouts.rows())]
    lines[4] = "," + lines[4].split(",", 1)[1]
    lines[7] = lines[7].rsplit(",", 1)[0] + ","
    layouts.write(tmp_path / "interactions.csv", lines)
    found = document(tmp_path, columns={"item": "candidate"})
    assert found["dataset"]["keep"] == "candidate != '' and date != ''"


def without_users(words, ids):
    """A log in which each third user is missing, written with these words in turn."""
    lines = ["user_id,item_id,timestamp"]
    for k, (user, item, time) in enumerate(layouts.rows()):
        shown = words[k // 3 % len(words)] if k % 3 == 0 else f"{ids}{user}"
        lines.append(f"{shown},{item},{time}")
    return lines


@pytest.mark.parametrize(
    ("words", "ids", "keep"),
    [
        (["NULL"], "", "user_id != 'NULL'"),
        (
            ["NULL", "", "nan"],
            "",
            "user_id != '' and user_id != 'NULL' and user_id != 'nan'",
        ),
        (["NULL", r"\N"], "u", r"user_id != 'NULL' and user_id != '\N'"),
        ([r"\N"], "", r"user_id != '\N'"),
        (["  "], "u", "user_id != '  '"),
    ],
)
def test_a_missing_id_may_be_a_word(tmp_path, words, ids, keep):
    layouts.write(tmp_path / "interactions.csv", without_users(words, ids))
    found = document(tmp_path)
    assert found["dataset"]["keep"] == keep
    config = parse_config({"name": "run", **found})
    dataset = load_dataset(config.dataset, quiet, options=reading_options(config))
    read = [u for b in dataset.interactions() for u in b["user_id"].to_pylist()]
    assert len(read) == 60
    assert {*read} == {f"{ids}{user}" for user in range(layouts.USERS)}


def test_words_that_are_taken_for_missing_ids_are_shown(tmp_path):
    lines = without_users(["NULL", r"\N"], "u")
    layouts.write(tmp_path / "interactions.csv", lines)
    roles = proposed(tmp_path).known()
    assert roles.profile("query").distinct == layouts.USERS
    assert roles.reasons["user_id"] == (
        r"named like a query id; 4 rows for each value; 33.3% of the rows have none "
        r"(NULL, \N) and are left out"
    )
    said = proposed(tmp_path, columns={"query": "user_id"}).known()
    assert said.keep == roles.keep


@pytest.mark.parametrize("keep", ["item_id != '3'", ""])
def test_rows_without_ids_are_left_out_of_the_rows_that_the_user_chooses(
    tmp_path, keep
):
    layouts.write(tmp_path / "interactions.csv", without_users(["NULL"], "u"))
    found = document(tmp_path, keep=keep)
    joined = " and ".join([*([keep] if keep else []), "user_id != 'NULL'"])
    assert found["dataset"]["keep"] == joined


def test_a_missing_date_may_be_a_word(tmp_path):
    lines = ["user_id,item_id,date"]
    lines += [f"u{u},{i},2024-05-{1 + t % 28:02d}" for u, i, t in layouts.rows()]
    lines[4] = lines[4].rsplit(",", 1)[0] + ",NULL"
    layouts.write(tmp_path / "interactions.csv", lines)
    found = document(tmp_path)
    assert found["dataset"]["keep"] == "date != 'NULL'"
    assert found["dataset"]["columns"]["time"] == "date"


@pytest.mark.parametrize("user", ["customer", "Member", "UserName", "user_key"])
@pytest.mark.parametrize("other", ["device_id", "SessionId", "search_key"])
def test_a_user_is_the_query_and_not_a_session_or_a_device(tmp_path, user, other):
    lines = [f"{other},{user},item_id,timestamp"]
    lines += [f"d{k // 2},u{u},i{i},{t}" for k, (u, i, t) in enumerate(layouts.rows())]
    layouts.write(tmp_path / "orders.csv", lines)
    assert proposed(tmp_path).known().columns["query"] == user


def test_a_log_of_searches_of_users_has_their_histories(tmp_path):
    lines = ["SearchId,Visitor,Query,Product,ShownAt,Clicked"]
    for k, (user, item, time) in enumerate(layouts.rows()):
        lines += [
            f"s{k},v{user},old lamp {item},p{(item + place) % 10},{time},{place % 2}"
            for place in range(3)
        ]
    layouts.write(tmp_path / "log.csv", lines)
    proposal = proposed(tmp_path)
    columns = proposal.known().columns
    assert (columns["query"], columns["list"]) == ("Visitor", "SearchId")
    assert proposal.history
    lines = [line.replace(line.split(",")[1] + ",", "", 1) for line in lines]
    layouts.write(tmp_path / "log.csv", lines)
    columns = proposed(tmp_path).known().columns
    assert (columns["query"], columns["list"]) == ("SearchId", "SearchId")


@pytest.mark.parametrize(
    "column",
    [
        ("customer", lambda user, item: "new" if user % 3 else "returning"),
        ("member", lambda user, item: user % 2),
        ("user", lambda user, item: f"Ann of House {user}"),
        ("author", lambda user, item: f"a{item}"),
        ("visitor", lambda user, item: "" if user < 9 else f"v{user + item}"),
    ],
    ids=lambda column: column[0],
)
def test_a_column_that_names_a_user_needs_ids_to_be_the_query(tmp_path, column):
    name, value = column
    lines = [f"{name},session_id,item_id,timestamp"]
    lines += [f"{value(u, i)},s{u},i{i},{t}" for u, i, t in layouts.rows()]
    layouts.write(tmp_path / "orders.csv", lines)
    assert proposed(tmp_path).known().columns["query"] == "session_id"


@pytest.mark.parametrize("name", ["device", "cookie", "SessionId", "search", "member"])
def test_a_handful_of_values_is_a_group_and_no_query(tmp_path, name):
    value = ("phone", "web", "tv")
    lines = [f"ear,{name},item_id,timestamp"]
    lines += [f"e{u},{value[u % 3]},i{i},{t}" for u, i, t in layouts.rows()]
    layouts.write(tmp_path / "plays.csv", lines)
    [question] = proposed(tmp_path).questions
    assert question.option == "--column query=NAME"
    assert question.text.endswith(
        f"`{name}` has the name of an id, but only 3 different values, as a group has."
    )
    assert proposed(tmp_path, columns={"query": "ear"}).questions == []
    assert proposed(tmp_path, columns={"query": name}).questions == []


def test_a_search_is_the_query_of_its_list_beside_a_device(tmp_path):
    lines = ["request,device,item_id,timestamp,clicked"]
    for k, (_, item, time) in enumerate(layouts.rows()):
        for place in range(3):
            shown = (item + place) % layouts.ITEMS
            row = f"r{k},{'ab'[k % 2]},i{shown},{time},{int(place == 0)}"
            lines.append(row)
    layouts.write(tmp_path / "log.csv", lines)
    columns = proposed(tmp_path, columns={"list": "request"}).known().columns
    assert (columns["query"], columns["list"]) == ("request", "request")


def test_large_numbers_are_shown_without_an_exponent(tmp_path):
    lines = ["user_id,item_id,timestamp"]
    lines += [f"u{k % 2},i{k % 9},{1_700_000_000 + k}" for k in range(4_000)]
    layouts.write(tmp_path / "interactions.csv", lines)
    items = ["item_id,price", *(f"i{k},{1_000_000 * k}" for k in range(9))]
    layouts.write(tmp_path / "items.csv", items)
    proposal = proposed(tmp_path)
    reasons = {use.profile.name: use.reason for use in proposal.uses}
    assert "; 2,000 rows for each value" in proposal.known().reasons["user_id"]
    assert reasons["price"] == "numbers from 0 to 8,000,000"


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_objects_that_may_hold_an_id_must_be_flattened(tmp_path, suffix):
    rows = [
        {"user": {"id": u}, "track": {"id": i}, "ts": t} for u, i, t in layouts.rows()
    ]
    if suffix == "jsonl":
        layouts.write(tmp_path / "plays.jsonl", [json.dumps(row) for row in rows])
        reason = f"{tmp_path}/plays.jsonl, line 1: 'user' must be text, a number, or"
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "plays.parquet")
        reason = "plays.parquet: 'user' has the type struct<id: int64>"
    question = proposed(tmp_path).questions[0]
    assert "Its columns, with examples, are: ts (" in question.text
    assert f"they cannot be read: `user`, `track`. {reason}" in question.text
    assert "Objects must be flattened first" in question.text
    with pytest.raises(ConfigError, match=r"that can be read.*'track'.*flattened"):
        proposed(tmp_path, columns={"item": "track"})


def shown_together(name):
    """Lists of three items in one row each, as in MIND."""
    lines = [f"user_id,timestamp,{name}"]
    for k, (user, item, time) in enumerate(layouts.rows()):
        shown = " ".join(f"N{(item + n * k) % 40}-{int(n == 0)}" for n in (0, 1, 3))
        lines.append(f"u{user},{time},{shown}")
    return lines


@pytest.mark.parametrize("name", ["impressions", "item_id"])
def test_several_items_in_a_row_are_no_item(tmp_path, name):
    layouts.write(tmp_path / "behaviors.csv", shown_together(name))
    [question] = proposed(tmp_path).questions
    assert question.option == "--column item=NAME"
    assert (
        f"`{name}`: several values in each row. If a column holds several items, write "
        "one row for each of them first." in question.text
    )
    with pytest.raises(ConfigError, match=r"one item in each row\. Received: values s"):
        proposed(tmp_path, columns={"item": name})


@pytest.mark.parametrize("value", ["shop/{:04d}", "shop/a/{}", "0{} 12 77"])
def test_one_id_may_have_several_parts(tmp_path, value):
    lines = ["user_id,item_id,timestamp"]
    lines += [f"u{u},{value.format(i)},{t}" for u, i, t in layouts.rows()]
    layouts.write(tmp_path / "interactions.csv", lines)
    assert document(tmp_path)["candidate"] == {"item_id": {"kind": "id"}}


def test_items_that_occur_once_are_noted(tmp_path):
    lines = ["user_id,item_id,timestamp"]
    lines += [f"u{u},i{k},{t}" for k, (u, _, t) in enumerate(layouts.rows())]
    layouts.write(tmp_path / "interactions.csv", lines)
    [note] = proposed(tmp_path).notes
    assert note.startswith("`item_id` has 90 different values in 90 rows of interact")
