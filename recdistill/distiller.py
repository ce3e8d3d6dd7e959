r"""The Distiller: trains a student on what people chose and on what its teacher thinks.

It is a plain `keras.Model` around the student. `compile`, `fit`, `evaluate`, `predict`
and callbacks work as ever; only the loss is new:

$$ L = w \, L_\text{relevance} + \sum_i w_i \, L_{\text{distillation}, i} + R $$

with $w$ the `student_loss_weight`, $w_i$ the `distillation_loss_weights` and $R$ the
student's own regularisation. `fit` and `evaluate` report $L$ as `loss`, and, before
weighting, `relevance_loss` and `distillation_loss`.

A batch is `(x, y)` or `(x, y, sample_weight)`, where

- `x` is a dict. `query` holds features `{name: (batch, …)}`, `candidate_index` is
  `(batch, list_size)`, or `(list_size,)` where all lists share their candidates, `mask`
  is `(batch, list_size)`, bool, and so is `teacher_scores`, if there, in floats;
- `y` is `{"labels": relevance, "mask": mask}`, or relevance alone;
- `sample_weight` is `(batch,)`, one weight a list.

The student reads from `x` what it likes, and so does the teacher, which may use
features that no student will ever have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from recdistill import lists
from recdistill.lists import Tensor

__all__ = ["Distiller"]

Batch: TypeAlias = dict[str, Any]
Losses: TypeAlias = keras.losses.Loss | Sequence[keras.losses.Loss] | None


@dataclass(frozen=True)
class _Compiled:
    """What `compile` was given, kept out of reach of Keras's attribute tracking.

    Keras itself would hand `y` to losses and metrics without its mask.
    """

    loss: keras.losses.Loss | None
    metrics: Sequence[keras.metrics.Metric]
    weighted_metrics: Sequence[keras.metrics.Metric]
    means: dict[str, keras.metrics.Mean]


@keras.saving.register_keras_serializable(package="recdistill")
class Distiller(keras.Model):  # type: ignore[misc]
    """Trains a student model on relevance and on the scores of a teacher.

    Where a batch has `teacher_scores` they are used and no teacher runs. Else the
    teacher runs once a step, with `training=False`. The teacher is not part of the
    model: its variables are neither trained, counted nor saved. A saved distiller holds
    the student, and comes back with `teacher=None`.

    With neither teacher nor distillation losses and `student_loss_weight=1.0` the
    student trains on relevance alone. This is how its twin, the baseline, is trained.

    Args:
        teacher: Called as `teacher(x, training=False)`, it returns scores `(batch,
            list_size)`. A Keras model, or any such function. None where all batches
            have `teacher_scores`.
        student: A Keras model that turns `x`, without `teacher_scores`, into scores
            `(batch, list_size)`.
        distillation_losses: A Keras loss or a list of them, called with `y_true =
            {"labels": teacher_scores, "mask": mask}`. None for none.
        distillation_loss_weights: A weight for each distillation loss, at least 0, used
            as it is. The default is an equal part of `1 - student_loss_weight` for
            each. (Keras's own Distiller multiplies given weights by that number, too.)
        student_loss_weight: Weight of the relevance loss, from 0 to 1.
        name: Name of the model.
        **kwargs: `dtype` and `trainable`, as for any Keras model.

    Raises:
        ValueError: If a loss is not a Keras loss that reduces a batch to one number, a
            weight is out of its range, the number of weights differs from that of
            losses, or there is nothing to learn from.

    Example:
        A student with two numbers to learn, the scores of its two candidates.

        >>> class Student(keras.Model):
        ...     def build(self, input_shape):
        ...         self.scores = self.add_weight(shape=(1, 2), initializer="zeros")
        ...     def call(self, x):
        ...         return self.scores + 0.0 * x["query"]["age"][:, None]
        >>> from recdistill.losses import ListwiseCrossEntropy, ListwiseKLDivergence
        >>> distiller = Distiller(None, Student(), ListwiseKLDivergence())
        >>> distiller.compile(keras.optimizers.SGD(4.0), loss=ListwiseCrossEntropy())
        >>> x = {
        ...     "query": {"age": tf.constant([40.0])},
        ...     "mask": tf.constant([[True, True]]),
        ...     "teacher_scores": tf.math.log([[3.0, 1.0]]),  # 3/4 and 1/4
        ... }
        >>> y = {"labels": tf.constant([[0.0, 1.0]]), "mask": x["mask"]}
        >>> batches = tf.data.Dataset.from_tensors((x, y)).repeat(100)
        >>> _ = distiller.fit(batches, shuffle=False, verbose=0)

        Half of the loss asks for (0, 1) and half for (3/4, 1/4); the student ends up in
        between.

        >>> ops.softmax(distiller.predict(batches.take(1), verbose=0)).numpy().round(3)
        array([[0.375, 0.625]], dtype=float32)
    """

    def __init__(
        self,
        teacher: Callable[..., Tensor] | None,
        student: keras.Model,
        distillation_losses: Losses = None,
        distillation_loss_weights: Sequence[float] | None = None,
        student_loss_weight: float = 0.5,
        name: str = "distiller",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if not 0.0 <= student_loss_weight <= 1.0:
            raise ValueError(
                "`student_loss_weight` must be between 0 and 1. "
                f"Received: student_loss_weight={student_loss_weight}"
            )
        self.student = student
        self.teacher = None if teacher is None else _frozen(teacher)
        self.student_loss_weight = student_loss_weight
        self.distillation_losses = _as_tuple(distillation_losses)
        self.distillation_loss_weights = _loss_weights(
            distillation_loss_weights,
            len(self.distillation_losses),
            student_loss_weight,
        )
        if student_loss_weight == 0.0 and sum(self.distillation_loss_weights) == 0.0:
            raise ValueError(
                "`distillation_losses` must be given and have weight where "
                "`student_loss_weight` is 0. "
                f"Received: distillation_losses={distillation_losses}, "
                f"distillation_loss_weights={distillation_loss_weights}"
            )
        self._compiled = _Compiled(None, (), (), {})
        # The distiller has no weights of its own to build.
        self.built = student.built

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: keras.losses.Loss | None = None,
        metrics: Sequence[keras.metrics.Metric] | None = None,
        weighted_metrics: Sequence[keras.metrics.Metric] | None = None,
        **kwargs: Any,
    ) -> None:
        """Configure training. As in `keras.Model`, with whole lists in mind.

        Args:
            optimizer: A Keras optimizer or its name.
            loss: The relevance loss: called with `y` as `{"labels": …, "mask": …}`, the
                student's scores and `sample_weight`. It may be left out where
                `student_loss_weight` is 0.
            metrics: Called with `y` as above and the student's scores.
            weighted_metrics: Called with `sample_weight` besides.
            **kwargs: Other arguments of `keras.Model.compile`, but for `loss_weights`,
                whose part `student_loss_weight` plays.

        Raises:
            ValueError: If there is no relevance loss but a weight for it, a loss or
                metric is no Keras object, or there are `loss_weights`.
        """
        if kwargs.get("loss_weights") is not None:
            raise ValueError(
                "`loss_weights` must be None: `student_loss_weight` weighs the loss. "
                f"Received: loss_weights={kwargs['loss_weights']}"
            )
        if loss is None and self.student_loss_weight > 0.0:
            raise ValueError(
                "`loss` must be given where `student_loss_weight` is above 0. "
                f"Received: loss=None, student_loss_weight={self.student_loss_weight}"
            )
        if loss is not None:
            _check_loss("loss", loss)
        metrics, weighted_metrics = list(metrics or ()), list(weighted_metrics or ())
        for metric in metrics + weighted_metrics:
            if not isinstance(metric, keras.metrics.Metric):
                raise ValueError(
                    "`metrics` must be keras.metrics.Metric objects. "
                    f"Received: {metric!r}"
                )
        super().compile(optimizer=optimizer, **kwargs)
        names = ["loss"]
        names += ["relevance_loss"] if loss is not None else []
        names += ["distillation_loss"] if self.distillation_losses else []
        means = {name: keras.metrics.Mean(name=name) for name in names}
        self._compiled = _Compiled(loss, metrics, weighted_metrics, means)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What `fit` and `evaluate` report: the losses, then the compiled metrics."""
        compiled = self._compiled
        others = [metric for metric in super().metrics if metric.name != "loss"]
        return [
            *compiled.means.values(),
            *compiled.metrics,
            *compiled.weighted_metrics,
            *others,
        ]

    def call(self, x: Batch, training: bool | None = None) -> Tensor:
        """The student's scores.

        Args:
            x: The inputs of a batch.
            training: Whether dropout and the like are on.

        Returns:
            `(batch, list_size)`.
        """
        return self.student(_without_teacher_scores(x), training=training)

    def compute_loss(
        self,
        x: Batch,
        y: dict[str, Tensor] | Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """The loss of a batch, as Keras calls it in each training and test step.

        Args:
            x: The inputs of the batch.
            y: `{"labels": …, "mask": …}`, or relevance alone, `(batch, list_size)`.
            y_pred: The student's scores, `(batch, list_size)`; computed where None.
            sample_weight: `(batch,)`, one weight a list.
            training: Whether the student trains, where its scores are computed here.

        Returns:
            A scalar.

        Raises:
            ValueError: If relevance is asked for and there is none, or teacher scores
                are and there is neither a teacher nor a column of them.
        """
        scores = self(x, training=training) if y_pred is None else y_pred
        # Gradients are summed over replicas: Keras divides its losses by their number.
        loss = ops.sum([ops.sum(penalty) for penalty in self.losses] or 0.0)
        loss /= _replicas()
        parts = {}
        if self._compiled.loss is not None:
            relevance = _labels_and_mask(x, y)
            parts["relevance_loss"] = self._compiled.loss(
                relevance, scores, sample_weight
            )
            loss += self.student_loss_weight * parts["relevance_loss"]
        if self.distillation_losses:
            parts["distillation_loss"] = self._mean_distillation_loss(
                x, scores, sample_weight
            )
            loss += sum(self.distillation_loss_weights) * parts["distillation_loss"]
        self._update_means({"loss": loss, **parts}, _mask(x), sample_weight)
        return loss

    def _mean_distillation_loss(
        self, x: Batch, scores: Tensor, sample_weight: Tensor | None
    ) -> Tensor:
        """The distillation losses averaged by their weights, equally if all are 0."""
        targets = {"labels": self._teacher_scores(x), "mask": _mask(x)}
        values = [
            loss(targets, scores, sample_weight) for loss in self.distillation_losses
        ]
        weights = self.distillation_loss_weights
        if sum(weights) == 0.0:
            weights = (1.0,) * len(values)
        pairs = zip(weights, values, strict=True)
        return sum(weight * value for weight, value in pairs) / sum(weights)

    def _teacher_scores(self, x: Batch) -> Tensor:
        if x.get("teacher_scores") is not None:
            return x["teacher_scores"]
        if self.teacher is None:
            raise ValueError(
                "`teacher` must be given, or each batch must hold `teacher_scores`: "
                "pass a teacher to `Distiller`, or store its scores in the batches. "
                f"Received: teacher=None, a batch with keys={sorted(x)}"
            )
        return self.teacher(_without_teacher_scores(x))

    def _update_means(
        self, values: dict[str, Tensor], mask: Tensor, sample_weight: Tensor | None
    ) -> None:
        """Add a batch to the reported means, where it counts by its weighted lists.

        So neither the batch size nor a list of padding changes what is reported, as
        long as each real list has some relevance. (Keras counts the rows of the first
        input, which may be candidates that lists share.)
        """
        list_weight = ops.cast(lists.has_candidate(mask), "float32")
        if sample_weight is not None:
            list_weight *= ops.cast(sample_weight, "float32")
        for name, mean in self._compiled.means.items():
            mean.update_state(values[name] * _replicas(), ops.sum(list_weight))

    def compute_metrics(
        self,
        x: Batch,
        y: dict[str, Tensor] | Tensor | None,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Update the compiled metrics with a batch, and report all so far.

        Args:
            x: The inputs of the batch.
            y: `{"labels": …, "mask": …}`, or relevance alone, `(batch, list_size)`.
            y_pred: The student's scores, `(batch, list_size)`.
            sample_weight: `(batch,)`, one weight a list; for the weighted metrics.

        Returns:
            The value of each metric by name.
        """
        for metric in self._compiled.metrics:
            metric.update_state(_labels_and_mask(x, y), y_pred)
        for metric in self._compiled.weighted_metrics:
            metric.update_state(_labels_and_mask(x, y), y_pred, sample_weight)
        results: dict[str, Tensor] = self.get_metrics_result()
        return results

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this distiller anew, without its teacher."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "student": serialize(self.student),
            "distillation_losses": list(map(serialize, self.distillation_losses)),
            "distillation_loss_weights": list(self.distillation_loss_weights),
            "student_loss_weight": self.student_loss_weight,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Distiller":
        """Make a distiller from `get_config`; it has no teacher."""
        deserialize = keras.saving.deserialize_keras_object
        config = dict(config)
        student = deserialize(config.pop("student"))
        losses = [deserialize(loss) for loss in config.pop("distillation_losses")]
        return cls(None, student, losses, **config)

    def get_build_config(self) -> None:
        """Nothing: the student rebuilds itself, and there is nothing else to build."""

    def get_compile_config(self) -> dict[str, Any]:
        """The arguments of `compile`, for saving."""
        config = super().get_compile_config()
        if not config:
            return {}
        ours = {
            "loss": self._compiled.loss,
            "metrics": self._compiled.metrics,
            "weighted_metrics": self._compiled.weighted_metrics,
        }
        return {**config, **keras.saving.serialize_keras_object(ours)}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile with what `get_compile_config` returned."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)


def _frozen(teacher: Callable[..., Tensor]) -> Callable[[Batch], Tensor]:
    """The teacher as a function, which Keras neither tracks, trains nor saves."""

    def score(x: Batch) -> Tensor:
        return ops.stop_gradient(teacher(x, training=False))

    return score


def _as_tuple(losses: Losses) -> tuple[keras.losses.Loss, ...]:
    several = losses if isinstance(losses, list | tuple) else [losses]
    found = tuple(loss for loss in several if loss is not None)
    for loss in found:
        _check_loss("distillation_losses", loss)
    return found


def _check_loss(name: str, loss: Any) -> None:
    if not isinstance(loss, keras.losses.Loss) or loss.reduction in (None, "none"):
        raise ValueError(
            f"`{name}` must be keras.losses.Loss objects with a reduction. "
            f"Received: {loss!r}"
        )


def _loss_weights(
    weights: Sequence[float] | None, count: int, student_loss_weight: float
) -> tuple[float, ...]:
    if weights is None:
        return ((1.0 - student_loss_weight) / count,) * count if count else ()
    if len(weights) != count or not all(0.0 <= weight < np.inf for weight in weights):
        raise ValueError(
            "`distillation_loss_weights` must hold a finite number, at least 0, for "
            f"each distillation loss. Received: distillation_loss_weights={weights}, "
            f"{count} losses"
        )
    return tuple(weights)


def _replicas() -> int:
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def _without_teacher_scores(x: Batch) -> Batch:
    """What models may see, the same whether teacher scores are stored or not."""
    return {name: value for name, value in x.items() if name != "teacher_scores"}


def _mask(x: Batch) -> Tensor:
    if "mask" not in x:
        raise ValueError(f'`x` must have the key "mask". Received: keys={sorted(x)}')
    return x["mask"]


def _labels_and_mask(
    x: Batch, y: dict[str, Tensor] | Tensor | None
) -> dict[str, Tensor]:
    """The relevance of a batch in the form that losses and metrics take."""
    if y is None:
        raise ValueError(
            "`y` must hold the relevance of the candidates where a relevance loss or a "
            "metric is compiled. Received: y=None"
        )
    return {"mask": _mask(x), **(y if isinstance(y, dict) else {"labels": y})}
