"""Budgets: limits on an export's latency and size, and on the time of a search."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_LIMIT = re.compile(r"\s*(p50|p90|p95|p99|bytes)\s*<=\s*([0-9.]+)\s*([A-Za-z]*)\s*\Z")

_UNITS: Mapping[str, Mapping[str, float]] = {
    "bytes": {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9},
    "p": {"us": 1e-3, "ms": 1, "s": 1e3},
}

_DURATION = re.compile(r"\s*([0-9.]+)\s*(s|min|h)\s*\Z")

_SECONDS: Mapping[str, float] = {"s": 1, "min": 60, "h": 3_600}


@dataclass(frozen=True)
class Limit:
    """The largest allowed value of one measured quantity.

    Attributes:
        quantity: "p50", "p90", "p95" or "p99" in milliseconds, or "bytes".
        most: The largest allowed value.
    """

    quantity: str
    most: float


def parse_budget(text: str) -> tuple[Limit, ...]:
    """The limits of a budget, which are separated by commas.

    Args:
        text: Such as "p99<=2ms, bytes<=5MB".

    Raises:
        ValueError: If it is not a budget.

    Examples:
        >>> parse_budget("p99<=2ms, bytes<=5MB")
        (Limit(quantity='p99', most=2.0), Limit(quantity='bytes', most=5000000.0))
    """
    limits = []
    for part in text.split(","):
        found = _LIMIT.match(part)
        units = _UNITS["bytes" if found and found[1] == "bytes" else "p"]
        try:
            most = float(found[2]) * units[found[3]] if found else 0.0
        except (KeyError, ValueError):
            most = 0.0
        if found is None or most <= 0:
            raise ValueError(
                "`budget` must be limits such as p99<=2ms and bytes<=5MB, separated by "
                "commas: p50, p90, p95 or p99 in us, ms or s, and bytes in B, kB, MB "
                f"or GB. Received: {text!r}"
            )
        limits.append(Limit(found[1], most))
    return tuple(limits)


def misses(budget: str, measured: Mapping[str, float]) -> list[str]:
    """The quantities that exceed a budget, with their measured values.

    Args:
        budget: The budget.
        measured: The measured value of each quantity.

    Examples:
        >>> misses("p99<=2ms, bytes<=5MB", {"p99": 2.5, "bytes": 5_000_000})
        ['p99 2.5 ms']
    """
    return [
        quantity_text(limit.quantity, measured[limit.quantity])
        for limit in parse_budget(budget)
        if not measured[limit.quantity] <= limit.most
    ]


def quantity_text(quantity: str, value: float) -> str:
    """A measured quantity with its unit.

    Examples:
        >>> quantity_text("p99", 0.12345), quantity_text("bytes", 1_234_567)
        ('p99 0.123 ms', 'bytes 1,234,567')
    """
    return (
        f"bytes {value:,.0f}" if quantity == "bytes" else f"{quantity} {value:.3g} ms"
    )


def parse_duration(text: str) -> float:
    """The seconds of a duration.

    Args:
        text: A number with the unit s, min or h.

    Raises:
        ValueError: If it is not a duration above 0.

    Examples:
        >>> parse_duration("5min"), parse_duration("1.5 h")
        (300.0, 5400.0)
    """
    found = _DURATION.match(text)
    try:
        seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(
            "Value should be a duration above 0 with a unit, such as 90s, 5min or 2h. "
            f"Received: {text!r}"
        )
    return seconds
