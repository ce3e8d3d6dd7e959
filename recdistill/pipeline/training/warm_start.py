"""Warm start: a student starts with the weights of an earlier run's student."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recdistill.errors import ConfigError
from recdistill.features.encoders import UNKNOWN, VocabularyEncoder
from recdistill.features.schema import Schema
from recdistill.features.specs import TextSpec
from recdistill.pipeline.artefacts.artefact import (
    Artefact,
    artefact_of_file,
    find_artefact,
    open_artefact,
)

if TYPE_CHECKING:
    import keras

    from recdistill.features.model_inputs import ModelInputs
    from recdistill.pipeline.config import StudentConfig
    from recdistill.pipeline.preparation.prepared_data import Prepared

TABLE = "embeddings"
"""Name of the weight of an embedding table."""


@dataclass(frozen=True)
class EarlierRun:
    """The student of another run, as it was evaluated.

    In a run without a report it is the student that was trained last.

    Attributes:
        distill: The artefact of its student.
        baseline: The artefact of the baseline of that student.
        prepare: The artefact of the data that both were trained on.
    """

    distill: Artefact
    baseline: Artefact
    prepare: Artefact

    @classmethod
    def open(cls, folder: Path, own: Path) -> EarlierRun:
        """Opens the run that `student.warm_start` names.

        Args:
            folder: The folder of the earlier run.
            own: The folder of the run that starts from it.

        Raises:
            ConfigError: If the run has no finished student, or is the run itself.
            ArtefactError: If a record is damaged.
        """
        if folder.resolve() == own.resolve():
            raise ConfigError(
                "`student.warm_start` must be the folder of another run, because each "
                "run of this one would start from its own result. Received: "
                f"{str(folder)!r}. Give each day a `name` of its own."
            )
        trained = sorted(folder.glob("distill-*"), key=_changed, reverse=True)
        evaluated = artefact_of_file("evaluate", folder / "report.json")
        reported = _needed(folder, evaluated, "distill")
        for distill in (reported, *map(open_artefact, trained)):
            baseline = _needed(folder, distill, "baseline")
            # With partial scores, the baseline is trained on the scored lists.
            scored = _needed(folder, baseline, "score") or baseline
            prepare = _needed(folder, scored, "prepare")
            if distill and baseline and prepare:
                return cls(distill, baseline, prepare)
        raise ConfigError(
            "`student.warm_start` must be the folder of a run with a finished step "
            f"`distill`, such as runs/NAME. Received: {str(folder)!r}, which has none."
        )

    @property
    def prepared(self) -> Prepared:
        """The prepared data that both were trained on.

        Raises:
            ArtefactError: If a file is damaged or missing.
        """
        from recdistill.pipeline.preparation.prepared_data import Prepared

        self.prepare.verify()
        return Prepared(self.prepare.path)

    def student(self, step: str) -> EarlierStudent:
        """The student of the step "baseline" or "distill"."""
        model = self.baseline if step == "baseline" else self.distill
        return EarlierStudent(model, self.prepare)


@dataclass(frozen=True)
class EarlierStudent:
    """A student of an earlier run.

    Attributes:
        model: The artefact with its weights.
        prepare: The artefact of the data that it was trained on.
    """

    model: Artefact
    prepare: Artefact

    def copy_to(
        self, student: keras.Model, schema: Schema, config: StudentConfig
    ) -> dict[str, Any]:
        """Copies the weights to a student whose vocabularies extend the earlier ones.

        Args:
            student: The student to train.
            schema: The features of its data.
            config: The settings of both students.

        Returns:
            For the record: `run`, the number of `new_rows` of embedding tables, and
            `earlier_seconds`, the time that the earlier training took.

        Raises:
            ConfigError: If the students have different features or widths.
            ArtefactError: If a file of the earlier run is damaged or missing.
        """
        from recdistill.pipeline.models.model_building import load_student
        from recdistill.pipeline.preparation.prepared_data import Prepared

        self.model.verify()
        self.prepare.verify()
        run = str(self.model.path.parent)
        try:
            prepared = Prepared(self.prepare.path)
            earlier = load_student(config, prepared, self.model.path)
        except (ValueError, KeyError) as error:
            raise ConfigError(
                "`student.warm_start` needs the same settings of the student as in the "
                f"run {run!r}, whose weights do not fit: "
                f"{' '.join(str(error.__cause__ or error).split())[:300]}"
            ) from error
        _require_same_features(student.model_inputs, earlier.model_inputs, run)
        _require_same_values(schema.for_student(), prepared.schema.for_student(), run)
        return {
            "run": run,
            "earlier_seconds": self.model.record["seconds"],
            **start_from(student, earlier, run),
        }


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def _needed(folder: Path, artefact: Artefact | None, step: str) -> Artefact | None:
    """The artefact of a step that another artefact was made from."""
    key = "" if artefact is None else artefact.record["needs"].get(step, "")
    # Runs with the same data share the step `prepare`.
    return find_artefact(folder, step, key) if key else None


def _require_same_features(own: ModelInputs, before: ModelInputs, run: str) -> None:
    """Checks that two students read the same features in the same order.

    Raises:
        ConfigError: Names the features.
    """
    now, then = (
        [*each.query_names(), *(f"candidate.{name}" for name in each.candidate)]
        for each in (own, before)
    )
    if now != then:
        raise ConfigError(
            "`student.warm_start` needs the same features, in the same order, as in "
            f"the run {run!r}. Received: {', '.join(now)}; the earlier run has "
            f"{', '.join(then)}."
        )


def _require_same_values(own: Schema, before: Schema, run: str) -> None:
    """Checks that the rows of embedding tables stand for the same values.

    Raises:
        ConfigError: Names the feature.
    """
    pairs = zip(
        (*own.query, *own.candidate), (*before.query, *before.candidate), strict=True
    )
    for now, then in pairs:
        same = now.spec.kind == then.spec.kind
        if isinstance(now, VocabularyEncoder) and isinstance(then, VocabularyEncoder):
            same &= now.values.slice(0, len(then.values)).equals(then.values)
        elif isinstance(now.spec, TextSpec) and isinstance(then.spec, TextSpec):
            same &= now.spec.buckets == then.spec.buckets
        if not same:
            raise ConfigError(
                "`student.warm_start` needs features whose known values are those of "
                f"the run {run!r}, of the same kind and with the same `buckets`. "
                f"Received: {now.feature!r}, which differs."
            )


def start_from(student: keras.Model, earlier: keras.Model, run: str) -> dict[str, Any]:
    """Copies the weights of an earlier student, whose vocabularies this one extends.

    A row of an embedding table for a new value starts as the row of unknown values,
    which stands for an average one.

    Args:
        student: The student to train.
        earlier: The earlier student.
        run: The earlier run, for the message.

    Returns:
        `new_rows`, the number of rows of embedding tables for new values.

    Raises:
        ConfigError: If the students have different features or widths.
    """
    pairs = _pairs(student, earlier, run)
    values, new_rows = [], 0
    for weight, before in pairs:
        old = np.asarray(before)
        rows = weight.shape[0] - len(old) if old.ndim else 0
        table = weight.path.endswith(TABLE) and rows >= 0
        if tuple(weight.shape[1:]) != old.shape[1:] or (rows and not table):
            raise ConfigError(
                "`student.warm_start` needs a student with the widths of that in the "
                f"run {run!r}. Received: {_name(weight)!r} of shape "
                f"{tuple(weight.shape)}, and {old.shape} in the earlier run."
            )
        if rows:
            old = np.concatenate([old, np.repeat(old[UNKNOWN][None], rows, axis=0)])
        values.append(old)
        new_rows += rows
    for (weight, _), value in zip(pairs, values, strict=True):
        weight.assign(value)
    return {"new_rows": new_rows}


def _pairs(
    student: keras.Model, earlier: keras.Model, run: str
) -> list[tuple[Any, Any]]:
    """Each weight of the student with that of the earlier student.

    They are matched by their order, because Keras numbers the names of layers through
    all models of a process.

    Raises:
        ConfigError: If a weight has no counterpart.
    """
    pairs = list(zip_longest(_trained(student), _trained(earlier)))
    for own, before in pairs:
        if own is None or before is None or _name(own) != _name(before):
            extra, where = (
                (own, "this run") if own is not None else (before, "that run")
            )
            raise ConfigError(
                "`student.warm_start` needs the same features, in the same order, and "
                f"the same settings of the student as in the run {run!r}. Received: "
                f"the weight {_name(extra)!r} of the student of {where}, which has no "
                "counterpart in the other student."
            )
    return pairs


def _trained(model: keras.Model) -> list[Any]:
    """The weights without the state of random generators."""
    return [each for each in model.weights if "seed_generator" not in each.path]


def _name(weight: Any) -> str:
    """The path of a weight, without the model's name and without Keras's numbers."""
    _, _, path = weight.path.partition("/")
    return "/".join(re.sub(r"_\d+$", "", part) for part in path.split("/"))
