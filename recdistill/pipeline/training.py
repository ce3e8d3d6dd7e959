"""Training of rankers and students: one loop that keeps the best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.data.collation import Collator
from recdistill.data.dataset import Progress
from recdistill.data.sequences import training_windows, window_batches
from recdistill.data.shard_reading import batches
from recdistill.distillation.distiller import Distiller
from recdistill.distillation.score_transforms import transformed
from recdistill.errors import TrainingError
from recdistill.features.encoders import UNKNOWN
from recdistill.losses import ListwiseCrossEntropy
from recdistill.models.ranker import RankingTeacher
from recdistill.models.sequence_ranker import SequenceRanker
from recdistill.pipeline.config import Config
from recdistill.pipeline.config.teacher_section import (
    ReferenceTeacherConfig,
    SequenceTeacherConfig,
)
from recdistill.pipeline.memory import require_for_batches
from recdistill.pipeline.model_building import (
    build_student,
    parameters,
    reads_affinities,
)
from recdistill.pipeline.next_item_model import NextItemModel
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.scorers import compiled
from recdistill.pipeline.soft_targets import SoftTargets
from recdistill.pipeline.training_curves import (
    CurveRecorder,
    MeasuredAdamW,
    Observer,
    unobserved,
)
from recdistill.pipeline.validation import Validation
from recdistill.pipeline.weights_file import save_weights

TAIL_OF_SHOWN = 0.25
"""Uniformly drawn candidates per shown candidate, if lists say what was shown."""

TEACHER_VALIDATIONS = 5
"""Number of validations while a sequence ranker is trained."""

VALIDATIONS = 10
"""Number of validations while a student is trained."""


@dataclass(frozen=True)
class TrainingPlan:
    """Duration and learning rate of a training run.

    Attributes:
        learning_rate: Initial learning rate; it follows a cosine decay to zero.
        steps: Number of training steps.
        epochs: Number of equal parts of the steps, each followed by a validation.
        patience: Epochs without improvement after which training stops.
        weight_decay: Decoupled weight decay.
    """

    learning_rate: float
    steps: int
    epochs: int
    patience: int
    weight_decay: float = 0.0

    @property
    def epoch_steps(self) -> int:
        """Number of training steps in an epoch."""
        return max(1, self.steps // self.epochs)


@dataclass(frozen=True)
class TrainingResult:
    """Result of one training run.

    Attributes:
        best: The validation metric of the weights that were kept.
        best_epoch: The epoch, counted from 1, after which they were saved.
        history: The validation metric after each epoch; None if training diverged.
        learning_rate: The initial learning rate.
        epoch_steps: Number of training steps in an epoch.
        curve: Losses, learning rate and gradient norm
            (`recdistill.pipeline.training_curves.CurveRecorder`).
    """

    best: float
    best_epoch: int
    history: list[float | None]
    learning_rate: float
    epoch_steps: int
    curve: Mapping[str, list[float | None]]


class DivergedError(TrainingError):
    """A training run that diverged before its first validation.

    Args:
        label: The activity.
        result: The training curve so far; it has no best epoch.
    """

    def __init__(self, label: str, result: TrainingResult) -> None:
        super().__init__(
            f"{label} diverged with learning rate {result.learning_rate:g}: at its "
            "first validation the model's scores were not finite. Use a lower "
            "learning rate. If weights or temperatures of the loss are very large, "
            "lower these."
        )
        self.result = result


class BestCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Validates after each epoch, stops early and restores the best weights.

    Args:
        model: The model to validate and to restore; in a Distiller, the student.
        validation: The validation lists.
        plan: Number of epochs and patience.
        progress: Callback for progress.
        label: The activity, for the progress display.
        observe: Called with each validation metric.
    """

    def __init__(
        self,
        model: keras.Model,
        validation: Validation,
        plan: TrainingPlan,
        progress: Progress,
        label: str,
        observe: Observer = unobserved,
    ) -> None:
        super().__init__()
        self._observe = observe
        self._validated, self._validation = model, validation
        self._plan, self._progress, self._label = plan, progress, label
        self._scorer = compiled(model)
        self._weights: list[np.ndarray] = []
        self.best, self.best_epoch = -np.inf, 0
        self.history: list[float | None] = []
        self._step = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Reports progress."""
        self._step += 1
        if self._step % 20 == 0:
            self._progress(self._label, self._step, self._total)

    @property
    def _total(self) -> int:
        """Number of training steps."""
        return int(self._plan.epochs * self.params["steps"])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Validates; keeps the weights if they are the best, or stops training."""
        try:
            value = self._validation(self._finite_scores)
        except TrainingError:
            self.history.append(None)
            self.model.stop_training = True
            return
        self.history.append(round(value, 6))
        self._observe((epoch + 1) * self._plan.epoch_steps, {"validation": value})
        note = f"{self._validation.metrics[0]} {value:.4f} on validation"
        self._progress(self._label, self._step, self._total, note)
        if value > self.best:
            self.best, self.best_epoch = value, epoch + 1
            self._weights = self._validated.get_weights()
        elif epoch + 1 - self.best_epoch >= self._plan.patience:
            self.model.stop_training = True

    def _finite_scores(self, batch: Any) -> np.ndarray:
        """The model's scores of a batch.

        Raises:
            TrainingError: If one is not finite.
        """
        scores = np.asarray(self._scorer(batch))
        if not np.isfinite(scores).all():
            raise TrainingError("The model's scores are not finite.")
        return scores

    def on_train_end(self, logs: Any = None) -> None:
        """Restores the best weights; there are none if training diverged."""
        if self._weights:
            self._validated.set_weights(self._weights)


