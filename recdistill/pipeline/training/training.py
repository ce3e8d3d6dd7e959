"""Training: one loop that keeps the best checkpoint."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from recdistill.atomic import fingerprint
from recdistill.data.dataset import Progress
from recdistill.distillation.distiller import Distiller
from recdistill.errors import TrainingError
from recdistill.lists.replicas import (
    first_workers_value,
    group_of_workers,
    slice_of_batch,
)
from recdistill.losses import ListwiseCrossEntropy
from recdistill.pipeline.models.scorers import compiled
from recdistill.pipeline.ranking.catalogue_ranking import NotRankableError
from recdistill.pipeline.ranking.validation import Validation
from recdistill.pipeline.training.next_item_model import NextItemModel
from recdistill.pipeline.training.training_checkpoints import (
    EpochCheckpoint,
    begin_training,
)
from recdistill.pipeline.training.training_curves import (
    CurveRecorder,
    Observer,
    measured_optimizer,
    unobserved,
)

Learner: TypeAlias = Distiller | NextItemModel
"""A model in training: its `student`, and the losses of this."""

TIMED_STEPS = 4
"""Number of training steps of which the seconds are measured together."""

TIMED_LISTS = 256
"""Largest number of validation lists from which the seconds of all are estimated."""

DIVERGED = -math.inf
"""Stands for the validation metric of a model with scores that are not finite."""


Batches: TypeAlias = Callable[[int], tf.data.Dataset]
"""Endless training batches, after a number that were delivered before."""


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
        return max(1, math.ceil(self.steps / self.epochs))


@dataclass(frozen=True)
class TrainingResult:
    """Result of one training run.

    Attributes:
        best: The validation metric of the weights that were kept.
        best_epoch: The epoch, counted from 1, after which they were saved.
        history: The validation metric after each epoch; None if training diverged.
        learning_rate: The initial learning rate.
        epoch_steps: Number of training steps in an epoch.
        validation_lists: Number of lists of a validation
            (`recdistill.pipeline.ranking.validation.Validation.during_training`).
        curve: Losses, learning rate and gradient norm
            (`recdistill.pipeline.training.training_curves.CurveRecorder`).
    """

    best: float
    best_epoch: int
    history: list[float | None]
    learning_rate: float
    epoch_steps: int
    validation_lists: int
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
        value = first_workers_value(self._value)
        if value == DIVERGED:
            self.history.append(None)
            self.model.stop_training = True
            return
        self.history.append(round(value, 6))
        self._tell(epoch)
        note = f"{self._validation.metrics[0]} {value:.4f} on validation"
        self._progress(self._label, self._step, self._total, note)
        if value > self.best:
            self.best, self.best_epoch = value, epoch + 1
            self._weights = self._validated.get_weights()
        elif epoch + 1 - self.best_epoch >= self._plan.patience:
            self.model.stop_training = True

    def _value(self) -> float:
        """The validation metric; `DIVERGED` if a score is not finite."""
        try:
            return self._validation(self._scorer)
        except NotRankableError:
            return DIVERGED

    def state(self) -> dict[str, Any]:
        """All that is known so far, for a checkpoint."""
        names = ("best", "best_epoch", "history", "_weights", "_step")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from a checkpoint; tells the observer the earlier values again."""
        self.__dict__.update(state)
        for epoch in range(len(self.history)):
            self._tell(epoch)

    def _tell(self, epoch: int) -> None:
        """Passes the validation metric of an epoch to the observer."""
        if (value := self.history[epoch]) is not None:
            step = (epoch + 1) * self._plan.epoch_steps
            self._observe(step, {"validation": value})

    def on_train_end(self, logs: Any = None) -> None:
        """Restores the best weights; there are none if training diverged."""
        if self._weights:
            self._validated.set_weights(self._weights)


