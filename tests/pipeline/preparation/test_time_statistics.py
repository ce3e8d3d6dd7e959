"""Statistics of times: quantiles of the data, and times that are implausible."""

import numpy as np
import pytest

from recdistill.pipeline.preparation import time_statistics
from recdistill.pipeline.preparation.time_statistics import TimeStatistics, shown

MAY_2024 = 1_714_521_600


def statistics(*batches):
    found = TimeStatistics()
    for times in batches:
        found.add(np.array(times, "int64"))
    return found


def shares_of(times, cuts):
    part = np.searchsorted(cuts, times, side="left")
    return (np.bincount(part, minlength=3) / len(times)).tolist()


@pytest.mark.parametrize("outlier", [0, 253_402_300_799, MAY_2024 * 1_000, -(2**62)])
def test_one_outlier_does_not_move_the_cuts(outlier):
    times = MAY_2024 + 60 * np.arange(999)
    found = statistics(times, [outlier])
    cuts = found.cuts((0.8, 0.9))
    shares = shares_of(np.append(times, outlier), cuts)
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.002)


def test_each_part_has_a_moment_if_there_are_three():
    found = statistics([1] * 95 + [2] * 3 + [3] * 2)
    assert found.cuts((0.8, 0.9)).tolist() == [1, 2]
    early = statistics([1] + [2] * 9 + [3] * 90)
    assert early.cuts((0.8, 0.9)).tolist() == [1, 2]


def test_quantiles_of_more_times_than_memory_holds_are_close(monkeypatch):
    monkeypatch.setattr(time_statistics, "MOST_TIMES", 1_000)
    rng = np.random.default_rng(3)
    times = np.sort(rng.integers(0, 10**9, 50_000))
    batches = rng.permutation(times).reshape(100, 500)
    cuts = statistics(*batches).cuts((0.7, 0.85))
    np.testing.assert_allclose(shares_of(times, cuts), [0.7, 0.15, 0.15], atol=0.01)


@pytest.mark.parametrize(
    ("factor", "unit"),
    [
        (1, "seconds"),
        (10**3, "milliseconds"),
        (10**6, "microseconds"),
        (10**9, "nanoseconds"),
    ],
)
def test_the_unit_is_recognised(factor, unit):
    assert statistics([MAY_2024 * factor] * 3).unit == unit
    assert shown(MAY_2024 * factor, unit) == "2024-05-01 00:00:00"


def test_small_numbers_have_no_unit_and_no_warning():
    found = statistics(range(10))
    assert found.unit is None
    assert list(found.warnings()) == []
    assert shown(7, found.unit) == "7"


def test_days_with_a_fraction_which_are_no_seconds_are_named():
    days = 45_363_876_713 + 10**6 * np.arange(-2, 3)  # Of a spreadsheet, as read.
    found = statistics(days)
    assert found.unit is None
    (said,) = found.warnings()
    assert said.startswith(
        "5 of 5 times are before 1980 or after 2099 in every unit, such as 45363876713 "
        "(1970-01-01 12:36:03 if read as microseconds,"
    )


def test_one_large_time_among_small_numbers_is_not_named():
    assert list(statistics(range(300), [45_363_876_713]).warnings()) == []


def test_many_missing_times_that_are_0_are_named():
    (said,) = statistics([0] * 60, range(MAY_2024, MAY_2024 + 40)).warnings()
    assert said.startswith("60 of 100 times are before 1980 or after 2099 in seconds")


def test_a_column_with_a_single_time_is_named():
    (said,) = statistics([0, 0], [0]).warnings()
    assert said.startswith("All times are 0,")
    assert list(statistics([5]).warnings()) == []


def test_a_time_beyond_the_calendar_is_shown_as_its_number():
    assert shown(10**15, "seconds") == str(10**15)


def test_other_units_and_impossible_dates_are_named_with_their_number():
    milliseconds = [1_000 * MAY_2024 + k for k in range(3)]
    found = statistics(range(MAY_2024, MAY_2024 + 1_000), [*milliseconds, 0])
    said = sorted(found.warnings())
    assert len(said) == 2
    assert said[0].startswith(
        "1 of 1,004 times is before 1980 or after 2099 in seconds, such as 0 "
        "(1970-01-01 00:00:00)."
    )
    assert said[1].startswith(
        "3 of 1,004 times are in milliseconds, while most are in seconds, such as "
        f"{1_000 * MAY_2024} (2024-05-01 00:00:00)."
    )
