"""`recdistill recommend`: titles, unknown values and options, without a server."""

import json
import shutil

import numpy as np
import pytest

from recdistill.errors import ArtefactError, ConfigError
from recdistill.export.layout import find_version
from recdistill.serving import exported_model
from tests.cli.command_line import assert_is_one_paragraph, call
from tests.small_models import films_items, films_schema, films_student

pytestmark = pytest.mark.slow

QUERY = {
    "user_id": "ann",
    "jobs": ["cook"],
    "Age": 30.0,
    "taste": [0.5, -1.0],
    "history": ["item-2", "item-0"],
}


@pytest.fixture(scope="module", autouse=True)
def loaded_once(exported):
    """All calls answer with one model, because loading it takes seconds."""
    model = exported_model.ExportedModel(exported)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exported_model, "ExportedModel", lambda export: model)
        yield


@pytest.fixture(scope="module")
def scores():
    """The live student's score of each item for `QUERY`, by id."""
    schema = films_schema()
    student, own = films_student(schema), schema.for_student()
    table = films_items()
    items = {e.feature: np.array(table[e.feature].to_pylist()) for e in own.candidate}
    query = {
        "user_id": ["ann"],
        "jobs": [["cook"]],
        "Age": [30.0],
        "taste": [[0.5, -1.0]],
        "history": [QUERY["history"]],
        "history_length": [2],
    }
    left = student.encode_query(own.lookup_query(query)).numpy()
    right = student.encode_candidates(own.lookup_candidates(items)).numpy()
    ids = table["item_id"].to_pylist()
    return dict(zip(ids, (left @ right.T)[0].tolist(), strict=True))


def answer(exported, *options, query=QUERY):
    result = call("recommend", exported, "--query", json.dumps(query), *options)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def answered(exported, *options, query=QUERY):
    return json.loads(answer(exported, "--json", *options, query=query))


def test_the_items_are_those_with_the_highest_scores_of_the_live_student(
    exported, scores
):
    found = answered(exported, "-k", 4)["recommendations"]
    best = sorted(scores, key=scores.get, reverse=True)[:4]
    assert [each["item_id"] for each in found] == best
    assert [each["rank"] for each in found] == [1, 2, 3, 4]
    titles = {row["item_id"]: row["title"] for row in films_items().to_pylist()}
    assert [each["title"] for each in found] == [titles[each] for each in best]
    np.testing.assert_allclose(
        [each["score"] for each in found], [scores[each] for each in best], rtol=1e-4
    )


def test_k_is_limited_by_what_the_model_returns(exported, scores):
    found = answered(exported, "-k", 10_000)["recommendations"]
    assert len(found) == len(scores)
    result = call("recommend", exported, "--query", json.dumps(QUERY), "-k", 10_001)
    assert result.exit_code == 2
    assert "10,000" in result.output or "10000" in result.output


def test_excluded_items_are_left_out_and_only_allowed_ones_stay(exported, scores):
    best = sorted(scores, key=scores.get, reverse=True)
    without = answered(exported, "-k", 2, "--exclude", f"{best[0]}, {best[2]}")
    ids = [each["item_id"] for each in without["recommendations"]]
    assert ids == [best[1], best[3]]
    only = answered(exported, "--allow", f"{best[5]},{best[3]}")
    ids = [each["item_id"] for each in only["recommendations"]]
    assert ids == [best[3], best[5]]


def test_the_table_shows_titles_and_names_what_the_model_has_never_seen(exported):
    query = {**QUERY, "user_id": "zoe", "history": ["item-2", "lost"]}
    said = answer(exported, "-k", 2, query=query)
    assert "history, latest first: lost; The film 2, №2 (item-2)" in said
    assert "user_id: never seen in training: zoe" in said
    assert "no items of the catalogue: lost" in said
    assert said.count("The film") == 3


def test_features_that_are_not_given_are_unknown_to_the_model(exported):
    result = call("recommend", exported, "--history", "item-2,item-0", "--json")
    found = json.loads(result.stdout)
    assert found["not_given"] == ["Age", "jobs", "taste", "user_id"]
    assert found["query"]["history"] == ["item-2", "item-0"]


def test_a_damaged_export_is_named(exported, tmp_path):
    copied = tmp_path / "films"
    shutil.copytree(find_version(exported), copied / "1")
    [weights] = (copied / "1" / "variables").glob("*.data*")
    with weights.open("r+b") as file:
        file.truncate(100)
    real = type(exported_model.ExportedModel(exported))
    with pytest.raises(ArtefactError, match=rf"{weights.name}.*write the version"):
        real(copied)


def test_ids_with_commas_are_written_in_quotes():
    from recdistill.cli.recommend import _ids, _listed

    assert _ids('50, 181,"a, b" ,') == ["50", "181", "a, b"]
    assert _ids('5" disk, x') == ['5" disk', "x"]
    assert _ids(None) == []
    assert _ids("50,\n181\n") == ["50", "181"]
    with pytest.raises(ConfigError, match="must be in double quotes"):
        _ids('"abc,def')
    assert _listed(["50", "a, b"]) == '50, "a, b"'


def test_numbers_are_accepted_as_ids():
    from recdistill.cli.recommend import _as_text

    assert _as_text([50, 181.0, True, "a", None]) == ["50", "181", "true", "a", None]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "`--query` or `--history` must be given"),
        (["--query", "{"], "which is not JSON"),
        (["--query", '{"Age": NaN}'], "which is not JSON"),
        (["--query", '{"Age": 1e999}'], "which is not JSON"),
        (["--query", "[1]"], "which is no JSON object"),
        (["--query", '{"agee": 3}'], "must have features of the model only"),
        (["--history", "a", "--query", '{"history": []}'], "must not both have"),
        (["--history", "a", "-k", "0"], "`--k` must be from 1"),
        (["--query", '{"Age": "old"}'], "`Age` must be a number"),
        (["--history", "a", "--allow", ","], "`allow` must name at least one item"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(exported, options, said):
    result = call("recommend", exported, *options)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, said)
