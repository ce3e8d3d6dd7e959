"""Choice among students of different cost: Pareto front and knee."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Quality and cost of a student.

    Attributes:
        quality: The metric; higher is better.
        latency: Milliseconds.
        size: Bytes.
    """

    quality: float
    latency: float
    size: float


def pareto_places(students: Sequence[Cost]) -> list[int]:
    """Places of the students that no other student beats.

    A student is beaten by one that is at least as good in quality, latency and size,
    and better in one of them.

    Args:
        students: The students.

    Examples:
        The second one is slower and larger than the first, and not better.

        >>> pareto_places([Cost(0.2, 1.0, 10), Cost(0.2, 2.0, 20), Cost(0.3, 3.0, 30)])
        [0, 2]
    """

    def beats(one: Cost, other: Cost) -> bool:
        gains = (
            one.quality - other.quality,
            other.latency - one.latency,
            other.size - one.size,
        )
        return min(gains) >= 0 and max(gains) > 0

    return [
        place
        for place, student in enumerate(students)
        if not any(beats(other, student) for other in students)
    ]


def knee_place(students: Sequence[Cost]) -> int:
    """Place of the knee of the Pareto front: beyond it, quality costs more and more.

    It is the student farthest above the straight line from the cheapest to the best one
    (Kneedle; Satopää et al., 2011). Quality and cost are scaled to 0 to 1; the cost is
    the mean of the logarithms of latency and size. Of equal ones the best is the knee.

    Args:
        students: The students, at least one.

    Examples:
        >>> knee_place([Cost(0.1, 1, 1), Cost(0.19, 2, 2), Cost(0.2, 8, 8)])
        1
    """
    front = pareto_places(students)
    qualities = _scaled([students[place].quality for place in front])
    latencies = _scaled([math.log(students[place].latency) for place in front])
    sizes = _scaled([math.log(students[place].size) for place in front])
    heights = [
        round(quality - (latency + size) / 2, 9)
        for quality, latency, size in zip(qualities, latencies, sizes, strict=True)
    ]
    best = max(range(len(front)), key=lambda k: (heights[k], qualities[k]))
    return front[best]


def _scaled(values: Sequence[float]) -> list[float]:
    low, width = min(values), max(values) - min(values)
    return [(value - low) / width if width else 0.0 for value in values]
