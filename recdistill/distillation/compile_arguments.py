"""Relevance loss and metrics that `Distiller.compile` received, and reported losses."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from recdistill.distillation import keras_losses
from recdistill.distillation.batch_arguments import Batch, mask_of
from recdistill.lists.masked_ops import Tensor
from recdistill.lists.replicas import replica_mean, replicas
from recdistill.losses.representation_loss import list_and_row_weights

# Registers the metrics, so that a saved distiller compiled with them can be loaded.
from recdistill.metrics import keras_metrics  # noqa: F401

__all__ = ["CompileArguments"]


class CompileArguments:
    """Relevance loss, metrics and the running means of the reported losses.

    The distiller keeps them in this object, which Keras does not track, because Keras
    itself would pass `y` to losses and metrics without its mask.

    Args:
        loss: The relevance loss, its name or a function; None for no loss.
        metrics: Metrics, their names or functions; or None.
        weighted_metrics: The same; `sample_weight` applies to these. A name that
            `metrics` uses gets the prefix "weighted_".
        reported: Names of the losses to report.

    Raises:
        ValueError: If a loss or metric is not usable; see
            `recdistill.distillation.keras_losses`. If a metric has the name of a loss.
    """

    def __init__(
        self,
        loss: Any = None,
        metrics: Sequence[Any] | None = None,
        weighted_metrics: Sequence[Any] | None = None,
        reported: Sequence[str] = (),
    ) -> None:
        self.loss = None if loss is None else keras_losses.as_loss("loss", loss)
        self.metrics = keras_losses.as_metrics("metrics", metrics)
        self.weighted_metrics = keras_losses.as_metrics(
            "weighted_metrics", weighted_metrics
        )
        names = [metric.name for metric in self.metrics]
        for metric in self.weighted_metrics:
            if metric.name in names:
                metric.name = f"weighted_{metric.name}"
        _make_unique([*self.metrics, *self.weighted_metrics], {"loss", *reported})
        self.means = {name: keras.metrics.Mean(name=name) for name in reported}

    @property
    def all_metrics(self) -> list[keras.metrics.Metric]:
        """The means of the losses, then the metrics."""
        return [*self.means.values(), *self.metrics, *self.weighted_metrics]

    def get_config(self) -> dict[str, Any]:
        """Loss and metrics, as a serialisable dict."""
        own = {
            "loss": self.loss,
            "metrics": self.metrics,
            "weighted_metrics": self.weighted_metrics,
        }
        return dict(keras.saving.serialize_keras_object(own))

    def update_means(
        self, values: dict[str, Tensor], x: Batch, sample_weight: Tensor | None
    ) -> None:
        """Add the losses of a batch to the means, weighted by the weights of its lists.

        The reported means then depend neither on the batch size nor on lists of
        padding, if each real list has some relevance. (Keras would weight a batch by
        the number of rows of its first input, which may be shared candidates.) With a
        `teacher_weight`, the mean of the total loss depends on the batch size.

        Args:
            values: Losses by name, divided by the number of replicas.
            x: The inputs of the batch. Its `teacher_weight` is a factor of the weights
                for all values of distillation.
            sample_weight: None, `(batch,)` or `(batch, list_size)`.
        """
        list_weight, _ = list_and_row_weights(sample_weight, mask_of(x))
        weight = of_teacher = _total(list_weight)
        if "teacher_weight" in x:
            of_teacher = _total(list_weight * ops.cast(x["teacher_weight"], "float32"))
        for name, mean in self.means.items():
            of_lists = weight if name in ("loss", "relevance_loss") else of_teacher
            mean.update_state(values[name] * replicas(), of_lists)

    def update_metrics(
        self, y: dict[str, Tensor], scores: Tensor, sample_weight: Tensor | None
    ) -> None:
        """Update the metrics with a batch.

        Args:
            y: `{"labels": …, "mask": …}`, each `(batch, list_size)`.
            scores: The student's scores, `(batch, list_size)`.
            sample_weight: None, `(batch,)` or `(batch, list_size)`; for the weighted
                metrics.
        """
        for metric in self.metrics:
            keras_losses.update_metric(metric, y, scores)
        for metric in self.weighted_metrics:
            keras_losses.update_metric(metric, y, scores, sample_weight)


def _total(list_weight: Tensor) -> Tensor:
    """Sum of the weights of the lists of a batch, the mean over all replicas."""
    # The values of all replicas add up to the loss of the whole batch.
    return replica_mean(ops.sum(list_weight))


def _make_unique(metrics: Sequence[keras.metrics.Metric], taken: set[str]) -> None:
    """Numbers metrics with the same name, as Keras does.

    Raises:
        ValueError: If a metric has one of the names that are taken.
    """
    used = set(taken)
    for metric in metrics:
        if metric.name in taken:
            raise ValueError(
                "`metrics` must not have the name of a reported loss. Received: a "
                f"metric with name={metric.name!r}"
            )
        name, number = metric.name, 0
        while metric.name in used:
            number += 1
            metric.name = f"{name}_{number}"
        used.add(metric.name)
