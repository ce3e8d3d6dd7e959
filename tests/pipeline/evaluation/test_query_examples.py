"""Examples of the report page: what the models recommend to drawn queries."""

import numpy as np
import pyarrow as pa
import pytest

from recdistill.pipeline.evaluation import query_examples as module
from recdistill.pipeline.evaluation.model_comparison import ComparisonRows
from recdistill.pipeline.evaluation.query_examples import query_examples
from tests import small_pipelines
from tests.pipeline.logs import random_log, rows_of, run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    log = random_log(4, rows=300, users=20, items=15, moments=40)
    folder = tmp_path_factory.mktemp("prepared") / "p"
    return run(small_pipelines.dataset(log), folder)[0]


@pytest.fixture
def rows(prepared):
    """The teacher ranks items by number, the student by number from the second on."""
    lists = rows_of(prepared, "test").values()
    ids = [each["list_id"] for each in lists]
    top = {"teacher": [0, 1, 2], "distilled": [1, 2, 3], "baseline": [4, 5, 6]}
    models = {
        name: pa.table({"list_id": ids, "top": [items] * len(ids)})
        for name, items in top.items()
    }
    return ComparisonRows(models, pa.table({"list_id": ids}), {}, 0, None)


def test_an_example_has_the_history_the_choice_and_three_rankings(prepared, rows):
    ids = prepared.items["item_id"].to_pylist()
    by_query = {}
    for each in rows_of(prepared, "test").values():
        by_query.setdefault(each["query_id"], []).append(each)
    for example in query_examples(prepared, rows, seed=0):
        assert example.top["teacher"] == ids[:3]
        assert example.top["baseline"] == ids[4:7]
        assert example.overlap == pytest.approx(2 / 3)
        found = [
            each
            for each in by_query[example.query]
            if [ids[row] for row in each["candidates"]] == list(example.chosen)
            and each["raw.history"][::-1][: module.HISTORY] == list(example.history)
        ]
        assert found


def test_the_draw_depends_on_the_seed_only(prepared, rows, monkeypatch):
    monkeypatch.setattr(module, "EXAMPLES", 5)
    one, same, other = (query_examples(prepared, rows, seed) for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) == 5


def test_the_largest_disagreements_come_first(prepared, rows):
    lists = rows.models["distilled"]
    tops = [[0, 1, 2] if number % 2 else [7, 8, 9] for number in range(len(lists))]
    rows.models["distilled"] = lists.set_column(1, "top", pa.array(tops))
    overlaps = [each.overlap for each in query_examples(prepared, rows, seed=0)]
    assert overlaps == sorted(overlaps)
    assert set(np.unique(overlaps)) == {0.0, 1.0}


def test_items_with_a_title_are_shown_with_it(prepared, rows, monkeypatch):
    titles = [f"T{n}" if n else "" for n in range(prepared.catalogue_size)]
    table = prepared.items.append_column("Title", pa.array(titles))
    monkeypatch.setattr(prepared, "items", table)
    ids = table["item_id"].to_pylist()
    example = query_examples(prepared, rows, seed=0)[0]
    assert example.top["teacher"] == [ids[0], f"T1 ({ids[1]})", f"T2 ({ids[2]})"]
