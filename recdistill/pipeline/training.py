"""Training of teachers and students: one loop, the best checkpoint on validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.data.collation import Collator
from recdistill.data.shard_reading import batches
from recdistill.distillation.distiller import Distiller
from recdistill.distillation.score_transforms import Transform, transformed
from recdistill.losses import ListwiseCrossEntropy
from recdistill.models.ranker import RankingTeacher
from recdistill.models.two_tower import TwoTowerStudent
from recdistill.pipeline.config import Config
from recdistill.pipeline.model_building import (
    WEIGHTS,
    build_student,
    parameters,
    reads_affinities,
)
from recdistill.pipeline.partitions import Progress
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.teacher_config import ReferenceTeacherConfig
from recdistill.pipeline.validation import Validation, compiled

CHECKS = 10
"""How often a student is validated in training."""


class BestCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Ranks the validation lists after each epoch and keeps the best weights.

    Args:
        model: The model to judge and to restore; inside a Distiller, the student.
        validation: The lists.
        progress: Told how far training is.
        label: What is trained, for people.
        epochs: How many epochs there will be.
        patience: Epochs without a new best after which training stops.
    """

    def __init__(
        self,
        model: keras.Model,
        validation: Validation,
        progress: Progress,
        label: str,
        epochs: int,
        patience: int,
    ) -> None:
        super().__init__()
        self._judged, self._validation = model, validation
        self._progress, self._label, self._epochs = progress, label, epochs
        self._patience = patience
        self._score = compiled(model)
        self._weights: list[np.ndarray] = []
        self.best, self.best_epoch = -np.inf, 0
        self.history: list[float] = []
        self._step = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Moves the progress bar."""
        self._step += 1
        if self._step % 20 == 0 and self.params["steps"]:
            total = self._epochs * self.params["steps"]
            self._progress(self._label, self._step, total)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Judges; stops where nothing gets better."""
        value = self._validation(self._score)
        self.history.append(round(value, 6))
        if value > self.best:
            self.best, self.best_epoch = value, epoch + 1
            self._weights = self._judged.get_weights()
        elif epoch + 1 - self.best_epoch >= self._patience:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Restores the best weights.

        Raises:
            ValueError: If the model never gave a number.
        """
        if not self._weights:
            raise ValueError(
                f"{self._label}: no checkpoint could be judged. Lower the learning "
                "rate."
            )
        self._judged.set_weights(self._weights)


@dataclass(frozen=True)
class Fitted:
    """What training came to.

    Attributes:
        best: The validation metric of the weights that were kept.
        best_epoch: The epoch, counted from 1, after which they were saved.
        history: The validation metric after each epoch.
        learning_rate: The one that was used.
    """

    best: float
    best_epoch: int
    history: list[float]
    learning_rate: float


def train(
    distiller: Distiller,
    dataset: tf.data.Dataset,
    validation: Validation,
    *,
    learning_rate: float,
    steps: int,
    epochs: int,
    patience: int,
    progress: Progress,
    label: str,
    weight_decay: float = 0.0,
) -> Fitted:
    """Trains the distiller's student and leaves the best weights in it.

    Args:
        distiller: The student, its losses and their weights.
        dataset: Batches of the tensor contract, as many as are asked for.
        validation: Judges after each epoch.
        learning_rate: At the start; it falls along a cosine to zero.
        steps: Steps in all.
        epochs: In how many equal parts, each followed by validation.
        patience: Epochs without a new best after which training stops.
        progress: Told how far training is.
        label: What is trained, for people.
        weight_decay: Decoupled weight decay.
    """
    per_epoch = max(1, steps // epochs)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, per_epoch * epochs)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay)
    distiller.compile(optimizer, loss=ListwiseCrossEntropy(), jit_compile=False)
    best = BestCheckpoint(
        distiller.student, validation, progress, label, epochs, patience
    )
    distiller.fit(
        dataset,
        steps_per_epoch=per_epoch,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[best],
    )
    return Fitted(best.best, best.best_epoch, best.history, learning_rate)


def training_batches(
    shards: Sequence[Path],
    collate: Collator,
    batch_size: int,
    seed: int,
    transform: Transform = "none",
    unit: float = 1.0,
) -> tf.data.Dataset:
    """Endless training batches.

    Args:
        shards: Files of lists.
        collate: Makes a batch.
        batch_size: Lists in it.
        seed: Seeds order and sampling.
        transform: What becomes of stored teacher scores, list by list.
        unit: What they are then divided by.
    """
    dataset = batches(shards, collate, batch_size, seed=seed)
    if collate.with_teacher:

        def prepare(x: dict[str, Any], y: Any, weight: Any) -> Any:
            scores = transformed(x["teacher_scores"], x["mask"], transform) / unit
            return {**x, "teacher_scores": scores}, y, weight

        dataset = dataset.map(prepare)
    return dataset


class Trainer:
    """Trains rankers and students as a configuration says.

    Args:
        config: The pipeline's configuration.
        prepared: The prepared data.
        validation: Chooses checkpoints and learning rates.
        progress: Told how far training is.
    """

    def __init__(
        self,
        config: Config,
        prepared: Prepared,
        validation: Validation,
        progress: Progress,
    ) -> None:
        self._config, self._prepared = config, prepared
        self._validation, self._progress = validation, progress

    @property
    def tail(self) -> int | None:
        """How many candidates are drawn for a list that has no teacher scores."""
        lists = self._config.lists
        return None if lists.size == "catalogue" else lists.teacher_top + lists.tail

    def ranker(
        self, model: RankingTeacher, settings: ReferenceTeacherConfig
    ) -> dict[str, Any]:
        """Trains a reference ranker on the lists that the student trains on.

        Returns:
            The result of training, JSON-ready.
        """
        prepared = self._prepared
        training_rows = (
            prepared.training_rows if reads_affinities(settings, prepared) else None
        )
        shards = prepared.shards("train")
        lists = sum(pq.read_metadata(path).num_rows for path in shards)
        fitted = train(
            Distiller(None, model, student_loss_weight=1.0),
            training_batches(
                shards,
                Collator(prepared.catalogue_size, self.tail, True, training_rows),
                settings.batch_size,
                self._config.seed,
            ),
            self._validation,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            steps=max(1, lists // settings.batch_size) * settings.epochs,
            epochs=settings.epochs,
            patience=settings.epochs,
            progress=self._progress,
            label="Training the teacher",
        )
        return {"model": model.name, **vars(fitted)}

    def student(
        self,
        folder: Path,
        distiller: Callable[[TwoTowerStudent], Distiller],
        dataset: tf.data.Dataset,
        label: str,
    ) -> dict[str, Any]:
        """Tries each learning rate and keeps the student that is best on validation.

        Args:
            folder: Where its weights and its validation rows go.
            distiller: Puts a fresh student to work.
            dataset: Batches.
            label: What is trained, for people.

        Returns:
            The step's record.
        """
        settings, trials, best = self._config.student, [], -np.inf
        rates = settings.learning_rates
        for number, rate in enumerate(rates):
            keras.utils.set_random_seed(self._config.seed)
            student = build_student(settings, self._prepared)
            count = f", {number + 1} of {len(rates)}" if len(rates) > 1 else ""
            fitted = train(
                distiller(student),
                dataset,
                self._validation,
                learning_rate=rate,
                steps=settings.steps,
                epochs=min(CHECKS, settings.steps),
                patience=CHECKS,
                progress=self._progress,
                label=f"{label}{count}",
            )
            trials.append(vars(fitted))
            if fitted.best > best:
                best = fitted.best
                student.save_weights(folder / WEIGHTS)
                rows = self._validation.rows(compiled(student))
                pq.write_table(rows, folder / "valid.parquet")
        return {"valid": best, "trials": trials, "parameters": parameters(student)}
