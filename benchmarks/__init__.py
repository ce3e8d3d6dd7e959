"""Benchmarks: recdistill compared with other ways to do the same thing.

Each module is one benchmark. Its `run(scale)` measures both sides in the same call, in
turns, and returns `{"sizes": …, "figures": …}`, numbers by name. Its `BENCHMARK`
describes what was equal on both sides, the setting of the other side, and how to read
every figure. `python -m benchmarks` runs them all and writes `RESULTS.md` and
`results.json`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


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
            returns `{"sizes": {name: int}, "figures": {name: number}}`.
    """

    name: str
    title: str
    equal: str
    other_side: str
    reading: Mapping[str, str]
    run: Callable[[float], dict[str, dict[str, float]]]


def sized(full: int, scale: float, least: int = 2) -> int:
    """A size at a scale: `full` at scale 1, and never below `least`."""
    return max(least, round(full * scale))
