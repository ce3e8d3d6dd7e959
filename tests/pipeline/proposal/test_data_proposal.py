"""Proposals for folders in many layouts, compared with what a person would write."""

import tomllib

import pytest

from recdistill.errors import ConfigError, DataError
from recdistill.pipeline.config import parse_config
from recdistill.pipeline.dataset_loading import load_dataset, reading_options
from recdistill.pipeline.feature_columns import FeatureColumns
from recdistill.pipeline.preparation import prepare
from recdistill.pipeline.proposal.data_proposal import propose
from recdistill.pipeline.proposal.proposed_config import check_config, config_text
from recdistill.pipeline.proposal.questions import Answers
from recdistill.pipeline.proposal.source_tables import open_source
from tests.pipeline.proposal import layouts
from tests.real_data import real_data
from tests.small_pipelines import quiet

HISTORY = {"history": {"kind": "history"}}
ID, CATEGORY = {"kind": "id"}, {"kind": "category"}
LINEAR = {"kind": "linear"}

EXPECTED = {
    layouts.shop: {
        "dataset": {
            "reader": "tables",
            "columns": {"query": "customer_id", "item": "sku", "time": "ordered_at"},
            "interactions": {"file": "orders.csv"},
            "items": {"file": "products.csv"},
        },
        "query": {
            **HISTORY,
            "age": {"kind": "number"},
            "zip": CATEGORY,
            "member": CATEGORY,
            "store": CATEGORY,
        },
        "candidate": {
            "sku": ID,
            "title": {"kind": "text"},
            "brand": {"kind": "category", "optional": True},
            "price": {"kind": "number"},
            "tags": {"kind": "categories", "separator": "|"},
        },
        "teacher": LINEAR,
    },
    layouts.ratings: {
        "dataset": {
            "reader": "tables",
            "columns": {"query": "userId", "item": "movieId"},
            "interactions": {"file": "ratings.csv"},
            "keep": "rating >= 4",
        },
        "query": HISTORY,
        "candidate": {"movieId": ID},
        "teacher": LINEAR,
    },
    layouts.without_header: {
        "dataset": {
            "reader": "tables",
            "interactions": {
                "file": "log.tsv",
                "columns": ["user_id", "item_id", "rating", "timestamp"],
            },
            "keep": "rating >= 4",
        },
        "query": HISTORY,
        "candidate": {"item_id": ID},
        "teacher": LINEAR,
    },
    layouts.impressions: {
        "dataset": {
            "reader": "listwise",
            "columns": {
                "list": "impression_id",
                "score": "score",
                "relevance": "clicked",
            },
        },
        "query": {**HISTORY, "device": CATEGORY},
        "candidate": {"item_id": ID},
        "teacher": {"kind": "scores"},
    },
    layouts.searches: {
        "dataset": {"reader": "tables", "columns": {"query": "search_id"}},
        "query": {"words": {"kind": "text"}},
        "candidate": {"item_id": ID},
        "split": {"by": "global_time"},
        "teacher": {"kind": "reference"},
    },
    layouts.daily: {
        "dataset": {
            "reader": "tables",
            "columns": {"time": "ts"},
            "interactions": {"file": "daily"},
        },
        "query": HISTORY,
        "candidate": {"item_id": ID},
        "teacher": LINEAR,
    },
    layouts.events: {
        "dataset": {
            "reader": "tables",
            "columns": {"query": "visitorid", "item": "itemid"},
            "interactions": {"file": "events.jsonl.gz"},
        },
        "query": HISTORY,
        "candidate": {"itemid": ID},
        "teacher": LINEAR,
    },
    layouts.without_times: {
        "dataset": {
            "reader": "tables",
            "columns": {"query": "listener", "item": "artist", "weight": "plays"},
            "interactions": {"file": "plays.csv"},
        },
        "query": HISTORY,
        "candidate": {"artist": ID},
        "split": {"by": "leave_random_out"},
        "teacher": LINEAR,
    },
    layouts.thumbs: {
        "dataset": {
            "reader": "tables",
            "columns": {"time": "step"},
            "keep": "thumb > 0",
        },
        "query": HISTORY,
        "candidate": {"item_id": ID},
        "teacher": LINEAR,
    },
    layouts.vectors: {
        "dataset": {"reader": "tables"},
        "query": HISTORY,
        "candidate": {
            "item_id": ID,
            "embedding": {"kind": "vector", "size": 4},
            "genres": {"kind": "categories"},
            "json_text": {"kind": "categories", "separator": ","},
        },
        "teacher": LINEAR,
    },
    layouts.recbole: {
        "dataset": {"reader": "recbole", "keep": "rating >= 4"},
        "query": HISTORY,
        "candidate": {"item_id": ID, "class": {"kind": "categories"}},
        "teacher": LINEAR,
    },
    layouts.movielens: {
        "dataset": {"reader": "movielens", "keep": "rating >= 4"},
        "query": {
            **HISTORY,
            "age": {"kind": "number"},
            "gender": CATEGORY,
            "occupation": CATEGORY,
        },
        "candidate": {
            "item_id": ID,
            "title": {"kind": "text"},
            "year": {"kind": "number"},
            "genres": {"kind": "categories"},
        },
        "teacher": LINEAR,
    },
}
PREPARED = (layouts.shop, layouts.impressions, layouts.searches, layouts.without_times)


