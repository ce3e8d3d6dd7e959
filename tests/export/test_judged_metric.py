"""judged_metric: comparison of an export's answers with the report."""

import numpy as np
import pytest

from recdistill.errors import ExportError
from recdistill.export.judged_metric import JudgedBatch, JudgedLists


def hit(answer):
    """1 for a list whose first item is "a"."""
    return (answer[:, 0] == "a").astype(float)


def compare(ids, scores, reported, exact=True):
    batch = JudgedBatch({}, None, None, np.array(reported, float), hit)
    names = np.array([[each.encode() for each in row] for row in ids], object)
    answer = {"item_ids": names, "scores": np.array(scores, "float32")}
    return JudgedLists("hit@1", 1, [batch]).compare([answer], exact)


def test_equal_metrics_are_reported_with_their_means():
    got = compare([["a", "b"], ["b", "a"]], [[2, 1], [2, 1]], [1, 0])
    assert (got.metric, got.lists, got.reported, got.served) == ("hit@1", 2, 0.5, 0.5)


def test_a_list_that_differs_stops_the_export_with_both_numbers():
    with pytest.raises(ExportError, match=r"hit@1 0\.5000 .* 0\.0000 .* lists; 1 "):
        compare([["a", "b"], ["b", "a"]], [[2, 1], [2, 1]], [0, 0])


def test_a_list_with_nearly_equal_scores_may_differ():
    got = compare([["a", "b"], ["b", "a"]], [[2, 1.9999], [2, 1]], [0, 0])
    assert (got.reported, got.served) == (0.0, 0.5)
    # Empty places of an answer have equal scores and explain nothing.
    with pytest.raises(ExportError, match="1 lists differ"):
        compare([["a", "", ""]], [[2, -3e38, -3e38]], [0])


def test_an_approximate_index_may_differ():
    assert compare([["a", "b"]], [[2, 1]], [0], exact=False).served == 1.0


def test_a_request_asks_for_one_item_more_if_the_catalogue_has_it():
    none = np.full((2, 1), "", object)
    batch = JudgedBatch({"age": np.ones(2)}, none, none, np.zeros(2), hit)
    lists = JudgedLists("hit@3", 3, [batch])
    assert lists.inputs(9)[0]["k"].tolist() == [4, 4]
    assert lists.inputs(3)[0]["k"].tolist() == [3, 3]
    assert set(lists.inputs(3)[0]) == {"age", "k", "exclude_ids", "allow_ids"}
