"""Keras's own losses and metrics, applied to lists with masks.

Losses and metrics of recdistill and keras-rs read whole lists, with their mask, from
`{"labels": …, "mask": …}`. Keras's own, such as `keras.losses.MeanSquaredError` and
`keras.metrics.MeanAbsoluteError`, do not support masks. In a `recdistill.Distiller`
they are computed candidate by candidate, as if all real candidates of a batch were rows
of one column:

- A padded candidate contributes nothing, neither to the sum nor to the number by which
  the sum is divided.
- The mask becomes their sample weight. The weight of a list applies to each of its
  candidates.
- The mean of a loss is taken over the real candidates of a batch, that of a metric over
  all real candidates. Long lists therefore count for more than short ones, in contrast
  to the losses of recdistill, whose mean is over lists.

A class counts as Keras's own if Keras defines the method that reads `y_true` (`call` of
a loss, `update_state` of a metric). Functions `(y_true, y_pred)` are treated the same
way. `compile` rejects losses and metrics that do not work candidate by candidate, such
as categorical cross-entropy, which treats the last axis as classes.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from recdistill.lists.masked_ops import Tensor
from recdistill.lists.replicas import group_of_workers, replica_mean
from recdistill.losses.list_loss import ListLoss
from recdistill.losses.representation_loss import (
    RepresentationLoss,
    list_and_row_weights,
)
from recdistill.metrics.keras_metrics import RankingMetric

__all__ = ["as_loss", "as_metrics", "loss_value", "update_metric"]

Labels = dict[str, Tensor]


@keras.saving.register_keras_serializable(package="recdistill")
class FunctionLoss(keras.losses.Loss):  # type: ignore[misc]
    """Mean over real candidates of a loss that is given as a function.

    Args:
        function: Called as `function(y_true, y_pred)` with arrays `(n, 1)`, one row a
            candidate; returns `(n,)`.
        **kwargs: Arguments of a Keras loss.
    """

    def __init__(self, function: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = function

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The function's value for each row."""
        return self.function(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """The function and the arguments of a Keras loss."""
        function = keras.saving.serialize_keras_object(self.function)
        return {**super().get_config(), "function": function}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FunctionLoss":
        """Create a loss from the result of `get_config`."""
        return cls(**keras.saving.deserialize_keras_object(config))


def as_loss(argument: str, given: Any) -> keras.losses.Loss:
    """A Keras loss from a loss object, a name or a function.

    Args:
        argument: Name of the argument, for error messages.
        given: The loss object, the name of one of Keras's losses, or a function
            `(y_true, y_pred)`.

    Raises:
        ValueError: If it is none of these, does not reduce a batch to one number, or is
            a loss of Keras that does not work candidate by candidate.
    """
    found = _by_name(given, keras.losses.get, ("crossentropy", "ce"))
    if callable(found) and not isinstance(found, keras.losses.Loss | type):
        name = given if isinstance(given, str) else _name_of(found)
        found = FunctionLoss(found, name=name)
    if not isinstance(found, keras.losses.Loss) or found.reduction in (None, "none"):
        raise ValueError(
            f"`{argument}` must be a Keras loss with a reduction, its name, or "
            "a function (y_true, y_pred), for the one output of the student. "
            f"Received: {given!r}"
        )
    if _is_pointwise(found):
        _check_pointwise(argument, found.call, given)
    return found


def as_metrics(argument: str, given: Any) -> list[keras.metrics.Metric]:
    """Keras metrics from metric objects, names or functions.

    Args:
        argument: Name of the argument, for error messages.
        given: A list of metric objects, names of Keras's metrics, or functions
            `(y_true, y_pred)`; or None.

    Raises:
        ValueError: If it is not such a list, or one is a metric of Keras that does not
            work candidate by candidate.
    """
    if given is not None and not isinstance(given, list | tuple):
        raise ValueError(
            f"`{argument}` must be a list of metrics, for the one output of the "
            f"student. Received: {given!r}"
        )
    return [_as_metric(argument, each) for each in given or ()]


def _as_metric(argument: str, given: Any) -> keras.metrics.Metric:
    if callable(given) and not isinstance(given, keras.metrics.Metric | type):
        _check_pointwise(argument, given, given)
        return keras.metrics.MeanMetricWrapper(given, name=_name_of(given))
    found = _by_name(given, keras.metrics.get, ("accuracy", "acc"))
    if isinstance(given, str) and isinstance(found, keras.metrics.Metric):
        found.name = given
    if not isinstance(found, keras.metrics.Metric):
        raise ValueError(
            f"`{argument}` must be Keras metrics, names of Keras metrics (such as "
            '"mae" or "binary_accuracy") or functions (y_true, y_pred). '
            f"Received: {given!r}"
        )
    # A copy of a `MeanMetricWrapper` is impossible if its function is not registered.
    if _is_pointwise(found) and type(found) is not keras.metrics.MeanMetricWrapper:
        _check_pointwise(argument, found, given)
    return found


def _by_name(given: Any, get: Callable[[str], Any], refused: Sequence[str]) -> Any:
    """Keras's loss or metric of this name; other objects and refused names unchanged.

    Keras itself replaces the refused names by one of several functions, depending on
    the shape of the model's output.
    """
    if isinstance(given, str) and given.lower() not in refused:
        with suppress(ValueError):
            return get(given)
    return given


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", "function")).strip("<>")


def loss_value(
    loss: keras.losses.Loss,
    y: Labels,
    scores: Tensor,
    sample_weight: Tensor | None,
    list_weight: Tensor | None = None,
) -> Tensor:
    """The loss of a batch of lists, by a loss of any kind.

    Args:
        loss: Any Keras loss with a reduction.
        y: `{"labels": …, "mask": …}`, each `(batch, list_size)`; and "item_weight" if
            candidates have weights.
        scores: The student's scores, `(batch, list_size)`.
        sample_weight: None, `(batch,)` or `(batch, list_size)`.
        list_weight: `(batch,)`, a factor of the weight of each list, or None.

    Returns:
        A float32 scalar, divided by the number of replicas unless the reduction is
        "sum".

    Raises:
        ValueError: If candidates have weights and the loss does not know these.
    """
    if list_weight is not None:
        y, sample_weight = _with_list_weight(loss, y, sample_weight, list_weight)
    value = ops.cast(_unscaled(loss, y, scores, sample_weight), "float32")
    group = group_of_workers()
    if group is None or loss.reduction == "sum":
        return value
    # Keras divides by the replicas of a `tf.distribute` strategy only.
    return value / group.size


def _with_list_weight(
    loss: keras.losses.Loss,
    y: Labels,
    sample_weight: Tensor | None,
    list_weight: Tensor,
) -> tuple[Labels, Tensor]:
    """Labels and sample weights with one more factor for each list."""
    factor = tf.cast(list_weight, tf.float32)
    if sample_weight is None:
        return y, factor
    weight = tf.cast(sample_weight, tf.float32)
    if weight.shape.rank != 2:
        return y, weight * factor
    if not isinstance(loss, ListLoss | RepresentationLoss):
        return y, weight * factor[:, None]
    # In a `sample_weight` of candidates only ratios within a list matter to these.
    own = tf.cast(y.get("item_weight", 1.0), tf.float32)
    return {**y, "item_weight": weight * own}, factor


def _unscaled(
    loss: keras.losses.Loss, y: Labels, scores: Tensor, sample_weight: Tensor | None
) -> Tensor:
    """The loss, of which the sum over a worker group is the group's size too large."""
    if not _is_pointwise(loss):
        if "item_weight" in y and not isinstance(loss, ListLoss | RepresentationLoss):
            raise ValueError(
                "A batch with `item_weight` needs losses of recdistill, which weigh "
                f"the candidates that were drawn. Received: {loss!r}"
            )
        return loss(y, scores, sample_weight)
    labels, scores, weight, count = _as_column(y, scores, sample_weight)
    if loss.reduction != "sum":
        # Keras divides by the number of all rows instead of the number of real rows.
        real = ops.maximum(replica_mean(ops.sum(count)), 1.0)
        weight *= ops.cast(ops.size(count), "float32") / real
    return loss(labels, scores, weight)


def update_metric(
    metric: keras.metrics.Metric,
    y: Labels,
    scores: Tensor,
    sample_weight: Tensor | None = None,
) -> None:
    """Update a metric of any kind with a batch of lists.

    Args:
        metric: Any Keras metric.
        y: `{"labels": …, "mask": …}`, each `(batch, list_size)`.
        scores: The student's scores, `(batch, list_size)`.
        sample_weight: None, `(batch,)` or `(batch, list_size)`.
    """
    if not _is_pointwise(metric):
        if isinstance(metric, RankingMetric) and sample_weight is not None:
            # It ranks whole lists; what is left out of them is masked in `y`.
            mask = ops.cast(y["mask"], "bool")
            sample_weight, _ = list_and_row_weights(sample_weight, mask)
        metric.update_state(y, scores, sample_weight)
        return
    labels, scores, weight, _ = _as_column(y, scores, sample_weight)
    metric.update_state(labels, scores, weight)


def _is_pointwise(judge: keras.losses.Loss | keras.metrics.Metric) -> bool:
    """Whether the labels of a loss or metric are read by Keras's code or a function."""
    if isinstance(judge, FunctionLoss):
        return True
    kind = type(judge)
    reads = kind.call if isinstance(judge, keras.losses.Loss) else kind.update_state
    return bool(reads.__module__.split(".")[0] == "keras")


def _as_column(
    y: Labels, scores: Tensor, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels and scores `(n, 1)`; weights, and how often each counts, `(n,)`.

    All are 0 under padding.
    """
    mask = tf.cast(y["mask"], tf.bool)
    weight = tf.cast(1.0 if sample_weight is None else sample_weight, tf.float32)
    weight = weight[:, None] if weight.shape.rank == 1 else weight
    times = tf.cast(y.get("item_weight", 1.0), tf.float32)
    labels, scores, weight, flat = (
        tf.reshape(tf.where(mask, tf.cast(each, tf.float32), 0.0), (-1, 1))
        for each in (y["labels"], scores, weight * times, times)
    )
    return labels, scores, weight[:, 0], flat[:, 0]


def _check_pointwise(argument: str, judge: Any, given: Any) -> None:
    """Raise if a list as a whole and its candidates one by one give different values.

    Args:
        argument: Name of the argument, for the error message.
        judge: A loss, a metric or a function.
        given: What the user passed, for the error message.
    """
    rows = np.linspace(0.1, 0.9, 64, dtype="float32")[None]
    labels = (rows > 0.85).astype("float32")[:, ::-1]
    with warnings.catch_warnings(action="ignore"):
        try:
            whole, single = _value(judge, labels, rows), _value(judge, labels.T, rows.T)
            fits = bool(np.isclose(whole, single, rtol=1e-3, atol=1e-6))
        except (ValueError, TypeError, IndexError, tf.errors.InvalidArgumentError):
            fits = False
    if not fits:
        raise ValueError(
            f"`{argument}` must not treat the candidates of a list as classes: use a "
            "loss or metric of recdistill or keras-rs, which read whole lists. "
            f"Received: {given!r}"
        )


def _value(judge: Any, labels: Any, scores: Any) -> float:
    """Mean value of a loss or function, or a metric's result, for `(rows, columns)`."""
    labels, scores = ops.convert_to_tensor(labels), ops.convert_to_tensor(scores)
    if isinstance(judge, keras.metrics.Metric):
        fresh = deepcopy(judge)
        fresh.update_state(labels, scores)
        return float(ops.mean(fresh.result()))
    values = judge(labels, scores)
    if values.shape[0] != labels.shape[0]:
        raise ValueError("A loss must have one value for each row.")
    return float(ops.mean(values))
