"""Tracking of a run in all places that are configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.config import Config
from recdistill.pipeline.tracking.event_lines import EventLines
from recdistill.pipeline.tracking.mlflow_log import MlflowLog
from recdistill.pipeline.tracking.tensorboard_log import TensorBoardLog

FOLDER, EVENTS = "tracking", "events.jsonl"
"""Folder in that of the run, and its file of events."""

BOARD, MLFLOW = "TensorBoard files", "MLflow log"
"""Places, as they are named in warnings."""


class RunTracking:
    """Tracks the steps of a run: TensorBoard, a file of events, and MLflow.

    Everything is written once for each artefact. Tracking never stops a run: a place
    that cannot be written is left out for the rest of the run, with a warning.

    Args:
        config: The configuration.
        root: Folder of the run.
        warn: Callback for warnings.

    Raises:
        ConfigError: If MLflow is asked for and not available.
    """

    def __init__(self, config: Config, root: Path, warn: Callable[[str], None]) -> None:
        folder, page = root / FOLDER, root / "report.html"
        self._warn = warn
        self._board = TensorBoardLog(folder, page)
        self._events = EventLines(folder / EVENTS, page)
        self._mlflow = MlflowLog(config, folder) if config.tracking.mlflow else None
        self._failed: set[str] = set()

    def begin(self, artefact: str) -> None:
        """Notes that an artefact of this name is going to be produced."""
        self._attempt(BOARD, lambda: self._board.begin(artefact))

    def observe(self, series: str, step: int, values: Mapping[str, float]) -> None:
        """Tracks values while a model is trained.

        Args:
            series: Name of the training run.
            step: Number of the training step.
            values: Values by name.
        """
        self._attempt(BOARD, lambda: self._board.observe(series, step, values))

    def record(self, step: str, artefact: Artefact) -> None:
        """Tracks a finished step, wherever that has not been done before."""
        self._attempt(BOARD, lambda: self._board.record(step, artefact))
        self._attempt("file of events", lambda: self._events.record(step, artefact))
        if (log := self._mlflow) is not None:
            self._attempt(MLFLOW, lambda: log.record(step, artefact))

    def end(self, succeeded: bool) -> None:
        """Notes the end of the run."""
        if (log := self._mlflow) is not None:
            self._attempt(MLFLOW, lambda: log.end(succeeded))

    def _attempt(self, place: str, action: Callable[[], None]) -> None:
        """Writes to a place, unless it has failed before."""
        if place in self._failed:
            return
        try:
            action()
        except Exception as error:  # whatever it is, the run is worth more
            self._failed.add(place)
            self._warn(_warning(place, error))


class NoTracking:
    """Stands in for `RunTracking` where a run is not tracked."""

    def begin(self, artefact: str) -> None:
        """Does nothing."""

    def record(self, step: str, artefact: Artefact) -> None:
        """Does nothing."""

    def end(self, succeeded: bool) -> None:
        """Does nothing."""


def _warning(place: str, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"The {place} of this run cannot be written: {reason[:300]}. The run goes on; "
        "run the same command again later to write what is missing."
    )
