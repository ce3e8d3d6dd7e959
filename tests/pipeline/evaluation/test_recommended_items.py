"""Metrics beyond accuracy in the report: values by hand."""

import numpy as np
import pyarrow as pa
import pytest

from recdistill.pipeline.evaluation.recommended_items import measure_recommended
from tests import small_pipelines
from tests.pipeline.logs import run

LOG = [
    (user, item, time)
    for time, (user, item) in enumerate(
        (user, item)
        for user, items in zip("uvwxyz", ["abcd", "bcda", "cdab"] * 2, strict=True)
        for item in items
    )
]
ITEMS = pa.table(
    {"item_id": ["a", "b", "c", "d"], "genre": ["drama", "drama", "comedy", "comedy"]}
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data = small_pipelines.dataset(LOG, ITEMS)
    candidate = {"item_id": {"kind": "id"}, "genre": {"kind": "category"}}
    return run(data, tmp_path_factory.mktemp("p") / "p", candidate=candidate)[0]


def rows_of(top):
    return pa.table(
        {
            "list_id": range(len(top)),
            "query_id": [f"q{row}" for row in range(len(top))],
            "top": pa.array(top, pa.list_(pa.int32())),
        }
    )


def test_values_derived_by_hand(prepared):
    place = {name: row for row, name in enumerate(prepared.item_ids.tolist())}
    first, second = [place["a"], place["b"]], [place["a"], place["c"]]
    found = measure_recommended(
        {"teacher": rows_of([first, second])}, prepared, 10, samples=50, seed=1
    )["teacher"]
    assert found["coverage@10"].value == 3 / 4
    # The items are recommended 0, 1, 1 and 2 times: (-1*1 + 1*1 + 3*2) / (4 * 4).
    assert found["gini@10"].value == (-1 + 1 + 3 * 2) / 16
    counts = prepared.popularity
    want = (counts[first].mean() + counts[second].mean()) / 2
    assert found["popularity@10"].value == pytest.approx(want)
    shares = (counts + 1) / (counts + 1).sum()
    bits = -np.log2(shares)
    want = (bits[first].mean() + bits[second].mean()) / 2
    assert found["novelty@10"].value == pytest.approx(want)
    # Two dramas have distance 0, a drama and a comedy have distance 1.
    assert found["diversity@10"].value == pytest.approx(0.5)
    assert found["diversity@10"].low is not None
    assert "all lists together" in found["coverage@10"].reason


def test_without_categories_diversity_has_a_reason(tmp_path):
    plain, _ = run(small_pipelines.dataset(LOG), tmp_path / "p")
    rows = {"teacher": rows_of([[0, 1], [2], []])}
    found = measure_recommended(rows, plain, 10, samples=50, seed=1)["teacher"]
    assert found["diversity@10"].value is None
    assert found["diversity@10"].reason == (
        "no candidate feature is of kind category or categories"
    )
    assert found["coverage@10"].value == 3 / 4
