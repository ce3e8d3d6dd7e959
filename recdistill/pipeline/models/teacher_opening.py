"""Opens external teachers: models, functions, servers and tables of scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from recdistill.data import Dataset, read_scores
from recdistill.errors import TeacherError
from recdistill.pipeline.config.external_teacher_section import (
    CallableTeacherConfig,
    ExternalTeacherConfig,
    KerasTeacherConfig,
    LightGBMTeacherConfig,
    ModelTeacherConfig,
    RemoteTeacherConfig,
    SavedModelTeacherConfig,
    ScoresTeacherConfig,
    TfKerasTeacherConfig,
)
from recdistill.pipeline.config.section import Section
from recdistill.pipeline.config.teacher_section import members_of
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.serving.client.client import Client
from recdistill.serving.client.retries import RetryPolicy
from recdistill.teachers import (
    Booster,
    ExternalTeacher,
    Function,
    KerasModel,
    RawModel,
    RemoteModel,
    SavedModel,
    ScoreTable,
    TfKerasModel,
)
from recdistill.teachers.model_files import digest, existing, source_digest

_CALLS = {"batch_size", "trained_on", "deadline_s", "retries"}
"""Settings of an external teacher that its scores do not depend on."""


def identity(config: Section) -> dict[str, Any]:
    """All settings and files that a teacher's scores depend on, for a step's inputs.

    Files are identified by their content, not by their path. Settings of the calls of
    an external teacher are left out, because scores do not depend on them.

    Returns:
        JSON-ready values.

    Raises:
        TeacherError: If a file does not exist.
    """
    external = isinstance(config, ExternalTeacherConfig | ScoresTeacherConfig)
    calls = _CALLS if external else set()
    found: dict[str, Any] = json.loads(config.model_dump_json(exclude=calls))
    members = members_of(config)
    if "members" in found:
        found["members"] = [identity(member) for member in members]
        return found
    path = getattr(config, "path", None)
    if path is not None:
        found["path"] = digest(existing(path, "file or folder"))
    for key in ("function", "factory"):
        if getattr(config, key, None) is not None:
            found[f"{key}_file"] = source_digest(getattr(config, key))
    if "modules" in found:
        found["module_files"] = [source_digest(name) for name in found["modules"]]
    return found


class ExternalTeachers:
    """Opens external teachers, each once for the same settings.

    Args:
        prepared: The prepared data.
        dataset: Reads the data set, for scores that are a column of it.
    """

    def __init__(self, prepared: Prepared, dataset: Callable[[], Dataset]) -> None:
        self._prepared, self._dataset = prepared, dataset
        self._open: dict[str, ExternalTeacher | ScoreTable] = {}

    def open(
        self, config: ExternalTeacherConfig | ScoresTeacherConfig
    ) -> ExternalTeacher | ScoreTable:
        """The teacher of a configuration.

        Raises:
            TeacherError: If it cannot be opened, or has inputs that are not features.
            DataError: If a table of scores is invalid.
        """
        key = config.model_dump_json()
        if key not in self._open:
            if isinstance(config, ScoresTeacherConfig):
                self._open[key] = self._scores(config)
            else:
                self._open[key] = self._external(config)
        return self._open[key]

    def tables(self, config: Section) -> list[ScoreTable]:
        """The tables of a teacher with partial scores; else empty."""
        scores = [m for m in members_of(config) if isinstance(m, ScoresTeacherConfig)]
        opened = [self.open(member) for member in scores]
        return [teacher for teacher in opened if isinstance(teacher, ScoreTable)]

    def _external(self, config: ExternalTeacherConfig) -> ExternalTeacher:
        prepared = self._prepared
        return ExternalTeacher(
            raw_model(config),
            prepared.query_inputs,
            prepared.raw_candidates,
            inputs=config.inputs,
            layout=config.layout if isinstance(config, ModelTeacherConfig) else "pairs",
            batch_size=config.batch_size,
            output_column=config.output_column,
        )

    def _scores(self, config: ScoresTeacherConfig) -> ScoreTable:
        prepared = self._prepared
        items = prepared.raw_candidates[prepared.schema.item_id].tolist()
        if config.path is None:
            rows = self._dataset().scores
            if rows is None:
                raise TeacherError(
                    "`teacher.path` must be a table of scores, unless the data set has "
                    "a score column. Received: neither `teacher.path` nor "
                    "`dataset.columns.score`"
                )
            return ScoreTable(rows(), items, "scores of the data set")
        columns = {str(role): name for role, name in config.columns.items()}
        label = f"table of scores {config.path}"
        return ScoreTable(read_scores(config.path, columns), items, label)


def raw_model(config: ExternalTeacherConfig) -> RawModel:
    """The model of a teacher that reads raw features.

    Raises:
        TeacherError: If it cannot be opened.
    """
    if isinstance(config, KerasTeacherConfig):
        return KerasModel.load(config.path, config.output, config.modules)
    if isinstance(config, SavedModelTeacherConfig):
        return SavedModel(config.path, config.signature, config.output, config.inputs)
    if isinstance(config, TfKerasTeacherConfig):
        return TfKerasModel(
            config.path,
            config.factory,
            config.signature,
            config.output,
            config.modules,
        )
    if isinstance(config, LightGBMTeacherConfig):
        return Booster(config.path, config.categorical)
    if isinstance(config, CallableTeacherConfig):
        return Function.load(config.function)
    if isinstance(config, RemoteTeacherConfig):
        return _remote(config)
    raise ValueError(f"`teacher` has an unknown kind. Received: {config!r}")


def _remote(config: RemoteTeacherConfig) -> RawModel:
    retries = RetryPolicy(config.retries, first_pause_s=0.1, throttled=False)
    try:
        client = Client(
            config.address,
            config.model,
            version=config.version,
            deadline_s=config.deadline_s,
            retries=retries,
        )
    except ValueError as error:
        raise TeacherError(f"`teacher.address` cannot be used: {error}") from error
    version = "" if config.version is None else f", version {config.version}"
    label = f"{config.model}{version} at {config.address}"
    return RemoteModel(client, label, config.signature, config.output)