def proposed(folder, **answers):
    return propose(open_source(folder), Answers(**{"defaults": True, **answers}))


def document(folder, **answers):
    """The proposed file as a document, without the path and the gate."""
    proposal = proposed(folder, **answers)
    assert proposal.questions == []
    text = config_text(proposal, "run", folder / "run.toml")
    check_config(proposal, text)
    found = tomllib.loads(text)
    assert found.pop("name") == "run"
    assert found.pop("distill") == {"gate": "warn"}
    return found


def left_out(proposal):
    """Reasons of the columns that are not used."""
    return {use.profile.name: use.reason for use in proposal.uses if not use.use}


@pytest.mark.parametrize("layout", EXPECTED, ids=lambda layout: layout.__name__)
def test_the_proposal_is_what_a_person_would_write(layout, tmp_path):
    folder = tmp_path / layout.__name__
    layout(folder)
    found = document(folder)
    expected = EXPECTED[layout]
    path = folder.parent if layout is layouts.daily else folder
    assert found["dataset"].pop("path") == str(path)
    assert found == expected
    # The order of the features is that of the columns.
    assert list(found["query"]) == list(expected["query"])
    assert list(found["candidate"]) == list(expected["candidate"])
    # The pipeline reads every row with it.
    config = parse_config(
        {"name": "run", **found, "dataset": found["dataset"] | {"path": str(path)}}
    )
    dataset = load_dataset(config.dataset, quiet, options=reading_options(config))
    assert sum(batch.num_rows for batch in dataset.interactions()) > 20
    FeatureColumns.find(dataset, config)
    if layout in PREPARED:
        (tmp_path / "prepared").mkdir()
        record = prepare(dataset, config, tmp_path / "prepared", quiet)
        assert record["lists"]["test"] >= 2


def test_columns_that_are_no_features_are_left_out_with_the_reason(tmp_path):
    layouts.shop(tmp_path)
    reasons = left_out(proposed(tmp_path))
    assert reasons == {
        "row": "numbers the rows: consecutive, each value once",
        "uuid": "identifies the row: every value is different",
        "country": "has one value: GB",
        "discount": "perhaps known only after the choice: add it to [query] if every "
        "request has it",
    }


def log(extra="", values=lambda k, u, i: ""):
    """Lines of interactions with more columns."""
    header = "user_id,item_id,timestamp" + extra
    rows = enumerate(layouts.rows())
    return [header, *(f"u{u},{i},{t}{values(k, u, i)}" for k, (u, i, t) in rows)]


def test_rows_without_ids_or_times_are_left_out_by_a_condition(tmp_path):
    lines = log()
    lines[4] = lines[4].replace("u0", "", 1)
    lines[7] = "u1,,1700000000"
    layouts.write(tmp_path / "interactions.csv", lines)
    found = document(tmp_path)
    assert found["dataset"]["keep"] == "user_id != '' and item_id != ''"


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
    assert found["candidate"]["shelf"] == {"kind": "category", "optional": True}


def test_files_of_the_parts_of_a_benchmark_are_one_table(tmp_path):
    header, *lines = log()
    for number, part in enumerate(("train", "valid", "test")):
        layouts.write(tmp_path / "x" / f"{part}.csv", [header, *lines[number::3]])
    found = document(tmp_path / "x")
    assert found["dataset"]["interactions"] == {"file": "x"}


def test_the_only_folder_inside_a_folder_is_the_data_folder(tmp_path):
    layouts.write(tmp_path / "raw" / "interactions.csv", log())
    layouts.write(tmp_path / "raw" / "items.csv", ["item_id,a", "0,x", "1,y", "2,x"])
    assert document(tmp_path)["dataset"]["path"] == str(tmp_path / "raw")


def test_graded_relevance_is_kept_as_relevance(tmp_path):
    layouts.write(tmp_path / "lists.csv", log(",label", lambda k, u, i: f",{k % 3}"))
    found = document(tmp_path)
    assert found["dataset"]["columns"] == {"relevance": "label"}
    assert found["dataset"]["interactions"] == {"file": "lists.csv"}


