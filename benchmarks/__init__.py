"""Benchmarks: recdistill compared with other ways to do the same thing.

Each module is one benchmark. Its `run(scale)` measures both sides in the same call, in
turns, and returns `{"sizes": …, "figures": …}`, numbers by name. Its `BENCHMARK`
describes what was equal on both sides, the setting of the other side, and how to read
every figure. `python -m benchmarks` runs them all, each in a process of its own, and
writes `RESULTS.md` and `results.json` after each.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, with the explanation of its figures.

    Attributes:
        name: Short, in snake case.
        title: What is compared with what.
        equal: What was the same on both sides.
        other_side: The setting of the other side, and why it is fair.
        reading: How to read each figure, by its name.
        run: Takes the scale, 1 for the published sizes, less for a quick look, and
            returns `{"sizes": {name: int}, "figures": {name: number}}`, and optionally
            `"points": {title: [{name: number}]}`, tables of single measurements.
        limit_s: Seconds after which the benchmark is stopped at scale 1.
    """

    name: str
    title: str
    equal: str
    other_side: str
    reading: Mapping[str, str]
    run: Callable[[float], dict[str, Any]]
    limit_s: float = 240.0


def sized(full: int, scale: float, least: int = 2) -> int:
    """A size at a scale: `full` at scale 1, and never below `least`."""
    return max(least, round(full * scale))


def json_by_entry(document: Mapping[str, Any], nested: str | None = None) -> str:
    """JSON with a line for each entry, so that a new result is one changed line.

    Args:
        document: Values by name.
        nested: A key whose value has a line for each entry as well.

    Raises:
        ValueError: A number is not finite.

    Example:
        >>> print(json_by_entry({"a": [1, 2], "b": {"c": {}, "d": 3}}, "b"), end="")
        {
        "a": [1, 2],
        "b": {
        "c": {},
        "d": 3
        }
        }
    """
    lines = (
        f"{json.dumps(key)}: "
        + (
            json_by_entry(value).rstrip("\n")
            if key == nested
            else json.dumps(value, allow_nan=False)
        )
        for key, value in document.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"
