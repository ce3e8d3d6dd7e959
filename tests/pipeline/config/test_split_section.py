"""The `split` section: its keys, and the test part in words."""

import pytest

from recdistill.pipeline.config import SplitConfig


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "the last 10% of each query's lists"),
        ({"by": "global_time", "test": 0.25}, "the last 25% of all interactions"),
        ({"by": "leave_last_out"}, "the last list of each query"),
        ({"by": "leave_last_out", "held_out": 3}, "the last 3 lists of each query"),
        (
            {"by": "leave_random_out"},
            "one interaction of each query in an order drawn at random, without times",
        ),
    ],
)
def test_the_report_names_the_test_part(keys, words):
    assert SplitConfig(**keys).test_part == words


@pytest.mark.parametrize(
    "keys", [{"held_out": 2}, {"by": "leave_last_out", "test": 0.2}]
)
def test_keys_without_a_meaning_for_the_split_are_refused(keys):
    with pytest.raises(ValueError, match="has no meaning for by="):
        SplitConfig(**keys)