def train(
    model: Distiller | NextItemModel,
    dataset: tf.data.Dataset,
    validation: Validation,
    plan: TrainingPlan,
    progress: Progress,
    label: str,
    observe: Observer = unobserved,
) -> TrainingResult:
    """Trains the model's student and restores its best weights.

    Args:
        model: The student and its losses.
        dataset: Endless training batches.
        validation: Chooses the best weights.
        plan: How long and how fast to train.
        progress: Callback for progress.
        label: The activity, for the progress display.
        observe: Called with the points of the training curve while training.

    Raises:
        DivergedError: If training diverges before the first validation.
    """
    per_epoch = plan.epoch_steps
    schedule = keras.optimizers.schedules.CosineDecay(
        plan.learning_rate, per_epoch * plan.epochs
    )
    optimizer = MeasuredAdamW(schedule, plan.weight_decay, per_epoch)
    loss = None if isinstance(model, NextItemModel) else ListwiseCrossEntropy()
    model.compile(optimizer, loss=loss, jit_compile=False)
    recorder = CurveRecorder(per_epoch, observe)
    best = BestCheckpoint(model.student, validation, plan, progress, label, observe)
    model.fit(
        dataset,
        steps_per_epoch=per_epoch,
        epochs=plan.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[recorder, best],
    )
    result = TrainingResult(
        best.best,
        best.best_epoch,
        best.history,
        plan.learning_rate,
        per_epoch,
        recorder.curve,
    )
    if not best.best_epoch:
        raise DivergedError(label, result)
    return result


def training_batches(
    shards: Sequence[Path],
    collate: Collator,
    batch_size: int,
    seed: int,
    targets: SoftTargets | None = None,
) -> tf.data.Dataset:
    """Endless training batches.

    Args:
        shards: Files of lists.
        collate: Makes a batch.
        batch_size: Number of lists in a batch.
        seed: Seed of order and sampling.
        targets: How stored teacher scores become soft targets; None leaves them
            unchanged.
    """
    dataset = batches(shards, collate, batch_size, seed=seed)
    if targets is None:
        return dataset
    transform, temperature = targets.transform, targets.teacher_temperature

    def prepare(x: dict[str, Any], y: Any, weight: Any) -> Any:
        scores = transformed(x["teacher_scores"], x["mask"], transform) / temperature
        return {**x, "teacher_scores": scores}, y, weight

    return dataset.map(prepare)


