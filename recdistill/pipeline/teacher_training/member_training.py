"""Training of a teacher's members, and of their folds, each into its own folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.atomic import file_checksum, fingerprint, read_sealed, write_sealed
from recdistill.data.batches import RAW_PREFIX
from recdistill.errors import TrainingError
from recdistill.models.cross_fitting import folds_of
from recdistill.pipeline.config.teacher_section import folds_in, given, is_trained
from recdistill.pipeline.models.model_building import (
    Teacher,
    TeacherBuilder,
    fold_folder,
)
from recdistill.pipeline.models.weights_file import (
    WEIGHTS,
    load_weights,
    save_weights,
)

if TYPE_CHECKING:
    from recdistill.pipeline.config.section import Section
    from recdistill.pipeline.run_context import RunContext

RECORD = "training.json"
"""File with the result of a training run; without it, the run was not finished."""


TRIED = "tried.json"
"""File with the candidates that an automatic search has tried."""


class MemberTraining:
    """Trains the members of a teacher.

    A finished training run is a folder with its weights and its result, so that a
    stopped attempt continues with the next run. Each run starts with the same random
    numbers, whatever was trained before.

    Args:
        run: The run.
        builder: Builds the models.
        folder: Folder of the step.
    """

    def __init__(self, run: RunContext, builder: TeacherBuilder, folder: Path) -> None:
        self._run, self._builder, self._folder = run, builder, folder

    def member(self, settings: Section, same: int = 0) -> tuple[Teacher, Any]:
        """A member that is trained on all training lists, fitted, or opened.

        Args:
            settings: Its settings.
            same: Number of members before it that have the same settings.

        Returns:
            The member, and the result of its training; None if it is not trained.
        """
        model: Any = self._builder.member(settings, same)
        if not is_trained(settings):
            return model, None
        own = fingerprint([given(settings), same])
        folder = self._folder / f"member-{own[:12]}"
        trainer = self._run.teacher_trainer
        return model, self._trained(
            folder, model, same, lambda: trainer.teacher(model, settings)
        )

    def cross_fit(self, settings: Section, number: int, same: int) -> list[Any]:
        """Trains a member without each fold of the queries, if it is configured.

        Args:
            settings: The member's settings.
            number: Its number among the members.
            same: Number of members before it that have the same settings.

        Returns:
            The result of each training run.
        """
        return [
            self._trained_without(settings, number, same, fold)
            for fold in range(folds_in(settings))
        ]

    def finish(self) -> None:
        """Removes what only a stopped attempt needs."""
        for folder in self._folder.glob("member-*"):
            shutil.rmtree(folder)
        (self._folder / TRIED).unlink(missing_ok=True)

    def _trained_without(
        self, settings: Any, number: int, same: int, fold: int
    ) -> dict[str, Any]:
        """The result of training without a fold; the weights are in its folder."""
        folder = fold_folder(self._folder, number, fold)
        folder.parent.mkdir(exist_ok=True)
        model: Any = self._builder.member(settings, same)
        trainer, prepared = self._run.teacher_trainer, self._run.prepared
        rows = prepared.training_rows
        left_out = folds_of(rows, settings.folds) == fold

        def train() -> dict[str, Any]:
            part = f"without fold {fold + 1} of {settings.folds}"
            shards = shards_without(
                prepared.shards("train"), left_out, folder / "lists"
            )
            if not shards:
                raise TrainingError(
                    "`teacher.folds` must divide the queries so that training lists "
                    f"are left without each fold. Received: {settings.folds} folds; "
                    f"all training lists are of queries in fold {fold + 1}. Set it to "
                    "0, which trains the teacher on all lists only."
                )
            result = trainer.teacher(model, settings, shards, part)
            shutil.rmtree(folder / "lists")
            return result

        return self._trained(folder, model, same, train)

    def _trained(
        self,
        folder: Path,
        model: keras.Model,
        same: int,
        train: Callable[[], dict[str, Any]],
    ) -> dict[str, Any]:
        """The result of a training run, which an earlier attempt may have finished."""
        weights = folder / WEIGHTS
        try:
            found = read_sealed(folder / RECORD)
            if file_checksum(weights) == found["sha256"]:
                load_weights(model, folder)
                return dict(found["result"])
        except (OSError, ValueError):
            pass  # The training run was not finished.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        keras.utils.set_random_seed(self._run.config.seed + same)
        result: dict[str, Any] = train()
        save_weights(model, folder)
        sealed = {"result": result, "sha256": file_checksum(weights)}
        write_sealed(folder / RECORD, sealed)
        return result


def shards_without(
    shards: Sequence[Path], left_out: np.ndarray, folder: Path
) -> list[Path]:
    """Writes the training lists of some queries, without raw values.

    Args:
        shards: Files of training lists.
        left_out: `(queries,)` bool, the queries whose lists are left out.
        folder: Folder of the new files, which is created.

    Returns:
        The new files that have lists.
    """
    folder.mkdir()
    found = []
    for path in shards:
        names = pq.read_schema(path).names
        kept = [name for name in names if not name.startswith(RAW_PREFIX)]
        table = pq.read_table(path, columns=kept)
        table = table.filter(pa.array(~left_out[np.asarray(table["query_row"])]))
        if len(table):
            pq.write_table(table, folder / path.name, compression="lz4")
            found.append(folder / path.name)
    return found
