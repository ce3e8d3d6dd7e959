"""Base classes of all losses over lists: mask, weights, and the mean over lists."""

from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from recdistill.lists import masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.lists.numpy_ranks import check_cutoff
from recdistill.lists.replicas import replica_mean, replicas
from recdistill.lists.shared_results import shared_results


class LossWithSettings(keras.losses.Loss):  # type: ignore[misc]
    """Base class of Keras losses whose settings are attributes and part of the config.

    Args:
        reduction: How the losses of a batch are reduced to one number. The default is
            their weighted mean.
        name: Name of the loss. The default is the class name in snake case.
        dtype: Keras's dtype of the computation. The default is its float type, float32.

    Attributes:
        settings: Names of the settings.
    """

    settings: tuple[str, ...] = ()

    def __init__(
        self,
        reduction: str | None = "mean_with_sample_weight",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def set_settings(self, **settings: Any) -> None:
        """Check settings, set them as attributes, and add them to the configuration.

        Args:
            **settings: Values by name.

        Raises:
            ValueError: As `check_settings`.
        """
        check_settings(**settings)
        for name, value in settings.items():
            # NumPy's integers have another type than the sizes in a graph.
            setattr(self, name, int(value) if isinstance(value, np.integer) else value)
        self.settings += tuple(settings)

    def over_replicas(self, loss: Tensor, weight: Tensor) -> Tensor:
        """A replica's part of the weighted mean over the lists of all replicas.

        Args:
            loss: The reduced loss of this replica. Keras has divided it by the weights
                of this replica only.
            weight: The weights of its lists, `(batch,)`.
        """
        if self.reduction != "mean_with_sample_weight" or replicas() == 1:
            return loss
        total = ops.cast(ops.sum(weight), loss.dtype)
        return loss * ops.divide_no_nan(total, replica_mean(total))

    def setting_values(self) -> dict[str, Any]:
        """The settings by name."""
        return {name: getattr(self, name) for name in self.settings}

    def get_config(self) -> dict[str, Any]:
        """The arguments from which `from_config` creates the same loss."""
        return {**super().get_config(), "dtype": self.dtype, **self.setting_values()}


class ListLoss(LossWithSettings):
    """Base class of Keras losses over lists of candidates.

    It reads `{"labels": …, "mask": …}`, applies the weights of lists and candidates,
    and excludes from the mean the lists that carry no information. A subclass defines
    `function`, passes its settings to `set_settings`, and may override `list_weight`.

    Args:
        reduction: How the losses of a batch are reduced to one number. The default is
            their weighted mean, in which a list without information has weight 0. All
            other reductions of Keras work too; those that divide by the batch size
            count such lists.
        name: Name of the loss. The default is the class name in snake case.
        dtype: Keras's dtype of the computation. The default is its float type, float32.

    Attributes:
        function: Computes one loss for each list, from the labels, the student's
            scores, the mask, the settings and `item_weight`.
        settings: Names of the settings; the function has arguments of these names.
        inputs: Names of further entries of `y_true` that the function takes if they are
            there; a `Distiller` reads them from the batch.
    """

    function: ClassVar[Callable[..., Tensor]]
    inputs: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self,
        y_true: Tensor | dict[str, Tensor],
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of lists.

        Args:
            y_true: Labels `(batch, list_size)`, or `{"labels": …, "mask": …}`. Without
                a mask all candidates are real. The dict may also contain
                `item_weight`, if both lists and candidates have weights.
            y_pred: The student's scores, `(batch, list_size)`.
            sample_weight: `(batch,)` or a single number: the weight of each list.
                Alternatively `(batch, list_size)`, a factor of `item_weight`: how often
                each candidate counts within its list. Then only ratios matter, 0
                removes a candidate, and every list that still has a candidate has
                weight 1.

        Returns:
            A scalar; `(batch,)` if `reduction` is None.

        Raises:
            ValueError: If the shapes differ or the weights have another shape.
        """
        with shared_results(), keras.name_scope(self.name):
            return self._of_batch(y_true, y_pred, sample_weight)

    def _of_batch(
        self,
        y_true: Tensor | dict[str, Tensor],
        y_pred: Tensor,
        sample_weight: Tensor | None,
    ) -> Tensor:
        labels, mask = masked_ops.labels_and_mask(y_true)
        further = self._further_inputs(y_true)
        of_list, of_item = _split_weights(sample_weight, y_pred)
        own = _item_weight(y_true)
        if of_item is None or own is None:
            of_item = own if of_item is None else of_item
        else:
            of_item = tf.cast(of_item, tf.float32) * tf.cast(own, tf.float32)
        # These are new tensors: Keras would also apply a mask that a layer of the
        # student (an embedding of histories, say) has attached to the scores.
        mask, item_weight, labels, scores = masked_ops.as_weighted_lists(
            mask, of_item, labels=labels, student_scores=y_pred
        )
        weight = ops.cast(self.list_weight(labels, mask), scores.dtype)
        if of_list is not None:
            weight = weight * ops.cast(of_list, scores.dtype)
        labels, scores = tf.cast(labels, self.dtype), tf.cast(scores, self.dtype)
        y_true = {"labels": labels, "mask": mask, **further}
        if of_item is not None:
            y_true["item_weight"] = item_weight
        # Keras would cast the mask to floats, and the losses would check it again.
        losses = self.call(y_true, scores)
        reduce = _Reduction(self.reduction, dtype=self.dtype)
        return self.over_replicas(reduce(losses, losses, weight), weight)

    def call(self, y_true: Tensor | dict[str, Tensor], y_pred: Tensor) -> Tensor:
        """The loss of each list, before list weights and reduction.

        NaN among the labels gives NaN, even in a graph compiled by XLA, where the
        functions cannot raise an error.

        Args:
            y_true: As for `__call__`; a dict may also contain `item_weight`.
            y_pred: The student's scores, `(batch, list_size)`.

        Returns:
            `(batch,)`.
        """
        labels, mask = masked_ops.labels_and_mask(y_true)
        loss = self.function(
            labels,
            y_pred,
            mask,
            item_weight=_item_weight(y_true),
            **self.setting_values(),
            **self._further_inputs(y_true),
        )
        labels = tf.convert_to_tensor(labels)
        if not labels.dtype.is_floating:
            return loss
        nan = masked_ops.nan_lists(labels, mask)
        return loss * ops.cast(ops.where(nan, np.nan, 1.0), loss.dtype)

    def _further_inputs(self, y_true: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        given = y_true if isinstance(y_true, dict) else {}
        return {name: given[name] for name in self.inputs if name in given}

    def list_weight(self, labels: Tensor, mask: Tensor) -> Tensor:
        """Whether each list counts in the mean.

        Args:
            labels: `(batch, list_size)`.
            mask: `(batch, list_size)`, bool.

        Returns:
            `(batch,)`, bool. By default, whether the list has a real candidate.
        """
        return masked_ops.has_candidate(mask)


class TemperedListLoss(ListLoss):
    """Base class of list losses with a temperature.

    Args:
        temperature: Above 0; see the function of the loss.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If the temperature is not a finite number above 0.
    """

    def __init__(self, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_settings(temperature=temperature)


class RelevanceListLoss(TemperedListLoss):
    """Base class of list losses on relevance; a list without relevance has weight 0.

    Args:
        temperature: Above 0; see the function of the loss.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.
    """

    def list_weight(self, labels: Tensor, mask: Tensor) -> Tensor:
        """Whether each list has a relevant candidate, `(batch,)`, bool."""
        return ops.max(masked_ops.masked(labels, mask), axis=-1) > 0.0


class _Reduction(keras.losses.Loss):  # type: ignore[misc]
    """Reduces the losses of lists to one number, as any Keras loss does."""

    def __init__(self, reduction: str | None, dtype: Any) -> None:
        super().__init__(reduction=reduction, dtype=dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The losses of the lists."""
        return y_pred


def check_settings(**settings: Any) -> None:
    """Check the settings of a loss by their names.

    Args:
        **settings: `k` must be a positive integer or None, `strata` a positive integer,
            and a name of an output a text; every other setting must be a bool or a
            finite number above 0. The value of a tensor is not checked, because it is
            unknown in a graph: a `Distiller` sets one from a schedule whose range it
            has checked.

    Raises:
        ValueError: If a setting is invalid; the message has its name and its value.
    """
    for name, value in settings.items():
        if name in ("k", "strata"):
            if value is not None or name == "strata":
                check_cutoff(name, value)
        elif isinstance(value, str) != name.endswith("_output"):
            wanted = "a text" if name.endswith("_output") else "a number"
            raise ValueError(f"`{name}` must be {wanted}. Received: {name}={value!r}")
        elif not (
            isinstance(value, bool | str) or tf.is_tensor(value) or 0.0 < value < np.inf
        ):
            raise ValueError(f"`{name}` must be positive. Received: {name}={value}")


def _item_weight(y_true: Tensor | dict[str, Tensor]) -> Tensor | None:
    return y_true.get("item_weight") if isinstance(y_true, dict) else None


def _split_weights(
    sample_weight: Tensor | None, scores: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The weights of lists and those of candidates; at least one is None."""
    if sample_weight is None:
        return None, None
    weight = tf.convert_to_tensor(sample_weight)
    scores = tf.convert_to_tensor(scores)
    if weight.shape.rank is None:
        raise ValueError(
            "`sample_weight` must have a known number of axes. If it comes from a "
            "`tf.data.Dataset`, call `set_shape` on it. If an earlier call had weights "
            "of another kind (of lists or of candidates), call `compile` again. "
            "Received: a tensor of unknown shape"
        )
    if weight.shape.rank == 0 or scores.shape[:1].is_compatible_with(weight.shape):
        return weight, None
    if weight.shape.rank == 2 and scores.shape.is_compatible_with(weight.shape):
        return None, weight
    raise ValueError(
        "`sample_weight` must have shape (batch,), one weight for each list, or "
        "(batch, list_size), one for each candidate. Received: "
        f"sample_weight.shape={weight.shape}, student_scores.shape={scores.shape}"
    )