def train(
    model: Learner,
    batches: Batches,
    validation: Validation,
    plan: TrainingPlan,
    progress: Progress,
    label: str,
    observe: Observer = unobserved,
    *,
    xla: bool = False,
    identity: Any = None,
) -> TrainingResult:
    """Trains the model's student and restores its best weights.

    Args:
        model: The student and its losses.
        batches: The training batches.
        validation: Chooses the best weights; on a large catalogue, some of its lists.
        plan: How long and how fast to train.
        progress: Callback for progress.
        label: The activity, for the progress display.
        observe: Called with the points of the training curve while training.
        xla: Whether to compile the step with XLA. All batches should have the same
            shapes, because it is compiled again for each further shape.
        identity: What the result depends on besides its name, its plan and the first
            weights, JSON-ready. A checkpoint of a stopped attempt is only used for the
            same training run.

    Raises:
        DivergedError: If training diverges before the first validation.
    """
    per_epoch, validation = plan.epoch_steps, validation.during_training()
    _compile(model, plan)
    # Keras refuses XLA where operations must be deterministic. On CPUs those of the
    # student are: a test compares the weights of two runs. XLA has no exchange between
    # workers.
    model._jit_compile = xla and group_of_workers() is None
    recorder = CurveRecorder(per_epoch, observe)
    best = BestCheckpoint(model.student, validation, plan, progress, label, observe)
    state, keep = begin_training(_key(model, plan, [label, identity]))
    parts: dict[str, Any] = {"curve": recorder, "best": best}
    for name, values in state.get("parts", {}).items():
        parts[name].restore(values)
    if state.get("over"):
        best.on_train_end()
    else:
        done = state.get("epoch", 0)
        dataset = batches(done * per_epoch)
        if group_of_workers() is not None:
            dataset = dataset.map(tf.autograph.experimental.do_not_convert(_own_part))
        model.fit(
            dataset,
            steps_per_epoch=per_epoch,
            epochs=plan.epochs,
            initial_epoch=done,
            shuffle=False,
            verbose=0,
            callbacks=[
                recorder,
                best,
                EpochCheckpoint(state, keep, parts, plan.epochs),
            ],
        )
    result = TrainingResult(
        best.best,
        best.best_epoch,
        best.history,
        plan.learning_rate,
        per_epoch,
        len(validation),
        recorder.curve,
    )
    if not best.best_epoch:
        raise DivergedError(label, result)
    return result


def seconds_to_train(
    model: Learner,
    batches: Batches,
    validation: Validation,
    plan: TrainingPlan,
) -> float:
    """Estimate of the seconds that `train` takes, from a few steps.

    Args:
        model: The student, whose weights change, and its losses.
        batches: The training batches.
        validation: The validation lists.
        plan: How long to train.
    """
    _compile(model, plan)
    times = [perf_counter()]
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: times.append(perf_counter())
    )
    # The first part includes the compilation.
    model.fit(
        batches(0),
        steps_per_epoch=TIMED_STEPS,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[clock],
    )
    begin, first, second = times
    scorer, validation = compiled(model.student), validation.during_training()
    sample = validation.first(TIMED_LISTS)
    sample(scorer)  # Compiles the scorer.
    compiled_at = perf_counter()
    sample(scorer)
    share = len(sample) / len(validation)
    of_validation = (perf_counter() - compiled_at) / share
    steps = plan.epoch_steps * plan.epochs
    of_steps = (second - first) / TIMED_STEPS * steps
    return first - begin + of_steps + of_validation * plan.epochs


def _key(model: Learner, plan: TrainingPlan, identity: Any) -> str:
    """Key of a training run: its identity, its plan and its first weights."""
    digest = hashlib.sha256()
    for values in model.student.get_weights():
        digest.update(np.ascontiguousarray(values).data)
    return fingerprint([identity, vars(plan), digest.hexdigest()])[:16]


def _compile(model: Learner, plan: TrainingPlan) -> None:
    """Compiles the model without XLA."""
    per_epoch = plan.epoch_steps
    schedule = keras.optimizers.schedules.CosineDecay(
        plan.learning_rate, per_epoch * plan.epochs
    )
    optimizer = measured_optimizer(model, schedule, plan.weight_decay, per_epoch)
    loss = None if isinstance(model, NextItemModel) else ListwiseCrossEntropy()
    model.compile(optimizer, loss=loss, jit_compile=False)
    # A step that creates variables would be traced twice.
    optimizer.build(model.trainable_variables)


def _own_part(*batch: Any) -> Any:
    """The part of a batch that this worker trains on."""
    return slice_of_batch(batch if len(batch) > 1 else batch[0])