def with_few_untrained(
    dataset: tf.data.Dataset, trained: np.ndarray, share: float, seed: int
) -> tf.data.Dataset:
    """Masks the items without training interactions, except a random share of them.

    They share the embedding of unknown ids with the items whose ids are hidden by id
    dropout, and they are never positives. With the same share of both, this embedding
    is that of an average item of the catalogue; with all of them, it would learn from
    negatives mostly.

    Args:
        dataset: Training batches.
        trained: `(items,)` bool, whether each item has training interactions.
        share: The share that stays, in each batch.
        seed: Seed of the random share.
    """

    def mask(step: tf.Tensor, batch: Any) -> Any:
        x, y, weight = batch
        index = x["candidate_index"]
        drawn = tf.random.stateless_uniform(tf.shape(index), (seed, step)) < share
        kept = tf.gather(trained, index) | drawn
        if "mask" in y:
            y = {**y, "mask": y["mask"] & kept}
        return {**x, "mask": x["mask"] & kept}, y, weight

    return dataset.enumerate().map(mask)


class Trainer:
    """Trains rankers and students according to a configuration.

    Args:
        config: The pipeline's configuration.
        prepared: The prepared data.
        validation: Chooses checkpoints and learning rates.
        progress: Callback for progress.
        warn: Callback for warnings.
        observe: Called with the name of a training run, and the points of its curve
            while it trains.
    """

    def __init__(
        self,
        config: Config,
        prepared: Prepared,
        validation: Validation,
        progress: Progress,
        warn: Callable[[str], None],
        observe: Callable[[str, int, Mapping[str, float]], None] | None = None,
    ) -> None:
        self._config, self._prepared = config, prepared
        self._validation, self._progress, self._warn = validation, progress, warn
        self._observe = observe

    def _observer(self, name: str) -> Observer:
        """Passes on the points of the training run of this name."""
        return unobserved if self._observe is None else partial(self._observe, name)

    @property
    def tail(self) -> int | None:
        """Candidates drawn for a list without teacher scores; None for all items.

        If the lists say what was shown, the shown candidates are used, and a few others
        are drawn, so that items that are never shown do not rank high.
        """
        if self._prepared.has_shown_candidates:
            shown = float(self._prepared.observed_sizes.mean())
            return math.ceil(shown * TAIL_OF_SHOWN)
        lists = self._config.lists
        return None if lists.size == "catalogue" else lists.teacher_top + lists.tail

    def batches(
        self,
        shards: Sequence[Path],
        collate: Collator,
        targets: SoftTargets | None = None,
    ) -> tf.data.Dataset:
        """Training batches of the student, as in `training_batches`."""
        settings, seed = self._config.student, self._config.seed
        self._require_memory(shards, settings.batch_size, "student.batch_size")
        dataset = training_batches(shards, collate, settings.batch_size, seed, targets)
        schema, catalogue = self._prepared.schema, self._prepared.catalogue
        trained = np.asarray(catalogue[schema.item_id]) != UNKNOWN
        features = len(schema.for_student().candidate)
        if not settings.id_dropout or features == 1 or trained.all():
            return dataset
        return with_few_untrained(dataset, trained, settings.id_dropout, seed)

    def _require_memory(self, shards: Sequence[Path], size: int, key: str) -> None:
        """Checks the memory for a batch, which never has more lists than there are."""
        lists = sum(pq.read_metadata(path).num_rows for path in shards)
        candidates = self.tail or self._prepared.catalogue_size
        candidates = min(candidates, self._prepared.catalogue_size)
        require_for_batches(min(size, lists), candidates, key)

    def teacher(
        self,
        model: RankingTeacher | SequenceRanker,
        settings: ReferenceTeacherConfig | SequenceTeacherConfig,
    ) -> dict[str, Any]:
        """Trains a teacher.

        Returns:
            The result of training, JSON-ready.
        """
        if isinstance(settings, SequenceTeacherConfig):
            return self._sequence_ranker(model, settings)
        return self._ranker(model, settings)

    def _sequence_ranker(
        self, model: SequenceRanker, settings: SequenceTeacherConfig
    ) -> dict[str, Any]:
        """Trains a sequence ranker on windows over the training items."""
        prepared = self._prepared
        windows = training_windows(
            prepared.shards("train"),
            model.model_inputs.history_name,
            prepared.item_index,
            settings.attention_length,
        )
        if not len(windows):
            raise TrainingError(
                "A teacher of kind `sequence` needs queries with at least two training "
                "interactions. Received: none"
            )
        size = min(settings.batch_size, len(windows))
        positions = size * settings.attention_length
        require_for_batches(
            positions, model.negatives or model.items, "teacher.batch_size"
        )
        result = train(
            NextItemModel(model),
            window_batches(windows, size, self._config.seed),
            self._validation,
            TrainingPlan(
                learning_rate=settings.learning_rate,
                steps=settings.steps,
                epochs=min(TEACHER_VALIDATIONS, settings.steps),
                patience=TEACHER_VALIDATIONS,
                weight_decay=settings.weight_decay,
            ),
            self._progress,
            "Training the teacher",
            self._observer(model.name),
        )
        return {"model": model.name, **vars(result)}

    def _ranker(
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
        collate = Collator(
            prepared.catalogue_size,
            self.tail,
            shared=True,
            training_rows=training_rows,
        )
        shards, size = prepared.shards("train"), settings.batch_size
        self._require_memory(shards, size, "teacher.batch_size")
        lists = sum(pq.read_metadata(path).num_rows for path in shards)
        result = train(
            Distiller(None, model, student_loss_weight=1.0),
            training_batches(shards, collate, size, self._config.seed),
            self._validation,
            TrainingPlan(
                learning_rate=settings.learning_rate,
                steps=max(1, lists // size) * settings.epochs,
                epochs=settings.epochs,
                patience=settings.epochs,
                weight_decay=settings.weight_decay,
            ),
            self._progress,
            "Training the teacher",
            self._observer(model.name),
        )
        return {"model": model.name, **vars(result)}

    def student(
        self,
        folder: Path,
        distiller: Callable[[keras.Model], Distiller],
        dataset: tf.data.Dataset,
        label: str,
    ) -> dict[str, Any]:
        """Trains with each learning rate and keeps the student that is best.

        A learning rate with which training diverges is left out, with a warning.

        Args:
            folder: Folder for its weights and its validation metrics.
            distiller: Makes a Distiller of a student with initial weights.
            dataset: Endless training batches.
            label: The activity, for the progress display.

        Returns:
            The step's record.

        Raises:
            TrainingError: If training diverges with every learning rate.
        """
        settings, trials, best = self._config.student, [], -np.inf
        rates = settings.learning_rates
        for number, rate in enumerate(rates):
            keras.utils.set_random_seed(self._config.seed)
            student = build_student(settings, self._prepared)
            count = f", {number + 1} of {len(rates)}" if len(rates) > 1 else ""
            plan = TrainingPlan(
                learning_rate=rate,
                steps=settings.steps,
                epochs=min(VALIDATIONS, settings.steps),
                patience=VALIDATIONS,
            )
            try:
                result = train(
                    distiller(student),
                    dataset,
                    self._validation,
                    plan,
                    self._progress,
                    f"{label}{count}",
                    self._observer(f"learning_rate_{rate:g}"),
                )
            except DivergedError as error:
                if number + 1 == len(rates) and not np.isfinite(best):
                    raise
                trials.append({**vars(error.result), "best": None, "diverged": True})
                self._warn(str(error))
                continue
            trials.append({**vars(result), "diverged": False})
            if result.best > best:
                best = result.best
                save_weights(student, folder)
                rows = self._validation.rows(compiled(student))
                pq.write_table(rows, folder / "valid.parquet")
        return {"valid": best, "trials": trials, "parameters": parameters(student)}
