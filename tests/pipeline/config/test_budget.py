"""Budgets of an export: units, limits, and what is refused."""

import pytest

from recdistill.errors import ConfigError
from recdistill.pipeline.config.budget import Limit, misses, parse_budget
from tests import small_pipelines


def test_limits_are_in_milliseconds_and_bytes():
    assert parse_budget("p50<=500us,p99 <= 0.25 s , bytes<=1.5MB") == (
        Limit("p50", 0.5),
        Limit("p99", 250.0),
        Limit("bytes", 1_500_000.0),
    )
    assert parse_budget("bytes<=7")[0].most == parse_budget("bytes<=7B")[0].most == 7
    assert parse_budget("p95<=2ms")[0] == Limit("p95", 2.0)


def test_a_limit_itself_is_within_the_budget_and_nan_is_not():
    assert misses("p99<=2ms", {"p99": 2.0}) == []
    assert misses("p99<=2ms", {"p99": 2.0001}) == ["p99 2 ms"]
    assert misses("p99<=2ms", {"p99": float("nan")}) == ["p99 nan ms"]
    assert misses("bytes<=1kB,p99<=2ms", {"p99": 3.0, "bytes": 1_001}) == [
        "bytes 1,001",
        "p99 3 ms",
    ]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "p99",
            "p99<=",
            "p99<2ms",
            "p98<=2ms",
            "p99<=2",
            "p99<=2MB",
            "bytes<=2ms",
        ),
        *("p99<=0ms", "p99<=-1ms", "p99<=1.2.3ms", "p99<=nanms", "p99<=2ms,"),
    ],
)
def test_what_is_no_budget_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"`export.budget` must be limits such as"):
        small_pipelines.load(tmp_path, f"export.budget={text!r}")


@pytest.mark.parametrize(
    ("key", "section"),
    [
        ("tune.timeout", "tune={timeout='5 days'}"),
        ("teacher.budget", "teacher={kind='automatic', budget='5 days'}"),
    ],
)
def test_what_is_no_duration_is_refused_by_its_key(tmp_path, key, section):
    said = f"`{key}` must be a duration above 0 with a unit.*Received: '5 days'"
    with pytest.raises(ConfigError, match=said):
        small_pipelines.load(tmp_path, section)
