"""Warm start: a student starts with the weights of an earlier run's student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recdistill.errors import ConfigError
from recdistill.features.encoders import UNKNOWN
from recdistill.pipeline.workspace import Artefact, open_artefact

if TYPE_CHECKING:
    import keras

    from recdistill.pipeline.config import StudentConfig

TABLE = "embeddings"
"""Name of the weight of an embedding table."""


@dataclass(frozen=True)
class EarlierRun:
    """The latest finished distillation in the folder of another run.

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
        for path in sorted(folder.glob("distill-*"), key=_changed, reverse=True):
            distill = open_artefact(path)
            baseline = _needed(folder, distill, "baseline")
            prepare = _needed(folder, baseline, "prepare")
            if distill and baseline and prepare:
                return cls(distill, baseline, prepare)
        raise ConfigError(
            "`student.warm_start` must be the folder of a run with a finished step "
            f"`distill`, such as runs/NAME. Received: {str(folder)!r}, which has none."
        )

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

    def copy_to(self, student: keras.Model, config: StudentConfig) -> dict[str, Any]:
        """Copies the weights to a student whose vocabularies extend the earlier ones.

        Returns:
            For the record: `run`, the number of `new_rows` of embedding tables, and
            `earlier_seconds`, the time that the earlier training took.

        Raises:
            ConfigError: If the students have different features or widths.
            ArtefactError: If a file of the earlier run is damaged or missing.
        """
        from recdistill.pipeline.model_building import load_student
        from recdistill.pipeline.prepared_data import Prepared

        self.model.verify()
        self.prepare.verify()
        run = str(self.model.path.parent)
        try:
            prepared = Prepared(self.prepare.path)
            earlier = load_student(config, prepared, self.model.path)
        except (ValueError, KeyError) as error:
            raise ConfigError(
                "`student.warm_start` needs the same features and the same settings of "
                f"the student as in the run {run!r}, whose weights do not fit: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
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
    if not key:
        return None
    # Runs with the same data share the step `prepare`.
    for path in sorted(folder.parent.glob(f"*/{step}-{key[:12]}")):
        found = open_artefact(path)
        if found is not None and found.key == key:
            return found
    return None


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
    weights, before = _by_path(student.weights), _by_path(earlier.weights)
    differing = sorted(set(weights) ^ set(before))
    if differing:
        where = "this run" if differing[0] in weights else "the earlier run"
        raise ConfigError(
            "`student.warm_start` needs the same features and the same settings of the "
            f"student as in the run {run!r}. Received: the weight {differing[0]!r}, "
            f"which only the student of {where} has."
        )
    values, new_rows = {}, 0
    for path, weight in weights.items():
        old = np.asarray(before[path])
        rows = weight.shape[0] - len(old) if old.ndim else 0
        table = path.endswith(TABLE) and rows >= 0
        if tuple(weight.shape[1:]) != old.shape[1:] or (rows and not table):
            raise ConfigError(
                "`student.warm_start` needs a student with the widths of that in the "
                f"run {run!r}. Received: {path!r} of shape {tuple(weight.shape)}, and "
                f"{old.shape} in the earlier run."
            )
        if rows:
            old = np.concatenate([old, np.repeat(old[UNKNOWN][None], rows, axis=0)])
        values[path] = old
        new_rows += rows
    for path, weight in weights.items():
        weight.assign(values[path])
    return {"new_rows": new_rows}


def _by_path(weights: Sequence[Any]) -> dict[str, Any]:
    """The trained weights by path, without the model's name, which Keras may number.

    The state of random generators is left out.
    """
    return {
        weight.path.partition("/")[2]: weight
        for weight in weights
        if "seed_generator" not in weight.path
    }
