"""Tables and lines that the terminal reports share."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from recdistill.evaluation.intervals import Interval

MISSING = "-"
"""Cell for a number that is unknown."""

COUNTS = ("", "k", "M", "G")
BYTES = (" B", " kB", " MB", " GB")
"""Units for `short_number`."""

WIDE = 110
"""Columns from which intervals are written next to their values."""


def number_table(
    headings: Sequence[str], wide: bool = True, title: str | None = None
) -> Table:
    """Table of numbers; the first column has the names of the rows.

    Args:
        headings: Headings of all columns; the first may be empty.
        wide: Whether the columns are further apart.
        title: Title above the table.
    """
    gap = (0, 1 if wide else 0, 0, 0)  # in addition to the space that the box adds
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=gap)
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True, vertical="top")
    return table


def pair_table(pairs: Mapping[str, str | Text]) -> Table:
    """Table of names and values."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        grid.add_row(name, Text(value) if isinstance(value, str) else value)
    return grid


def unbroken_line(*parts: str | tuple[str, str]) -> Text:
    """Line that is never wrapped, so that a path or command in it can be copied."""
    return Text.assemble(*parts, no_wrap=True, overflow="ignore")


def metric_label(name: str) -> str:
    """Display name of a metric: "ndcg@10" becomes NDCG@10, "hit@5" becomes Hit@5."""
    family, at, cutoff = name.partition("@")
    plain = family in ("recall", "precision", "hit")
    return (family.capitalize() if plain else family.upper()) + at + cutoff


def interval_ends(interval: Interval, spec: str) -> str:
    """`[low, high]`, each formatted by `spec`; empty without an interval."""
    if interval.low is None or interval.high is None:
        return ""
    return f"[{format(interval.low, spec)}, {format(interval.high, spec)}]"


def interval_text(interval: Interval | None, spec: str = ".3f") -> str:
    """A number with its interval; `MISSING` if the number is unknown.

    Examples:
        >>> interval_text(Interval(0.5, 0.25, 0.75), ".2f")
        '0.50 [0.25, 0.75]'
    """
    if interval is None or interval.value is None:
        return MISSING
    return f"{interval.value:{spec}} {interval_ends(interval, spec)}".rstrip()


def estimate_text(interval: Interval | None, spec: str, wide: bool) -> Text:
    """Number with its whole interval, on the next line if space is short.

    Half the interval's width is not enough for a difference or a ratio, because such an
    interval may be asymmetric, and it must be visible whether it excludes 0.

    Args:
        interval: The estimate; None if it is unknown.
        spec: Format of the numbers.
        wide: Whether the interval stands next to the number.
    """
    if interval is None or interval.value is None:
        return Text(MISSING)
    ends = interval_ends(interval, spec)
    space = "" if not ends else " " if wide else "\n"
    return Text.assemble(format(interval.value, spec), space, (ends, "dim"))


def short_number(number: int | None, units: Sequence[str]) -> str:
    """Number with three digits and a unit; each unit is 1,000 times the one before."""
    if number is None:
        return MISSING
    size, place = float(number), 0
    # What is rounded to 1,000 has the next unit.
    while float(f"{size:.3g}") >= 1000 and place < len(units) - 1:
        size, place = size / 1000, place + 1
    return f"{number_text(size)}{units[place]}"


def number_text(number: float) -> str:
    """Number with three digits, or with thousands separators from 1,000 on.

    Examples:
        >>> [number_text(each) for each in (0.012345, 98.76, 999.6, 12345.6)]
        ['0.0123', '98.8', '1,000', '12,346']
    """
    text = f"{number:.3g}"
    return f"{number:,.0f}" if abs(float(text)) >= 1000 else text


def setting_text(value: Any) -> str:
    """A setting for people: numbers with three digits, everything else as in TOML.

    Examples:
        >>> [setting_text(each) for each in (0.0012345, "rank", [64, 32], None)]
        ['0.00123', 'rank', '[64, 32]', 'none']
    """
    if value is None:
        return "none"
    if isinstance(value, float):
        return number_text(value)
    return value if isinstance(value, str) else json.dumps(value)


def teacher_line(part: Mapping[str, Any]) -> str:
    """The members of a `TeacherPart` and what each of them adds.

    Examples:
        >>> member = {"kind": "linear", "weight": 0.3, "valid_without": 0.1}
        >>> part = {"kind": "ensemble", "valid": 0.11, "sampled_candidates": False}
        >>> teacher_line({**part, "members": [member]})
        'ensemble, 0.1100 on validation: linear (weight 0.30, adds 0.0100)'
    """
    kept, left_out = [], []
    for each in part["members"]:
        if not each["weight"]:
            left_out.append(each["kind"])
            continue
        adds = ""
        if each["valid_without"] is not None:
            adds = f", adds {part['valid'] - each['valid_without']:.4f}"
        kept.append(f"{each['kind']} (weight {each['weight']:.2f}{adds})")
    among = " among sampled candidates" * part["sampled_candidates"]
    line = f"{part['kind']}, {part['valid']:.4f} on validation{among}"
    if kept:
        line += f": {', '.join(kept)}"
    return line + (f"; left out: {', '.join(left_out)}" if left_out else "")


def soft_targets_line(part: Mapping[str, Any]) -> str:
    """Transform, temperatures and effective candidates of a `SoftTargetsPart`."""
    effective = part["effective"]
    softened = f", teacher temperature {part['teacher_temperature']:g}"
    if part["temperature"] != 1.0:
        softened += f", temperature {part['temperature']:g}"
    counted = ""
    if effective is not None:
        counted = (
            f": about {number_text(effective)} of {part['list_size']:,.0f} candidates"
        )
        counted += " have weight"
    by = " (chosen by the score doctor)" if part["chosen_by"] == "doctor" else ""
    through, assistant = "", part.get("assistant")
    if assistant is not None:
        through = (
            f"; averaged with an assistant of width {assistant['dim']}, which has "
            f"{assistant['valid']:.4f} on validation"
        )
    if part.get("unlabelled"):
        through += f"; also on {part['unlabelled']:,} unlabelled lists"
    return f"{part['transform']}{softened}{by}{counted}{through}"
