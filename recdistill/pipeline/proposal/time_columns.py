"""Columns of times: which they are, and the dates that they span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.compute as pc

from recdistill.data.column_profile import ColumnProfile, are_times
from recdistill.data.column_values import Place
from recdistill.data.times import Times
from recdistill.errors import ConfigError
from recdistill.pipeline.proposal import column_names as names
from recdistill.pipeline.proposal.questions import Question
from recdistill.pipeline.proposal.source_tables import SourceTable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = (1e3, 1e6, 1e9)
"""Milliseconds, microseconds and nanoseconds in a second."""

_MOST = 0.9
"""Share of values that must look like dates."""

_EARLIEST, _LATEST = 1e8, 4.2e9
"""Seconds since 1970 of times that are dates."""

_SERIAL_DAYS = 20_000.0, 80_000.0
"""Days of spreadsheets, counted from 1900, that are dates from 1954 to 2119."""


def is_time(profile: ColumnProfile, named: bool) -> bool:
    """Whether a column may hold the times of the rows.

    Args:
        profile: The column.
        named: Whether its name is that of a time.
    """
    if profile.content == "date":
        return are_times(pc.drop_null(profile.values), profile.time_format)
    if profile.content not in ("integer", "number"):
        return False
    low, high = profile.range
    plausible = any(
        low / unit >= _EARLIEST and high / unit <= _LATEST for unit in (1, *_UNITS)
    )
    enough = profile.distinct > profile.rows / 20
    if named:
        given = profile.time_format is not None  # The user said in which unit it is.
        return profile.content == "integer" or plausible or given
    return plausible and enough and not names.is_code(profile.name)


def named_times(columns: Mapping[str, ColumnProfile]) -> list[str]:
    """The columns whose name is that of a time."""
    return names.named(columns, names.TIMES)


def use_format(
    columns: dict[str, ColumnProfile], candidates: Sequence[str], time_format: str
) -> None:
    """Reads columns of times in a format that the user gave.

    Args:
        columns: The columns by name. The profiles of those with such values change.
        candidates: The columns that may be times.
        time_format: Value of `dataset.time_format`.

    Raises:
        ConfigError: If no column has such values.
    """
    found = []
    for name in candidates:
        profile, content = columns[name], columns[name].content
        if "%" in time_format:
            if not are_times(pc.drop_null(profile.values), time_format):
                continue
            content = "date"
        elif content not in ("integer", "number"):
            continue
        columns[name] = replace(profile, content=content, time_format=time_format)
        found.append(name)
    if not found:
        listed = [f"{n} ({', '.join(columns[n].examples())})" for n in candidates]
        raise ConfigError(
            f"`--time-format {time_format}` must be the form of a column of times. "
            f"Received: {'; '.join(sorted(listed)) or 'no such column'}"
        )


def has_unknown_format(profile: ColumnProfile) -> bool:
    """Whether the values of a column that is named like a time have no known form.

    Nearly all values have the digits of a date, and none is a time; or they are the
    days of a spreadsheet, with a fraction.
    """
    if profile.content == "number":
        low, high = profile.range
        in_range = _SERIAL_DAYS[0] <= low and high <= _SERIAL_DAYS[1]
        return in_range and not is_time(profile, True)
    if profile.content not in ("text", "list", "unreadable"):
        return False
    present = pc.drop_null(profile.values)
    digits = pc.match_substring_regex(present, "(?:[0-9].*){4}")
    return len(present) > 0 and float(pc.mean(digits.cast("double")).as_py()) > _MOST


def format_question(table: SourceTable, profile: ColumnProfile) -> Question:
    """Asks for the format of a column of times."""
    if profile.content == "number":
        return Question(
            f"{table.name} has the column `{profile.name}`, which is named like a "
            "time, but its values look like the days of a spreadsheet: "
            f"{'; '.join(profile.examples(2))}. Convert them to dates. If they are "
            "seconds since 1970 or another unit, in which (s, ms, us or ns)? If the "
            "rows should have no time, use `--column time=`; then later interactions "
            "may be used to predict earlier ones.",
            "--time-format UNIT",
        )
    return Question(
        f"{table.name} has the column `{profile.name}`, which is named like a time, "
        "but its values have no known form: "
        f"{'; '.join(profile.examples(2))}. Which format has it, as for Python's "
        "strptime (such as %d %b %Y)? If the rows shall have no time, use "
        "`--column time=`; then later interactions may be used to predict earlier "
        "ones.",
        "--time-format FORMAT",
    )


def dates(table: SourceTable, profile: ColumnProfile) -> tuple[str, str] | None:
    """First and last date of the rows; None if the times are not dates.

    Args:
        table: The table.
        profile: Its column of times.
    """
    column = table.sample.rows[profile.name].combine_chunks()
    column = column.filter(pc.is_valid(profile.values))
    place = Place(table.name, profile.name)
    times = np.asarray(Times(profile.time_format)(column, place))
    if not len(times):
        return None
    ends = [float(times.min()), float(times.max())]
    as_date = profile.content in ("date", "number")
    for unit in (1e6,) if as_date else (1, *_UNITS):
        low, high = ends[0] / unit, ends[1] / unit
        if as_date or (low >= _EARLIEST and high <= _LATEST):
            try:
                days = [_EPOCH + timedelta(seconds=each) for each in (low, high)]
            except OverflowError:
                return None
            return f"{days[0]:%Y-%m-%d}", f"{days[1]:%Y-%m-%d}"
    return None
