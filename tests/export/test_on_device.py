"""on_device: LiteRT's query tower, with inputs made by its description."""

import json

import numpy as np
import pytest

from recdistill.errors import ExportError
from recdistill.export import on_device
from recdistill.export.layout import QUERY_TOWER_DESCRIPTION
from recdistill.export.on_device import export_query_tower, query_tower_embeddings
from tests.small_models import films_rows, films_schema, films_student

pytestmark = pytest.mark.slow

pytest.importorskip("ai_edge_litert")


@pytest.fixture(scope="module")
def schema():
    return films_schema().for_student()


@pytest.fixture(scope="module")
def student(schema):
    return films_student(films_schema())


@pytest.fixture(scope="module")
def version(schema, student, tmp_path_factory):
    folder = tmp_path_factory.mktemp("version")
    difference = export_query_tower(
        student, schema, folder, schema.lookup_query(films_rows())
    )
    assert 0 <= difference <= 1e-5
    return folder


def look_up(description, raw):
    """The features of one user by the rules of the description, in plain Python."""
    features = description["features"]

    def index(value, vocabulary):
        if value == "":
            return 0
        return vocabulary.index(value) + 2 if value in vocabulary else 1

    padded = [index(v, features["jobs"]["vocabulary"]) for v in raw["jobs"]]
    padded += [0] * (features["jobs"]["width"] - len(padded))
    newest = [index(v, description["items"]) for v in raw["history"][::-1]]
    newest = (newest + [0] * features["history"]["width"])[
        : features["history"]["width"]
    ]
    age = features["Age"]
    scaled = (raw["Age"] - age["mean"]) / age["deviation"]
    return {
        "user_id": np.array(
            [index(raw["user_id"], features["user_id"]["vocabulary"])], "int32"
        ),
        "jobs": np.array([padded], "int32"),
        "Age": np.array([[0, 1] if np.isnan(scaled) else [scaled, 0]], "float32"),
        "taste": np.array([raw["taste"]], "float32"),
        "history": np.array([newest], "int32"),
    }


def test_inputs_made_by_the_description_give_the_live_embedding(
    version, schema, student
):
    text = (version / QUERY_TOWER_DESCRIPTION).read_text(encoding="utf-8")
    description = json.loads(text)
    rows = films_rows()
    want = student.encode_query(schema.lookup_query(rows), training=False).numpy()
    for row in range(len(want)):
        raw = {name: value[row] for name, value in rows.items()}
        raw["history"] = list(raw["history"][: raw["history_length"]])
        got = query_tower_embeddings(version, look_up(description, raw))
        np.testing.assert_allclose(got, want[row : row + 1], atol=1e-5)


def test_privileged_features_are_not_inputs(version):
    text = (version / QUERY_TOWER_DESCRIPTION).read_text(encoding="utf-8")
    names = set(json.loads(text)["features"])
    assert names == {"user_id", "jobs", "Age", "taste", "history"}


def test_a_tower_with_other_embeddings_is_refused(
    schema, student, tmp_path, monkeypatch
):
    run = on_device.query_tower_embeddings
    monkeypatch.setattr(
        on_device, "query_tower_embeddings", lambda *args: run(*args) + 1e-3
    )
    with pytest.raises(ExportError, match=r"LiteRT must encode .* max \|Δ\| 0\.00[01]"):
        export_query_tower(student, schema, tmp_path, schema.lookup_query(films_rows()))
