"""Which tables of a folder have the interactions, the items and the queries."""

import gzip

import pytest

from recdistill.data.table_files import table_name
from recdistill.errors import ConfigError, DataError
from recdistill.pipeline.config import parse_config
from recdistill.pipeline.preparation.dataset_loading import (
    load_dataset,
    reading_options,
)
from tests.pipeline.proposal import layouts
from tests.pipeline.proposal.proposals import document, log, proposed
from tests.small_pipelines import quiet

ITEMS = ["item_id,shelf", *(f"{i},{'ab'[i % 2]}" for i in range(layouts.ITEMS))]


def opened(folder, **answers):
    """The proposed document, and the data set that it reads."""
    found = document(folder, **answers)
    config = parse_config({"name": "run", **found})
    return found, load_dataset(config.dataset, quiet, options=reading_options(config))


def test_ids_that_are_written_with_leading_zeros_in_one_table_become_integers(tmp_path):
    layouts.write(tmp_path / "interactions.csv", log())
    items = [f"{i:05d},{'ab'[i % 2]}" for i in range(layouts.ITEMS)]
    layouts.write(tmp_path / "items.csv", ["item_id,shelf", *items])
    found = document(tmp_path)
    integer = {"types": {"item_id": "integer"}}
    assert (found["dataset"]["interactions"], found["dataset"]["items"]) == (
        integer,
        integer,
    )
    assert found["candidate"]["shelf"] == {"kind": "category"}


@pytest.mark.parametrize(("known", "keys"), [(15, {}), (14, {"optional": True})])
def test_features_are_optional_only_if_an_id_has_no_row(tmp_path, known, keys):
    lines = ["user_id,item_id,timestamp"]
    lines += [f"{u}.0,{i},{t}" for u, i, t in layouts.rows()]
    layouts.write(tmp_path / "interactions.csv", lines)
    layouts.write(tmp_path / "items.csv", ITEMS)
    users = ["user_id,plan", *(f"{u},{'ab'[u % 2]}" for u in range(known))]
    layouts.write(tmp_path / "queries.csv", users)
    found = document(tmp_path)
    assert found["dataset"]["queries"] == {"types": {"user_id": "integer"}}
    assert found["candidate"]["shelf"] == {"kind": "category"}
    assert found["query"]["plan"] == {"kind": "category", **keys}


def test_files_of_the_parts_of_a_benchmark_are_one_table(tmp_path):
    header, *lines = log()
    for number, part in enumerate(("train", "valid", "test")):
        layouts.write(tmp_path / "x" / f"{part}.csv", [header, *lines[number::3]])
    found = document(tmp_path / "x")
    assert found["dataset"]["interactions"] == {"file": "x"}


def test_a_second_table_of_items_is_to_be_joined(tmp_path):
    layouts.write(tmp_path / "interactions.csv", log())
    ids = range(layouts.ITEMS)
    layouts.write(tmp_path / "items.csv", ["item_id,a", *(f"{i},{i % 2}" for i in ids)])
    layouts.write(tmp_path / "prices.csv", ["item_id,b", *(f"{i},{i}.5" for i in ids)])
    [note] = [n for n in proposed(tmp_path).notes if n.startswith("prices.csv")]
    assert note == (
        "prices.csv is not used, because items.csv is the table of items already; join "
        "the two by `item_id` to use its features."
    )


def test_requests_without_a_choice_are_no_table_of_interactions(tmp_path):
    layouts.write(tmp_path / "interactions.csv", log())
    before = document(tmp_path)
    layouts.write(tmp_path / "unlabelled.csv", log())
    assert document(tmp_path) == before
    [note] = [n for n in proposed(tmp_path).notes if n.startswith("unlabelled.csv")]
    assert "requests without a choice" in note


def test_ids_that_never_match_because_of_spaces_are_an_error(tmp_path):
    layouts.write(tmp_path / "interactions.csv", log())
    users = ["user_id,plan", *(f"u{u} ,{'ab'[u % 2]}" for u in range(layouts.USERS))]
    layouts.write(tmp_path / "queries.csv", users)
    said = (
        "has no column `user_id` with ids of interactions.csv; some would match "
        "without spaces at their ends and in one Unicode form."
    )
    with pytest.raises(DataError, match=f"queries.csv {said}"):
        proposed(tmp_path)


def test_ids_that_hardly_match_are_noted(tmp_path):
    layouts.write(tmp_path / "interactions.csv", log(values=lambda k, u, i: ""))
    lines = ["user_id,item_id,timestamp"]
    lines += [f"{u},I{i}x,{t}" for u, i, t in layouts.rows()]
    layouts.write(tmp_path / "interactions.csv", lines)
    ids = ["I0x", *(f"i{i}X" for i in range(1, layouts.ITEMS))]
    items = [f"{name},{'ab'[k % 2]}" for k, name in enumerate(ids)]
    layouts.write(tmp_path / "items.csv", ["item_id,shelf", *items])
    [note] = proposed(tmp_path).notes
    assert note == (
        "Only 10% of the ids `item_id` of interactions.csv have a row in items.csv, "
        "but many would if upper and lower case were the same. The others have no "
        "features."
    )


