"""Statistics of the times of all interactions: quantiles, units and outliers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np

MOST_TIMES = 1 << 20
"""Different times in memory; the quantiles of more are approximate."""

LEAST_DATES = 0.01
"""Smallest share of times that must be dates; else they are numbers of another kind."""

_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_EARLIEST, _LATEST = 315_532_800, 4_102_444_800
"""Seconds from 1970 to 1980 and to 2100; times outside are unlikely to be dates."""
_NO_DATE = len(_UNITS)


class TimeStatistics:
    """Times of all interactions, collected batch by batch."""

    def __init__(self) -> None:
        self._values = np.array([], "int64")
        self._counts = np.array([], "int64")
        self._pending: list[np.ndarray] = []
        self._rows = np.zeros(_NO_DATE + 1, "int64")
        self._examples: dict[int, int] = {}

    def add(self, times: np.ndarray) -> None:
        """Adds times, int64."""
        unit = _unit_of(times)
        self._rows += np.bincount(unit, minlength=_NO_DATE + 1)
        for number in np.unique(unit):
            if int(number) not in self._examples:
                first = int(np.argmax(unit == number))
                self._examples[int(number)] = int(times[first])
        self._pending.append(times)
        if sum(map(len, self._pending)) >= MOST_TIMES:
            self._merge()

    def cuts(self, shares: tuple[float, float]) -> np.ndarray:
        """The last times of the training and of the validation part.

        They are quantiles: about these shares of the rows are not later. If there are
        at least three different times, each part gets one.

        Args:
            shares: Shares of the rows up to the end of each of the two parts.
        """
        self._merge()
        total = np.cumsum(self._counts)
        # Without the 1e-7, (1 - 0.2 - 0.1) * 10 would be more than 7.
        wanted = np.array(shares) * total[-1] - 1e-7
        first, second = np.searchsorted(total, wanted).tolist()
        last = len(total) - 1
        first = max(min(first, last - 2), 0)
        second = max(min(max(second, first + 1), last - 1), 0)
        return self._values[[first, second]]

    @property
    def unit(self) -> str | None:
        """Unit of most dates since 1970; None if nearly all times are other numbers."""
        number = int(self._rows[:_NO_DATE].argmax())
        few = self._rows[number] < LEAST_DATES * self._rows.sum()
        return None if few else _UNITS[number]

    def warnings(self) -> Iterator[str]:
        """One sentence for each kind of times that differ from most of them."""
        total = int(self._rows.sum())
        self._merge()
        if len(self._values) == 1 and total > 1:
            yield (
                f"All times are {self._values[0]}, so nothing comes before or after "
                "anything else: histories are empty, and the split follows the order "
                "of the rows. Is `columns.time` the right column? If the data has no "
                'times, set `split.by` = "leave_random_out".'
            )
        if self.unit is None:
            yield from self._not_dates()
            return
        for number in np.flatnonzero(self._rows):
            if number != _NO_DATE and _UNITS[number] == self.unit:
                continue
            value = self._examples[int(number)]
            found = (
                f"before 1980 or after 2099 in {self.unit}"
                if number == _NO_DATE
                else f"in {_UNITS[number]}, while most are in {self.unit}"
            )
            verb = "is" if self._rows[number] == 1 else "are"
            unit = self.unit if number == _NO_DATE else _UNITS[number]
            yield (
                f"{self._rows[number]:,} of {total:,} times {verb} {found}, such as "
                f"{value} ({shown(value, unit)}). Their order, and so the split and "
                "the histories, may be wrong: correct them in the data, or leave these "
                "rows out with `dataset.keep`."
            )

    def _not_dates(self) -> Iterator[str]:
        """One sentence if the times are too large to be numbers of another kind."""
        total = np.cumsum(self._counts)
        if not len(total):
            return
        middle = int(self._values[np.searchsorted(total, total[-1] / 2)])
        if abs(middle) < _LATEST:
            return
        yield (
            f"{self._rows[_NO_DATE]:,} of {total[-1]:,} times are before 1980 or after "
            f"2099 in every unit, such as {middle} ({shown(middle, 'microseconds')} if "
            "read as microseconds, the unit in which dates and numbers with a fraction "
            "are stored). Numbers with a fraction must be seconds since 1970; convert "
            "other units, such as the days of a spreadsheet, to dates. Nothing needs "
            "to be changed if the numbers only give the order of the rows."
        )

    def _merge(self) -> None:
        if not self._pending:
            return
        times, counts = np.unique(np.concatenate(self._pending), return_counts=True)
        self._pending = []
        values = np.concatenate([self._values, times])
        self._values, place = np.unique(values, return_inverse=True)
        weight = np.concatenate([self._counts, counts])
        self._counts = np.bincount(place, weight).astype("int64")
        if len(self._values) > MOST_TIMES:
            self._thin_out()

    def _thin_out(self) -> None:
        """Keeps times at equal distances in rank; each represents those before it."""
        total = np.cumsum(self._counts)
        ranks = np.linspace(0, total[-1], MOST_TIMES // 2 + 1)[1:]
        kept = np.unique(np.append(np.searchsorted(total, ranks), len(total) - 1))
        kept = kept[kept < len(total)]
        self._values = self._values[kept]
        self._counts = np.diff(total[kept], prepend=0)


def shown(time: int, unit: str | None) -> str:
    """A time as text: a date with the time of day in UTC, or the number itself.

    Example:
        >>> shown(1_700_000_000, "seconds"), shown(12, None)
        ('2023-11-14 22:13:20', '12')
    """
    if unit is None:
        return str(time)
    try:
        seconds = time // 1000 ** _UNITS.index(unit)
        date = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError:
        return str(time)
    return date.replace(tzinfo=None).isoformat(" ", "seconds")


def _unit_of(times: np.ndarray) -> np.ndarray:
    """Number of the unit in which each time is a date from 1980 to 2099."""
    unit = np.full(len(times), _NO_DATE)
    for number in range(_NO_DATE):
        low, high = (edge * 1000**number for edge in (_EARLIEST, _LATEST))
        unit[(times >= low) & (times < high)] = number
    return unit
