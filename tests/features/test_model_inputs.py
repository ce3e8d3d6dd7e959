"""model_inputs: names, kinds and sizes of a schema, without its vocabularies."""

import json

from recdistill.features.encoders import build_encoder
from recdistill.features.model_inputs import (
    FeatureSize,
    HistorySize,
    ModelInputs,
    indices_of,
    width_of,
)
from recdistill.features.schema import Schema
from recdistill.features.specs import (
    CategoriesSpec,
    HistorySpec,
    IdSpec,
    NumberSpec,
    TextSpec,
    VectorSpec,
)


def schema():
    item = build_encoder("item", IdSpec(), {"vocabulary": ["b", "größe", "映画"]})
    query = [
        build_encoder("user", IdSpec(), {"vocabulary": ["ann", "größe"]}),
        build_encoder("past", HistorySpec(length=7), {}, item),
        build_encoder("jobs", CategoriesSpec(), {"vocabulary": ["cook"]}),
        build_encoder("age", NumberSpec(), {"mean": 30.0, "deviation": 2.0}),
        build_encoder("note", TextSpec(buckets=50, length=3), {}),
        build_encoder("taste", VectorSpec(size=5), {}),
    ]
    return Schema(query, [item], {}, "item")


def test_every_feature_has_a_number_of_indices_or_a_width():
    inputs = ModelInputs.of(schema())
    assert dict(inputs.query) == {
        "user": FeatureSize(indices=2 + 2),
        "jobs": FeatureSize(indices=1 + 2),
        "age": FeatureSize(width=2),
        "note": FeatureSize(indices=50 + 1),
        "taste": FeatureSize(width=5),
    }
    assert dict(inputs.candidate) == {"item": FeatureSize(indices=3 + 2)}
    assert inputs.item_id == "item"
    assert ModelInputs.of(inputs) is inputs


def test_the_history_is_kept_apart():
    inputs = ModelInputs.of(schema())
    assert inputs.history == HistorySize("past", indices=3 + 2, length=7)
    assert inputs.query_names() == ("user", "jobs", "age", "note", "taste", "past")
    without = ModelInputs.of(Schema([], schema().candidate, {}, "item"))
    assert without.history is None and without.history_name == ""
    assert without.query_names() == ()


def test_the_width_after_embedding_is_the_dim_for_indices():
    sizes = ModelInputs.of(schema()).query
    assert width_of(sizes, 3) == 3 + 3 + 2 + 3 + 5
    assert width_of({}, 3) == 0
    assert indices_of(sizes)["note"] == 51 and indices_of(sizes)["age"] is None


def test_they_come_back_from_json_in_the_same_order():
    inputs = ModelInputs.of(schema())
    document = json.loads(json.dumps(inputs.get_config()))
    copy = ModelInputs.from_config(document)
    assert copy == inputs and list(copy.query) == list(inputs.query)
    assert "ann" not in json.dumps(document)
    without = ModelInputs.of(Schema([], schema().candidate, {}, "item"))
    assert ModelInputs.from_config(without.get_config()) == without
