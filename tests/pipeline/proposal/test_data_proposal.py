"""Proposals for folders in many layouts, compared with what a person would write."""

import tomllib

import pytest

from recdistill.pipeline.config import parse_config
from recdistill.pipeline.dataset_loading import load_dataset, reading_options
from recdistill.pipeline.feature_columns import FeatureColumns
from recdistill.pipeline.preparation import prepare
from recdistill.pipeline.proposal.data_proposal import propose
from recdistill.pipeline.proposal.proposed_config import check_config, config_text
from recdistill.pipeline.proposal.questions import Answers
from recdistill.pipeline.proposal.source_tables import open_source
from tests.pipeline.proposal import layouts
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
