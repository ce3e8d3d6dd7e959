"""Teachers from outside, as a configuration names them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from recdistill.data import Dataset, read_scores
from recdistill.errors import TeacherError
from recdistill.pipeline.partitions import Progress
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.teacher_config import (
    CallableTeacherConfig,
    ExternalTeacherConfig,
    KerasTeacherConfig,
    LightGBMTeacherConfig,
    ModelTeacherConfig,
    RemoteTeacherConfig,
    SavedModelTeacherConfig,
    ScoresTeacherConfig,
    Section,
    TfKerasTeacherConfig,
    members_of,
)
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


def identity(config: Section) -> dict[str, Any]:
    """What a teacher's scores depend on, JSON-ready, for the hash of a step's inputs.

    The content of its files stands for their place: a changed file is another teacher,
    a moved one is not. How many candidates are scored at once is no part of it, nor
    what the gate compares.

    Raises:
        TeacherError: If a file is not there.
    """
    found: dict[str, Any] = json.loads(
        config.model_dump_json(exclude={"batch_size", "trained_on"})
    )
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
    return found


class ExternalTeachers:
    """Opens teachers from outside, each once for equal settings.

    Args:
        prepared: The prepared data.
        dataset: Reads the data set anew, for scores that stand in it.
    """

    def __init__(self, prepared: Prepared, dataset: Callable[[], Dataset]) -> None:
        self._prepared, self._dataset = prepared, dataset
        self._open: dict[str, ExternalTeacher | ScoreTable] = {}

    def open(
        self, config: ExternalTeacherConfig | ScoresTeacherConfig
    ) -> ExternalTeacher | ScoreTable:
        """The teacher of a configuration.

        Raises:
            TeacherError: If it cannot be had, or does not fit our features.
            DataError: If a table of scores is bad.
        """
        key = config.model_dump_json()
        if key not in self._open:
            if isinstance(config, ScoresTeacherConfig):
                self._open[key] = self._scores(config)
            else:
                self._open[key] = self._external(config)
        return self._open[key]

    def tables(self, config: Section) -> list[ScoreTable]:
        """What a teacher has that can score only some candidates; else nothing."""
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
        )

    def _scores(self, config: ScoresTeacherConfig) -> ScoreTable:
        prepared = self._prepared
        items = prepared.raw_candidates[prepared.schema.item_id].tolist()
        if config.path is None:
            rows = self._dataset().scores
            if rows is None:
                raise TeacherError(
                    "`teacher.path` must be a table of scores where the data set has "
                    "none of its own. Received: no path, and no `dataset.columns.score`"
                )
            return ScoreTable(rows(), items, "scores of the data set")
        columns = {str(role): name for role, name in config.columns.items()}
        label = f"table of scores {config.path}"
        return ScoreTable(read_scores(config.path, columns), items, label)


def raw_model(config: ExternalTeacherConfig) -> RawModel:
    """The model behind a teacher of raw features.

    Raises:
        TeacherError: If it cannot be had.
    """
    if isinstance(config, KerasTeacherConfig):
        return KerasModel.load(config.path, config.output)
    if isinstance(config, SavedModelTeacherConfig):
        return SavedModel(config.path, config.signature, config.output)
    if isinstance(config, TfKerasTeacherConfig):
        return TfKerasModel(
            config.path, config.factory, config.signature, config.output
        )
    if isinstance(config, LightGBMTeacherConfig):
        return Booster(config.path, config.categorical)
    if isinstance(config, CallableTeacherConfig):
        return Function.load(config.function)
    if isinstance(config, RemoteTeacherConfig):
        return _remote(config)
    raise ValueError(f"`teacher` has no such kind. Received: {config!r}")


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


def watched(
    score: Callable[[Any], Any], label: str, lists: int, progress: Progress
) -> Callable[[Any], Any]:
    """A teacher that may be slow: says how far it is, call by call.

    Args:
        score: The teacher.
        label: What it is doing, for people.
        lists: How many lists it is going to score.
        progress: Told how many it has.
    """
    done = 0

    def scored(x: dict[str, Any]) -> Any:
        nonlocal done
        result = score(x)
        done += len(x["mask"])
        progress(label, done, max(done, lists))
        return result

    return scored
