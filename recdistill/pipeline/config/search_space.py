"""Search space of `[tune]` and `[sweep]`: choices and ranges of settings by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DECADE = 10
"""Ratio of the ends of a range from which it is searched on a logarithmic scale."""

SEARCHED = ("student", "distill")
"""Sections all of whose keys can be searched."""

SEARCHED_LISTS = (
    "lists.contexts",
    "lists.popular",
    "lists.retriever_top",
    "lists.student_top",
    "lists.tail",
)
"""Keys of `lists` that can be searched: those on which validation does not depend."""


@dataclass(frozen=True)
class Choices:
    """A setting that is one of several values.

    Attributes:
        values: The values.
    """

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A setting between two numbers, both included.

    Attributes:
        low: The lowest number.
        high: The highest number.
    """

    low: float
    high: float

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are searched: both ends are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def is_logarithmic(self) -> bool:
        """Whether ratios count and not differences: the ends differ by a factor of 10.

        Examples:
            >>> Range(0.001, 0.01).is_logarithmic, Range(0.3, 1.0).is_logarithmic
            (True, False)
        """
        return self.low > 0 and self.high >= DECADE * self.low


SearchSpace = Mapping[str, Choices | Range]
"""What is searched, by dotted key such as "student.dim"."""


def parse_space(
    table: Mapping[str, Any], place: str, also: Sequence[str] = ()
) -> dict[str, Choices | Range]:
    """Reads a search space, whose tables are nested as in the configuration.

    Args:
        table: For each setting a list of values, or `{ low = …, high = … }`.
        place: The key of the table, for errors.
        also: Further keys that can be searched.

    Raises:
        ValueError: If a setting cannot be searched, or is neither of the two.

    Examples:
        >>> parse_space({"student": {"dim": [8, 16]}}, "tune.search")
        {'student.dim': Choices(values=(8, 16))}
    """
    found = dict(_settings(table, (), place))
    for key in found.keys() - {*also}:
        if key.partition(".")[0] not in SEARCHED and key not in SEARCHED_LISTS:
            raise ValueError(
                f"`{place}` must have keys of the sections `student` and `distill`, or "
                f"{', '.join(f'`{each}`' for each in SEARCHED_LISTS)}. Received: {key}"
            )
    return found


def _settings(
    value: Any, keys: Sequence[str], place: str
) -> Iterator[tuple[str, Choices | Range]]:
    key = ".".join(keys)
    if isinstance(value, Mapping) and {*value} == {"low", "high"} and keys:
        yield key, _range(value["low"], value["high"], f"{place}.{key}")
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _settings(each, (*keys, name), place)
    elif isinstance(value, list | tuple) and value:
        yield key, Choices(tuple(value))
    else:
        raise ValueError(
            f"`{place}.{key}` must be a list of values, such as [16, 32], or a range, "
            f"such as {{ low = 0.3, high = 1.0 }}. Received: {value!r}"
        )


def _range(low: Any, high: Any, place: str) -> Range:
    numbers = all(
        isinstance(end, int | float) and not isinstance(end, bool)
        for end in (low, high)
    )
    if not numbers or not low < high or abs(low) + abs(high) == float("inf"):
        raise ValueError(
            f"`{place}` must have a number `low` below the number `high`. Received: "
            f"low={low!r}, high={high!r}"
        )
    return Range(low, high)
