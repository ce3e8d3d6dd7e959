"""Intervals, slices and settings as strict JSON, and back."""

import math
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from recdistill.evaluation.intervals import Interval, Slice
from recdistill.evaluation.report.json_fields import (
    Estimate,
    Settings,
    SliceEstimate,
    rounded,
)

INTERVALS = TypeAdapter(Estimate)
SLICES = TypeAdapter(SliceEstimate)


@pytest.mark.parametrize(
    ("interval", "document"),
    [
        (Interval(0.25, 0.24, 0.26), {"value": 0.25, "ci": [0.24, 0.26]}),
        (Interval(0.25), {"value": 0.25, "ci": None}),
        (
            Interval(None, reason="no list has a value"),
            {"value": None, "ci": None, "reason": "no list has a value"},
        ),
    ],
)
def test_an_interval_is_written_and_read_back(interval, document):
    assert INTERVALS.dump_python(interval) == document
    assert INTERVALS.validate_python(document) == interval


@pytest.mark.parametrize(
    ("interval", "value"),
    [
        (Interval(math.nan, 0.1, 0.2), None),
        (Interval(0.1, -math.inf, 0.2), 0.1),
        (Interval(0.1, 0.0, math.nan), 0.1),
    ],
)
def test_an_interval_that_is_not_finite_loses_its_ends(interval, value):
    want = Interval(value, reason="the number is not finite")
    assert INTERVALS.validate_python(interval) == want


def test_a_reason_of_its_own_is_kept():
    given = Interval(math.nan, reason="one query is too few for an interval")
    assert INTERVALS.validate_python(given).reason == given.reason


def test_a_slice_is_written_and_read_back():
    part = Slice(3, 2, {"mrr": Interval(0.5, 0.4, 0.6)})
    document = SLICES.dump_python(part)
    assert document == {
        "lists": 3,
        "queries": 2,
        "metrics": {"mrr": {"value": 0.5, "ci": [0.4, 0.6]}},
    }
    assert SLICES.validate_python(document) == part


def test_settings_become_json_values():
    given = {"path": Path("runs"), 5: [math.inf, (1, math.nan)], "rate": 0.1}
    assert TypeAdapter(Settings).validate_python(given) == {
        "path": "runs",
        "5": ["inf", [1, "nan"]],
        "rate": 0.1,
    }


def test_numbers_are_rounded_to_nine_digits():
    given = {"a": [0.1 + 0.2, 1], "b": {"c": 123456789.123456, "d": "x", "e": None}}
    assert rounded(given) == {
        "a": [0.3, 1],
        "b": {"c": 123456789.0, "d": "x", "e": None},
    }
