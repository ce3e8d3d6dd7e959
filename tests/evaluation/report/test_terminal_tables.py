"""Numbers and names as the terminal reports write them."""

import pytest

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.report.terminal_tables import (
    BYTES,
    COUNTS,
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
    [(None, "-"), (7, "7 B"), (812_345, "812 kB"), (5_000_000_000_000, "5,000 GB")],
)
def test_sizes_have_three_digits_and_the_largest_unit(number, text):
    assert short_number(number, BYTES) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (999, "999"),
        (1_000, "1k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (2.5e6, "2.5M"),
        (3e9, "3G"),
    ],
)
def test_counts_have_three_digits(value, text):
    assert short_number(value, COUNTS) == text


def test_both_ends_of_an_interval_have_the_same_format():
    assert interval_ends(Interval(0.2, 0.1, 0.3), ".0%") == "[10%, 30%]"
    assert interval_ends(Interval(0.2), ".0%") == ""
