"""Columns of times: which they are, and the dates that they span."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.compute as pc

from recdistill.data.column_profile import ColumnProfile, are_times
from recdistill.data.column_values import Place
from recdistill.data.times import Times
from recdistill.pipeline.proposal import column_names as names
from recdistill.pipeline.proposal.source_tables import SourceTable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = (1e3, 1e6, 1e9)
"""Milliseconds, microseconds and nanoseconds in a second."""

_EARLIEST, _LATEST = 1e8, 4.2e9
"""Seconds since 1970 of times that are dates."""


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
        return profile.content == "integer" or plausible
    return plausible and enough and not names.is_code(profile.name)


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
