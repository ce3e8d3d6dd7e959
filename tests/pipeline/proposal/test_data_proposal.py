"""Proposals for folders in many layouts, compared with what a person would write."""

import pandas as pd
import pytest

from recdistill.errors import ConfigError, DataError
from recdistill.pipeline.config import parse_config
from recdistill.pipeline.preparation.dataset_loading import (
    load_dataset,
    reading_options,
)
from recdistill.pipeline.preparation.feature_columns import FeatureColumns
from recdistill.pipeline.preparation.preparation import prepare
from recdistill.pipeline.proposal.data_proposal import propose
from recdistill.pipeline.proposal.proposed_config import config_text
from recdistill.pipeline.proposal.questions import Answers
from recdistill.pipeline.proposal.source_tables import open_source
from tests.pipeline.proposal import layouts
from tests.pipeline.proposal.proposals import document, left_out, log, proposed
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
    layouts.decimal_commas: {
        "dataset": {
            "reader": "tables",
            "keep": "rating >= 4.5",
            "interactions": {"types": {"rating": "decimal_comma"}},
            "items": {"types": {"price": "decimal_comma", "weight": "decimal_comma"}},
        },
        "query": HISTORY,
        "candidate": {
            "item_id": ID,
            "price": {"kind": "number"},
            "weight": {"kind": "number"},
        },
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
        # 5 of the 45 later likes repeat an item.
        "teacher": {"kind": "reference"},
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


@pytest.mark.parametrize(
    ("name", "suffix"),
    [(None, "parquet"), ("row", "parquet"), (None, "csv"), (None, "again")],
)
def test_the_index_of_a_data_frame_is_no_feature(tmp_path, name, suffix):
    user, item, time = zip(*layouts.rows(), strict=True)
    rows = {"user_id": user, "item_id": item, "timestamp": time}
    items = {"item_id": range(10), "kind": ["a", "b"] * 5, "year": range(1990, 2000)}
    for table, frame in (("interactions", rows), ("items", items)):
        frame = pd.DataFrame(frame).rename_axis(name)
        if table == "items":  # With an index that is a column of data.
            frame = frame.set_index("item_id", append=True)
        frame = frame.iloc[[0, *range(2, len(frame))]]
        if suffix == "parquet":
            frame.to_parquet(tmp_path / f"{table}.parquet")
            continue
        frame.to_csv(tmp_path / f"{table}.csv")
        if suffix == "again":
            frame = pd.read_csv(tmp_path / f"{table}.csv")
            frame.to_csv(tmp_path / f"{table}.csv", index=False)
    proposal = proposed(tmp_path)
    assert list(proposal.query) == ["history"]
    assert list(proposal.candidate) == ["item_id", "kind", "year"]
    [reason] = {*left_out(proposal).values()}
    assert reason == "the index of a DataFrame, which numbers its rows"


def test_the_only_folder_inside_a_folder_is_the_data_folder(tmp_path):
    layouts.write(tmp_path / "raw" / "interactions.csv", log())
    layouts.write(tmp_path / "raw" / "items.csv", ["item_id,a", "0,x", "1,y", "2,x"])
    assert document(tmp_path)["dataset"]["path"] == str(tmp_path / "raw")


@pytest.mark.parametrize(("again", "kind"), [(2, "linear"), (9, "reference")])
def test_the_linear_teacher_is_not_proposed_where_items_are_repeated(
    tmp_path, again, kind
):
    lines = log()  # 5 of 75 later interactions are repeats.
    same_time = lines[1:]
    lines += [line.replace(",17", ",27") for line in lines[1 : 1 + again]]
    layouts.write(tmp_path / "interactions.csv", [*lines, *same_time])
    proposal = proposed(tmp_path)
    assert proposal.repeats == pytest.approx((5 + again) / (75 + again))
    assert document(tmp_path)["teacher"] == {"kind": kind}
    text = config_text(proposal, "run", tmp_path / "run.toml").replace("\n#", "")
    why = "17% of the later interactions of a query repeat an item, and the linear"
    assert (why in text) == (kind == "reference")


def test_the_linear_teacher_is_not_proposed_for_lists(tmp_path):
    layouts.impressions(tmp_path)
    assert document(tmp_path, columns={"score": ""})["teacher"]["kind"] == "reference"


@pytest.mark.parametrize("name", ["product_name", "Title", "ITEM_NAME"])
def test_the_first_column_of_titles_is_shown_in_reports(tmp_path, name):
    lines = [f"item_id,movie_title,{name}" if name == "Title" else f"item_id,{name}"]
    more = ",Film" if name == "Title" else ""
    lines += [f"{i}{more},Lamp{i}" for i in range(layouts.ITEMS)]
    layouts.write(tmp_path / "interactions.csv", log())
    layouts.write(tmp_path / "items.csv", lines)
    proposal = proposed(tmp_path)
    assert proposal.candidate[name] == {"kind": "text"}
    shown = [use for use in proposal.uses if use.reason.startswith("shown as the item")]
    assert [use.profile.name for use in shown] == [name]


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
            {
                "a.csv": [
                    "session_id,item_id,paid",
                    *(f"s{k},{k % 9},{k % 7}.5" for k in range(50)),
                ]
            },
            "a.csv has no column of times, and too few queries have three",
        ),
        (
            {
                "a.csv": [
                    "session_id,item_id,timestamp,paid",
                    *(f"s{k},{k % 9},{k},{k % 7}.5" for k in range(50)),
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


def test_queries_with_nothing_to_rank_by_are_an_error(tmp_path):
    lines = [f"s{k},{k % 9},{k}" for k in range(50)]
    layouts.write(tmp_path / "a.csv", ["session_id,item_id,timestamp", *lines])
    with pytest.raises(DataError, match="nothing that a ranking could be based on"):
        proposed(tmp_path)


@pytest.mark.parametrize(
    ("form", "time_format"),
    [
        ("%m/%d/%Y %I:%M %p", "%m/%d/%Y %I:%M %p"),
        ("%Y-%m-%d %I:%M %p", "%Y-%m-%d %I:%M %p"),
        ("%d-%b-%Y", "%d-%b-%Y"),
        ("%b %d, %Y", "%b %d, %Y"),
        ("%m/%d/%y %H:%M", "%m/%d/%y %H:%M"),
        ("%d/%b/%Y:%H:%M:%S +0000", "%d/%b/%Y:%H:%M:%S %z"),
        ("%a %b %d %H:%M:%S UTC %Y", "%a %b %d %H:%M:%S %Z %Y"),
    ],
)
def test_dates_in_usual_formats_are_times(tmp_path, form, time_format):
    lines = ["user_id,item_id,Timestamp"]
    lines += [f'{u},{i},"{layouts.date(t, form)}"' for u, i, t in layouts.rows()]
    layouts.write(tmp_path / "log.csv", lines)
    found = document(tmp_path)["dataset"]
    assert found["columns"] == {"time": "Timestamp"}
    assert found["time_format"] == time_format


def test_a_time_in_an_unknown_format_is_a_question_and_not_left_out(tmp_path):
    form = "%Y week %W, %A %Hh%M"
    lines = ["user_id,item_id,timestamp"]
    lines += [f'{u},{i},"{layouts.date(t, form)}"' for u, i, t in layouts.rows()]
    layouts.write(tmp_path / "log.csv", lines)
    for columns in ({}, {"time": "timestamp"}):
        [question] = proposed(tmp_path, columns=columns).questions
        assert question.option == "--time-format FORMAT"
        assert "2023 week 46, Tuesday 22h13" in question.text
        answers = Answers(columns=columns, defaults=True).with_answer(question, form)
        proposal = propose(open_source(tmp_path), answers)
        assert proposal.questions == []
        assert proposal.known().columns["time"] == "timestamp"
        assert proposal.known().time_format == form
    # Without times, if the user says so.
    found = document(tmp_path, columns={"time": ""})
    assert found["split"]["by"] == "leave_random_out"
    with pytest.raises(ConfigError, match="`--time-format %d` must be the form of a"):
        proposed(tmp_path, time_format="%d")


def test_numbers_that_are_named_like_a_time_but_are_none_are_a_question(tmp_path):
    lines = ["user_id,item_id,timestamp"]
    lines += [f"{u},{i},{45_000 + t % 10**6 / 1e4}" for u, i, t in layouts.rows()]
    layouts.write(tmp_path / "log.csv", lines)
    for columns in ({}, {"time": "timestamp"}):
        [question] = proposed(tmp_path, columns=columns).questions
        assert "but its values look like the days of a spreadsheet: 45" in question.text
        answers = Answers(columns=columns).with_answer(question, "s")
        proposal = propose(open_source(tmp_path), answers)
        assert proposal.questions == []
        assert proposal.known().columns["time"] == "timestamp"
    found = document(tmp_path, columns={"time": ""})
    assert found["split"]["by"] == "leave_random_out"


def test_units_of_times_can_be_given(tmp_path):
    layouts.write(tmp_path / "log.csv", log())
    assert document(tmp_path, time_format="s")["dataset"]["time_format"] == "s"


@pytest.mark.parametrize("chosen", ["01", ("false", "true")])
def test_a_search_without_a_user_is_query_and_list(tmp_path, chosen):
    lines = ["srch_id,date_time,country,prop_id,click_bool,price"]
    for k in range(60):
        for place in range(5):
            item, moment = (k + 3 * place) % 20, layouts.date(1_700_000_000 + 3_600 * k)
            hit = chosen[int(place == k % 5)]
            lines.append(f"s{k},{moment},c{k % 3},p{item},{hit},{item}.5")
    layouts.write(tmp_path / "log" / "searches.csv", lines)
    found = document(tmp_path / "log")
    assert found["dataset"]["reader"] == "listwise"
    assert found["dataset"]["columns"] == {
        "query": "srch_id",
        "list": "srch_id",
        "item": "prop_id",
        "time": "date_time",
        "relevance": "click_bool",
    }
    assert found["query"] == {"country": CATEGORY}
    assert found["split"]["by"] == "global_time"
    config = parse_config({"name": "run", **found})
    dataset = load_dataset(config.dataset, quiet, options=reading_options(config))
    (tmp_path / "prepared").mkdir()
    record = prepare(dataset, config, tmp_path / "prepared", quiet)
    assert sum(record["lists"].values()) == 60


def test_lists_without_a_known_relevance_ask_for_it(tmp_path):
    lines = ["list_id,user_id,item_id,timestamp,score,taken"]
    for k, (user, item, time) in enumerate(layouts.rows()):
        for place in range(3):
            score = (31 * k + 17 * place) % 97 / 10
            shown = (item + place) % layouts.ITEMS
            taken = int(place == 0)
            lines.append(f"l{k},{user},{shown},{time},{score},{taken}")
    layouts.write(tmp_path / "log.csv", lines)
    [question] = proposed(tmp_path).questions
    assert question.option == "--column relevance=NAME"
    assert question.choices == ("taken",)
    found = document(tmp_path, columns={"relevance": "taken"})
    assert found["dataset"]["columns"]["relevance"] == "taken"


@pytest.mark.parametrize("role", ["relevance", "weight"])
def test_a_column_of_numbers_is_required_where_values_count(tmp_path, role):
    layouts.write(tmp_path / "a.csv", log(",comment", lambda k, u, i: ",good"))
    said = f"`--column {role}=comment` must name a column of numbers"
    with pytest.raises(ConfigError, match=said):
        proposed(tmp_path, columns={role: "comment"})


def test_a_header_that_the_user_gives_is_that_of_a_file_of_words(tmp_path):
    lines = [f"u{k},film{k}" for k in range(90)]
    layouts.write(tmp_path / "clicks.csv", lines)
    assert open_source(tmp_path).tables[0].sample.names is None
    source = open_source(tmp_path, ["clicks.csv"])
    assert source.tables[0].sample.names == ("column_1", "column_2")
    with pytest.raises(ConfigError, match=r"`--header no\.csv=…` must name a table"):
        open_source(tmp_path, ["no.csv"])


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
