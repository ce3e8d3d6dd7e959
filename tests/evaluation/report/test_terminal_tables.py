"""Numbers and names as the terminal reports write them."""

import pytest

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.report.terminal_tables import (
    interval_ends,
    metric_label,
    short_number,
)


def test_metrics_have_the_usual_capitals():
    names = ["ndcg@10", "recall@5", "mrr", "map@3", "hit@1"]
    want = ["NDCG@10", "Recall@5", "MRR", "MAP@3", "Hit@1"]
    assert [metric_label(name) for name in names] == want


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (7, "7 B"), (812_345, "812 kB"), (5_000_000_000, "5e+03 MB")],
)
def test_sizes_have_three_digits_and_the_largest_unit(number, text):
    assert short_number(number, (" B", " kB", " MB")) == text


def test_the_ends_of_an_interval_are_formatted_alike():
    assert interval_ends(Interval(0.2, 0.1, 0.3), ".0%") == "[10%, 30%]"
    assert interval_ends(Interval(0.2), ".0%") == ""