def test_the_outcome_of_an_interaction_is_no_feature_unless_the_user_says_so(tmp_path):
    lines = log(",seconds", lambda k, u, i: f",{(k * 37) % 101 / 2}")
    layouts.write(tmp_path / "interactions.csv", lines)
    assert list(document(tmp_path)["query"]) == ["history"]
    found = document(tmp_path, context=("seconds",))
    assert found["query"]["seconds"] == {"kind": "number"}


def test_a_column_that_describes_the_item_is_no_query_feature(tmp_path):
    lines = log(",brand", lambda k, u, i: f",b{i % 3}")
    layouts.write(tmp_path / "interactions.csv", lines)
    proposal = proposed(tmp_path)
    assert list(proposal.query) == ["history"]
    assert left_out(proposal)["brand"].startswith("describes the item")


def test_names_that_cannot_be_inputs_get_other_names(tmp_path):
    lines = log(",k,größe,a-b", lambda k, u, i: f",{u % 2},{u % 3},{u % 3}")
    layouts.write(tmp_path / "interactions.csv", lines)
    assert document(tmp_path)["query"] == {
        **HISTORY,
        "k_2": {"kind": "category", "column": "k"},
        "gr_e": {"kind": "category", "column": "größe"},
        "a_b": {"kind": "category", "column": "a-b"},
    }


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (
            {"a.csv": log(), "b.csv": log(",x", lambda k, u, i: ",1")},
            "Several tables have ids of queries and items: a.csv (90 rows: user_id, "
            "item_id, timestamp); b.csv",
        ),
        (
            {"log.tsv": [f"x{k}\t{t}" for k, (_, _, t) in enumerate(layouts.rows())]},
            "log.tsv has no header. Its columns, with examples, seem to be: column_1 "
            "(x0, x1, x2); timestamp (1700000000, 1700086400, 1700172800). None of "
            "them was recognised as user_id or item_id",
        ),
        (
            {"a.csv": ["session_id,item_id", *(f"s{k},{k % 9}" for k in range(50))]},
            "a.csv has no column of times, and too few queries have three",
        ),
        (
            {
                "a.csv": [
                    "session_id,item_id,timestamp",
                    *(f"s{k},{k % 9},{k}" for k in range(50)),
                ]
            },
            "A query needs a feature, and a.csv gives none",
        ),
    ],
)
def test_a_question_names_what_is_missing(tables, said, tmp_path):
    for name, lines in tables.items():
        layouts.write(tmp_path / name, lines)
    questions = [each.text for each in proposed(tmp_path, defaults=False).questions]
    assert any(text.startswith(said) for text in questions), questions


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


@pytest.mark.parametrize("role", ["relevance", "weight"])
def test_a_column_of_numbers_is_required_where_values_count(tmp_path, role):
    layouts.write(tmp_path / "a.csv", log(",comment", lambda k, u, i: ",good"))
    said = f"`--column {role}=comment` must name a column of numbers"
    with pytest.raises(ConfigError, match=said):
        proposed(tmp_path, columns={role: "comment"})


def test_the_lowest_kept_grade_is_kept_exactly(tmp_path):
    grades = [repr(k / 11) for k in (1, 5, 9, 11)]
    layouts.write(
        tmp_path / "a.csv", log(",rating", lambda k, u, i: "," + grades[k % 4])
    )
    found = document(tmp_path)
    assert found["dataset"]["keep"] == f"rating >= {9 / 11!r}"


def test_a_header_that_the_user_gives_is_that_of_a_file_of_words(tmp_path):
    lines = [f"u{k},film{k}" for k in range(90)]
    layouts.write(tmp_path / "clicks.csv", lines)
    assert open_source(tmp_path).tables[0].sample.names is None
    source = open_source(tmp_path, ["clicks.csv"])
    assert source.tables[0].sample.names == ("column_1", "column_2")
    with pytest.raises(ConfigError, match=r"`--header no\.csv=…` must name a table"):
        open_source(tmp_path, ["no.csv"])


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["id,a", *(f"{i},x{i % 2}" for i in range(10))], "calls its ids `id`, which"),
        (["item_id,a", "1,x", "1,y"], "has several rows for the same `item_id`"),
        (["item_id,a", "z1,x", "z2,y"], "has no column `item_id` with ids of"),
    ],
)
def test_a_table_of_items_that_does_not_fit_is_an_error(items, said, tmp_path):
    layouts.write(tmp_path / "interactions.csv", log())
    layouts.write(tmp_path / "items.csv", items)
    with pytest.raises(DataError, match=rf"^{tmp_path}/items.csv {said}"):
        proposed(tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("amazon-beauty", {"reader": "tables", "columns": {"time": "position"}}),
        ("ml-latest-small", {"reader": "movielens", "keep": "rating >= 4"}),
    ],
)
def test_public_data_sets_need_no_answer(name, expected):
    folder = real_data(name)
    found = document(folder)
    assert found["dataset"] == {**expected, "path": str(folder)}
    assert "lists" not in found
