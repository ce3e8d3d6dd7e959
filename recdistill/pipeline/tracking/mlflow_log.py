"""MLflow log of a run: parameters, metrics, the report and the SavedModel."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recdistill.atomic import atomic_write, fingerprint
from recdistill.errors import ConfigError
from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.config import Config
from recdistill.pipeline.tracking.run_values import (
    report_figures,
    report_of,
    training_points,
)

TAG = "recdistill.run"
"""Tag of an MLflow run with the hash of its configuration and data."""

LONGEST, MOST = 500, 100
"""Characters of a parameter, and entries of one request."""

_ENVIRONMENT = {
    # A server that does not answer must not hold up the run.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Named explicitly by the user; without SQLAlchemy MLflow has no other local store.
    "MLFLOW_ALLOW_FILE_STORE": "true",
}
"""Environment variables that are set unless the user has set them."""


class MlflowLog:
    """Logs each finished step to an MLflow run, once.

    A configuration and its data are one MLflow run. A file in the run's folder notes
    what has been logged, so a finished run is not logged again, and steps that could
    not be logged are logged by the next run of the pipeline.

    Args:
        config: The configuration.
        folder: Folder for the note.

    Raises:
        ConfigError: If MLflow is not installed or no tracking server is configured.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise ConfigError(
                "`tracking.mlflow` needs the package `mlflow`, which is not installed. "
                "Install it with `pip install 'recdistill[mlflow]'`, or set "
                "`tracking.mlflow` = false."
            )
        uri = config.tracking.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            raise ConfigError(
                "`tracking.tracking_uri` must be set if `tracking.mlflow` is true, or "
                "the environment variable MLFLOW_TRACKING_URI. Received: neither. Use "
                'a server such as "http://mlflow:5000", or a folder such as '
                '"file:///data/mlruns".'
            )
        self._config, self._folder, self._uri = config, folder, uri
        self._identity = ""
        self._client: Any = None

    def record(self, step: str, artefact: Artefact) -> None:
        """Logs a finished step, unless it was logged before.

        Raises:
            Exception: Any error of MLflow.
        """
        if step == "prepare":
            self._identity = fingerprint([self._parameters(), artefact.key])
        note = self._note()
        if artefact.path.name in note["logged"]:
            return
        run = note["run"] or self._opened()
        self._log_metrics(run, step, artefact)
        report = report_of(artefact)
        if report is not None:
            for name in ("report.json", "report.html"):
                self._client_().log_artifact(run, str(artefact.path / name), "report")
        if step == "export":
            version = Path(artefact.record["path"])
            self._client_().log_artifacts(
                run, str(version), f"saved_model/{version.name}"
            )
        self._write_note(
            {**note, "run": run, "logged": [*note["logged"], artefact.path.name]}
        )

    def end(self, succeeded: bool) -> None:
        """Sets the state of the MLflow run, if anything was logged.

        Raises:
            Exception: Any error of MLflow.
        """
        run = self._note()["run"] if self._client is not None else None
        if run is not None:
            status = "FINISHED" if succeeded else "FAILED"
            self._client.set_terminated(run, status)

    def _client_(self) -> Any:
        if self._client is None:
            for name, value in _ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self._uri)
        return self._client

    def _opened(self) -> str:
        """Id of the MLflow run of this configuration and data; created if missing."""
        client, name = self._client_(), self._config.tracking.experiment
        experiment = client.get_experiment_by_name(name)
        place = (
            experiment.experiment_id if experiment else client.create_experiment(name)
        )
        for found in client.search_runs([place], f"tags.`{TAG}` = '{self._identity}'"):
            return str(found.info.run_id)
        tags = {TAG: self._identity}
        run = client.create_run(place, tags=tags, run_name=self._config.name)
        from mlflow.entities import Param

        parameters = [Param(*each) for each in self._parameters().items()]
        for some in _pieces(parameters):
            client.log_batch(run.info.run_id, params=some)
        return str(run.info.run_id)

    def _log_metrics(self, run: str, step: str, artefact: Artefact) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(_name(f"{step}/{series}/{name}"), value, now, at)
            for series, at, values in training_points(artefact.record)
            for name, value in values.items()
        ]
        metrics.append(Metric(f"seconds/{step}", artefact.record["seconds"], now, 0))
        report = report_of(artefact)
        if report is not None:
            metrics += [
                Metric(_name(name), value, now, 0)
                for name, value in report_figures(report).items()
            ]
        for some in _pieces(metrics):
            self._client_().log_batch(run, metrics=some)

    def _parameters(self) -> dict[str, str]:
        """The settings by dotted key, without those of tracking."""
        document = self._config.model_dump(mode="json", exclude={"tracking"})
        return {
            _name(key): (value if isinstance(value, str) else json.dumps(value))[
                :LONGEST
            ]
            for key, value in _flat(document, "")
        }

    def _note(self) -> dict[str, Any]:
        """What was logged for this configuration and data to this server."""
        try:
            note = json.loads(self._note_path().read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            note = {}
        empty: dict[str, Any] = {
            "server": fingerprint(self._uri),
            "run": None,
            "logged": [],
        }
        return note if note.get("server") == empty["server"] else empty

    def _write_note(self, note: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._note_path()) as temporary:
            temporary.write_text(json.dumps(note, indent=1), encoding="utf-8")

    def _note_path(self) -> Path:
        return self._folder / f"mlflow-{self._identity[:12]}.json"


def _name(text: str) -> str:
    """A name that MLflow accepts: "ndcg@10" becomes "ndcg_at_10"."""
    return re.sub(r"[^\w\-. /]", "_", text.replace("@", "_at_"))


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from _flat(each, f"{key}.{name}" if key else name)
    else:
        yield key, value


def _pieces(entries: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(entries), MOST):
        yield entries[start : start + MOST]
