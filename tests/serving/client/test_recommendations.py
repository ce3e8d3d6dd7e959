"""recommendations: results as DataFrames."""

import numpy as np
import pytest

from recdistill.serving import Ranking, Recommendation, Results


def scores(*values):
    return np.array(values, "float32")


def test_recommendations_have_one_row_for_each_query_and_item():
    results = Results(
        [
            Recommendation(["a", "b"], scores(3.0, 1.5), 7),
            Recommendation([], scores(), 7),
            Recommendation(["c"], scores(2.0), 8),
        ]
    )
    frame = results.to_frame()
    assert frame.to_dict("list") == {
        "query": [0, 0, 2],
        "rank": [1, 2, 1],
        "item_id": ["a", "b", "c"],
        "score": [3.0, 1.5, 2.0],
        "version": [7, 7, 8],
    }
    assert frame["score"].dtype == "float32"


def test_rankings_also_say_which_candidates_are_known():
    known = np.array([True, False])
    [ranking] = results = Results([Ranking(["b", "x"], scores(1.0, -9.0), known, None)])
    frame = results.to_frame()
    assert frame["known"].tolist() == [True, False]
    assert frame["item_id"].tolist() == ranking.item_ids
    assert frame["version"].isna().all()


@pytest.mark.parametrize("results", [Results(), [Recommendation([], scores(), None)]])
def test_without_items_the_frame_is_empty_and_has_its_columns(results):
    frame = Results(results).to_frame()
    assert list(frame) == ["query", "rank", "item_id", "score", "version"]
    assert frame.empty and frame["rank"].dtype == frame["query"].dtype == "int64"


def test_results_are_a_list():
    one = Recommendation(["a"], scores(1.0), 1)
    assert Results([one]) == [one]
