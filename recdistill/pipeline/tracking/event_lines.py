"""The file of events of a run: JSON lines."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recdistill.atomic import atomic_write
from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.tracking.run_values import (
    report_figures,
    report_of,
    training_points,
)


class EventLines:
    """Writes the events of each finished step to one file, once.

    Every line is a JSON object with "time" (UTC), "event", "step" and "artefact":

    - "training": "series" (the training run), "training_step" and "values";
    - "report": "values" and "page", the path of the report page;
    - "finished": "seconds"; the last event of a step.

    Args:
        path: The file.
        page: The report page.
    """

    def __init__(self, path: Path, page: Path) -> None:
        self._path, self._page = path, page

    def record(self, step: str, artefact: Artefact) -> None:
        """Adds the events of a finished step, unless the file has them."""
        name = artefact.path.name
        written = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        if any(_is_end(line, name) for line in written.splitlines()):
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"time": now, "step": step, "artefact": name}
        events: list[dict[str, Any]] = [
            {**about, "event": "training", "series": series, "training_step": at}
            | {"values": values}
            for series, at, values in training_points(artefact.record)
        ]
        report = report_of(artefact)
        if report is not None:
            values = report_figures(report)
            events.append(
                {**about, "event": "report", "page": str(self._page), "values": values}
            )
        seconds = artefact.record["seconds"]
        events.append({**about, "event": "finished", "seconds": seconds})
        lines = "".join(f"{json.dumps(event, allow_nan=False)}\n" for event in events)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path) as temporary:
            temporary.write_text(written + lines, encoding="utf-8")


def _is_end(line: str, artefact: str) -> bool:
    """Whether a line is the last event of an artefact."""
    try:
        event = json.loads(line)
    except ValueError:
        return False
    ends = {"event": "finished", "artefact": artefact}.items()
    return isinstance(event, dict) and ends <= event.items()