@pytest.mark.parametrize(
    ("two", "shown"),
    [
        (["u3", "u3 "], "'u3' and 'u3 '"),
        (["caf\u00e9", "cafe\u0301"], r"'caf\xe9' and 'cafe\u0301'"),
        (["u3", "U3"], None),
    ],
)
@pytest.mark.parametrize("table", ["interactions", "queries"])
def test_ids_that_differ_only_by_spaces_or_unicode_form_are_noted(
    tmp_path, two, shown, table
):
    lines = ["user_id,item_id,timestamp"]
    for user, item, time in layouts.rows():
        spelling = two[user % 3 == 0 and table == "interactions"]
        lines.append(f"{spelling if user < 6 else user},{item},{time}")
    layouts.write(tmp_path / "interactions.csv", lines)
    users = [two[1], *range(6, layouts.USERS)]
    if table == "queries":
        users = ["user_id,plan", *(f"{u},{'ab'[k % 2]}" for k, u in enumerate(users))]
        layouts.write(tmp_path / "queries.csv", users)
    assert proposed(tmp_path).notes == (
        [
            "1 of 11 ids of `user_id` differs from another one only by spaces at the "
            f"ends or by the Unicode form, such as {shown}. They are different ids "
            "until they are written in the same way."
        ]
        if shown
        else []
    )


def test_tables_with_one_of_the_ids_each_are_to_be_joined(tmp_path):
    orders = [f"o{k},u{u},{t}" for k, (u, _, t) in enumerate(layouts.rows())]
    baskets = [f"o{k},{i}" for k, (_, i, _) in enumerate(layouts.rows())]
    layouts.write(tmp_path / "orders.csv", ["order_id,user_id,timestamp", *orders])
    layouts.write(tmp_path / "baskets.csv", ["order_id,product_id", *baskets])
    [question] = proposed(tmp_path).questions
    assert question.text.endswith(
        "both have `order_id`: join them to one table with both ids first."
    )
    assert "baskets.csv has the id of the item, orders.csv that of the query" in (
        question.text
    )


def test_columns_that_the_user_names_choose_the_table(tmp_path):
    lines = log()
    lines[0] = "buyer,thing,timestamp"
    layouts.write(tmp_path / "sales.csv", lines)
    layouts.write(tmp_path / "a.csv", ["thing,title", *(f"{i},t{i}" for i in range(9))])
    named = {"query": "buyer", "item": "thing"}
    roles = proposed(tmp_path, columns=named).known()
    assert roles.table.name == "sales.csv"
    assert {role: roles.columns[role] for role in named} == named
    with pytest.raises(ConfigError, match=r"(?s)query=who.*a\.csv.*query=who.*sales"):
        proposed(tmp_path, columns={"query": "who", "item": "thing"})


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["id,a", *(f"{i},x{i % 2}" for i in range(10))], "calls its ids `id`, which"),
        (
            ["item_id,a", "1,x", "2,x", "1,y"],
            "has several rows for the same `item_id`: '1' is in rows 1, 3; keep one "
            "row for each id.",
        ),
        (["item_id,a", "z1,x", "z2,y"], "has no column `item_id` with ids of"),
        (
            ["item_id,a", "z1,x", ",y"],
            "has 1 row without an id in `item_id`, row 2; remove it or add the id.",
        ),
        (
            ["item_id,a", "1,x", ",y", " ,y"],
            "has 2 rows without an id in `item_id`, the first of them row 2; remove "
            "them or add the id.",
        ),
        (
            ["item_id ,a", "1,x", "2,y"],
            "has no column `item_id` with ids of interactions.csv: its column "
            "`item_id ` has another name, because of spaces at the ends of the names",
        ),
    ],
)
def test_a_table_of_items_that_does_not_fit_is_an_error(items, said, tmp_path):
    layouts.write(tmp_path / "interactions.csv", log())
    layouts.write(tmp_path / "items.csv", items)
    with pytest.raises(DataError, match=rf"^{tmp_path}/items.csv {said}"):
        proposed(tmp_path)


@pytest.mark.parametrize(
    "names", [("train", "test"), ("clicks_2024-01", "clicks_2024-02")]
)
def test_log_files_beside_the_items_are_to_be_put_into_one_folder(tmp_path, names):
    header, *lines = log()
    folder = tmp_path / "x"
    layouts.write(folder / "items.csv", ITEMS)
    # Each user once: the second file could pass for a table of queries.
    once = {line.partition(",")[0]: line for line in lines}
    layouts.write(folder / f"{names[0]}.csv", [header, *lines])
    layouts.write(folder / f"{names[1]}.csv", [header, *once.values()])
    proposal = proposed(folder)
    used = {name: table.name for name, table in proposal.tables.items()}
    assert used == {"interactions": f"{names[0]}.csv", "items": "items.csv"}
    said = (
        "Files with the same columns are one table only if they are in one folder: put "
        "them into one, such as `interactions`, which `dataset.interactions.file` "
        "names, and run `recdistill init` again."
    )
    assert proposal.notes == [
        f"{names[1]}.csv: not used, but with the same columns as {names[0]}.csv. {said}"
    ]
    questions = proposed(folder, defaults=False).questions
    assert [said in each.text for each in questions] == [True] * (names[0] != "train")
    # As the note says.
    (folder / "interactions").mkdir()
    for name in names:
        (folder / f"{name}.csv").rename(folder / "interactions" / f"{name}.csv")
    found, dataset = opened(folder)
    assert proposed(folder).notes == []
    assert "interactions" not in found["dataset"]
    read = sum(batch.num_rows for batch in dataset.interactions())
    assert read == len(lines) + len(once)


