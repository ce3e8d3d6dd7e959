"""Progress of a command on stderr: a bar for each activity, or lines."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
)
from rich.text import Text

from recdistill.pipeline.steps import STEPS

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.artefact import Artefact

LINE_EVERY_S = 30.0
"""Seconds between two lines about the same activity, without a terminal."""


class Display:
    """Progress of a command on stderr.

    In a terminal, the current activity has a bar with the time left and, while a model
    is trained, the latest validation metric; the bar disappears at its end. Without a
    terminal, an activity has a line at its start and another every 30 seconds.

    Args:
        as_json: Print only warnings: a program reads the result from stdout.
        console: The console; by default stderr.
    """

    def __init__(self, as_json: bool, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._silent = as_json
        self._has_bar = self._console.is_terminal and not as_json
        self._has_lines = not self._has_bar and not as_json
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            _StateColumn(),
            console=self._console,
            transient=True,
            disable=not self._has_bar,
            # Some activities report only every few seconds.
            speed_estimate_period=120.0,
        )
        self._current: Task | None = None
        self._printed = time.monotonic()
        self._ended = threading.Event()
        self._lines = threading.Thread(target=self._print_lines, daemon=True)

    def __enter__(self) -> Display:
        self._bar.start()
        if self._has_lines:
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._has_lines:
            self._lines.join()
        self._bar.stop()

    def progress(
        self, activity: str, done: int, total: int | None, note: str = "", /
    ) -> None:
        """Moves the bar, or starts a new one if the activity changed.

        Args:
            activity: The activity.
            done: The amount done.
            total: The total amount; None if unknown.
            note: The latest intermediate result; "" keeps the one before.
        """
        if self._current is None or activity != self._current.description:
            self.clear()
            self._bar.add_task(activity, total=total, note="")
            self._current = self._bar.tasks[-1]
            if self._has_lines:
                self._print(Text(f"  {activity} …"))
        number, note = self._current.id, note or self._current.fields["note"]
        self._bar.update(number, completed=done, total=total, note=note)

    def announce(self, step: str, artefact: Artefact) -> None:
        """Prints the line of a finished step."""
        if self._silent:
            return
        self.clear()
        seconds = artefact.record["seconds"]
        state = (
            "unchanged, skipped" if artefact.reused else f"done in {_exactly(seconds)}"
        )
        line = Text.assemble(
            ("✓ ", "green"),
            (f"{step:<9}", "bold"),
            f" {state:<19} ",
            STEPS[step].gist(artefact.record),
        )
        self._print(line)
        for detail in STEPS[step].details(artefact.record):
            self._print(Text(f"  {detail}"), soft_wrap=True)

    def say(self, message: str) -> None:
        """Prints a line."""
        self.clear()
        if not self._silent:
            self._print(Text(f"  {message}"), soft_wrap=True)

    def warn(self, message: str) -> None:
        """Prints a warning as one paragraph."""
        self.clear()
        text = Text.assemble(("Note: ", "bold yellow"), message)
        self._print(text, soft_wrap=not self._console.is_terminal)

    def clear(self) -> None:
        """Removes the bar."""
        if self._current is not None:
            self._bar.remove_task(self._current.id)
            self._current = None

    def print_state(self) -> None:
        """Prints a line about the current activity, if there is one."""
        task = self._current
        if task is not None and not self._silent:
            self._print(Text(f"  {task.description}: {_state(task)}"), soft_wrap=True)

    def _print(self, text: Text, soft_wrap: bool = False) -> None:
        self._console.print(text, soft_wrap=soft_wrap)
        self._printed = time.monotonic()

    def _print_lines(self) -> None:
        while not self._ended.wait(1.0):
            if time.monotonic() - self._printed >= LINE_EVERY_S:
                self.print_state()


class _StateColumn(ProgressColumn):
    """Share done, time left and the latest intermediate result."""

    def render(self, task: Task) -> Text:
        """The text of an activity."""
        return Text(_state(task), style="progress.remaining")


def _state(task: Task) -> str:
    """Share done, time left (or time so far) and the latest result of an activity."""
    parts = []
    if task.total:
        parts.append(f"{task.percentage:.0f} %")
    left = task.time_remaining if task.total else None
    if left is None or task.finished:
        parts.append(f"{_roughly(task.elapsed or 0.0)} so far")
    else:
        parts.append(f"about {_roughly(left)} left")
    if task.fields["note"]:
        parts.append(str(task.fields["note"]))
    return ", ".join(parts)


def _roughly(seconds: float) -> str:
    """Duration in one unit, such as "40 s" or "3 min".

    Examples:
        >>> [_roughly(each) for each in (39.6, 89.0, 200.0, 8_000.0)]
        ['40 s', '89 s', '3 min', '2.2 h']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h"


def _exactly(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
