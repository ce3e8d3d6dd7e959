"""The callback for progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with the current activity, how much is done, and the total if known."""


def silent(label: str, done: int, total: int | None) -> None:
    """Ignores progress."""