@pytest.mark.parametrize("zero", [".0", ""])
def test_ids_of_a_large_table_are_compared_with_those_of_the_log(
    tmp_path, monkeypatch, zero
):
    monkeypatch.setattr("recdistill.data.table_sample.SAMPLE_BYTES", 8_000)
    lines = ["user_id,item_id,timestamp"]
    lines += [f"{u},{i}{zero},{t}" for u, i, t in layouts.rows()]
    layouts.write(tmp_path / "interactions.csv", lines)
    items = [f"{i},{'ab'[i % 2]},{'x' * 1_000}" for i in range(layouts.ITEMS)]
    layouts.write(tmp_path / "items.csv", ["item_id,shelf,filler", *items])
    proposal = proposed(tmp_path)
    assert not proposal.tables["items"].sample.complete
    assert proposal.notes == []
    integer = {"item_id": "integer"}
    assert proposal.types == (
        {t: integer for t in ("items", "interactions")} if zero else {}
    )
    _, dataset = opened(tmp_path)
    read = {i for b in dataset.interactions() for i in b["item_id"].to_pylist()}
    assert read == {*dataset.items["item_id"].to_pylist()}


def test_a_large_table_without_a_known_id_is_noted(tmp_path, monkeypatch):
    monkeypatch.setattr("recdistill.data.table_sample.SAMPLE_BYTES", 8_000)
    layouts.write(tmp_path / "interactions.csv", log())
    items = [f"sku{i},{'ab'[i % 2]},{'x' * 1_000}" for i in range(layouts.ITEMS)]
    layouts.write(tmp_path / "items.csv", ["item_id,shelf,filler", *items])
    assert proposed(tmp_path).notes == [
        "None of the ids `item_id` of interactions.csv is in the sample of items.csv. "
        "Check that both write them in the same way, such as 0 and sku0."
    ]


def test_a_table_that_the_reader_finds_cannot_be_left_out(tmp_path):
    layouts.write(tmp_path / "interactions.csv", log())
    layouts.write(tmp_path / "items.csv", ITEMS)
    with pytest.raises(ConfigError, match=r"`--table items=` .* Move items\.csv to an"):
        proposed(tmp_path, tables={"items": ""})
    (tmp_path / "items.csv").rename(tmp_path / "products.csv")
    found, dataset = opened(tmp_path, tables={"items": ""})
    assert "items" not in found["dataset"]
    assert dataset.items is None


@pytest.mark.parametrize(
    ("interactions", "items"),
    [
        ("interactions.2024.csv", "items.2024.csv"),
        ("interactions.csv.gz", "items.csv"),
        ("interactions.csv", "items.csv.d"),
    ],
)
def test_the_file_is_named_if_the_reader_does_not_find_it(
    tmp_path, interactions, items
):
    layouts.write(tmp_path / "log.csv", log())
    (tmp_path / "log.csv").rename(tmp_path / interactions)
    if interactions.endswith(".gz"):
        packed = gzip.compress((tmp_path / interactions).read_bytes())
        (tmp_path / interactions).write_bytes(packed)
    part = "part-0.csv" if items.endswith(".d") else ""
    layouts.write(tmp_path / items / part, ITEMS)
    found, dataset = opened(tmp_path)
    assert sum(batch.num_rows for batch in dataset.interactions()) == 90
    assert dataset.items.num_rows == layouts.ITEMS
    for key, name in (("interactions", interactions), ("items", items)):
        usual = table_name(tmp_path / name) == key
        assert found["dataset"].get(key) == (None if usual else {"file": name})


def test_archives_and_spreadsheets_are_to_be_unpacked_or_saved(tmp_path):
    layouts.write(tmp_path / "items.csv", ITEMS)
    (tmp_path / "interactions.csv.zip").touch()
    [question, *_] = proposed(tmp_path).questions
    said = "interactions.csv.zip is a .zip file, which cannot be read; unpack it."
    assert question.text.endswith(f"Other files cannot be used. {tmp_path / said}")
    # As the message says.
    layouts.write(tmp_path / "interactions.csv", log())
    assert proposed(tmp_path).notes == []
    place = tmp_path / "queries.xlsx"
    place.touch()
    assert proposed(tmp_path).notes == [
        f"queries.xlsx is not used: {place} is a .xlsx file, which cannot be read; "
        "save it as CSV or Parquet."
    ]


def test_a_folder_with_an_archive_only_has_no_table(tmp_path):
    (tmp_path / "data.zip").touch()
    with pytest.raises(DataError, match=r"data\.zip is a \.zip file, .*; unpack it\."):
        proposed(tmp_path)
