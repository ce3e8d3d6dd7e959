"""What all losses over lists share: labels and mask, weights, the mean over lists."""

from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from recdistill.lists import masked_ops
from recdistill.lists.masked_ops import Tensor

__all__ = ["ListLoss", "TemperedListLoss", "check_positive", "check_temperature"]


class ListLoss(keras.losses.Loss):  # type: ignore[misc]
    """The Keras side of a loss over lists: what all of them share.

    It reads `{"labels": …, "mask": …}`, applies the weights of lists and candidates,
    and leaves lists that say nothing out of the mean. A subclass names its `function`
    and its `settings`, and may narrow down `list_weight`.

    Args:
        reduction: How a batch of losses becomes one number. The default is their
            weighted mean, in which a list that says nothing weighs zero. All other
            reductions of Keras work; those that divide by the batch size count such
            lists.
        name: Name of the loss. The default is the class name in snake case.
        dtype: Keras's dtype of the computation. The default is its float type, float32.

    Attributes:
        function: `(labels, student_scores, mask, …, item_weight)` to one loss a list.
        settings: Names of the arguments that function and class share.
        shift_invariant: Whether a constant added to all student scores of a list, or to
            all teacher scores, changes nothing.
        minimum_at_teacher: Whether no student does better than one whose scores are the
            teacher's. False for losses that ask for an order alone, which more spread
            scores fulfil better, and for those that learn from relevance.
        weight_is_count: Whether a candidate of weight 2 gives the gradient of two
            candidates of weight 1. False for losses with ranks or cut-offs, where two
            candidates take two places.
    """

    function: ClassVar[Callable[..., Tensor]]
    settings: ClassVar[tuple[str, ...]] = ()
    shift_invariant: ClassVar[bool] = True
    minimum_at_teacher: ClassVar[bool] = False
    weight_is_count: ClassVar[bool] = False

    def __init__(
        self,
        reduction: str | None = "mean_with_sample_weight",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def __call__(
        self,
        y_true: Tensor | dict[str, Tensor],
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of lists.

        Args:
            y_true: Labels `(batch, list_size)`, or `{"labels": …, "mask": …}`. Bare
                labels mean that all candidates are real. The dict may also hold
                `item_weight`, where lists and candidates have weights.
            y_pred: The student's scores, `(batch, list_size)`.
            sample_weight: `(batch,)` or a single number: the weight of each list. Or
                `(batch, list_size)`, instead of `item_weight`: how often each candidate
                counts within its list, where only ratios matter and 0 removes a
                candidate. Every list with a candidate left then weighs 1.

        Returns:
            A scalar; `(batch,)` where `reduction` is None.

        Raises:
            ValueError: If the shapes differ or the weights have another shape.
        """
        labels, mask = masked_ops.labels_and_mask(y_true)
        of_list, of_item = _weights(sample_weight, y_pred)
        of_item = _item_weight(y_true) if of_item is None else of_item
        # New tensors: Keras would also apply a mask that a layer of the student (an
        # embedding of histories, say) has attached to the scores. Ours is in `y_true`.
        mask, item_weight, labels, scores = masked_ops.as_weighted_lists(
            mask, of_item, labels=labels, student_scores=y_pred
        )
        weight = ops.cast(self.list_weight(labels, mask), scores.dtype)
        if of_list is not None:
            weight = weight * ops.cast(of_list, scores.dtype)
        y_true = {"labels": labels, "mask": mask}
        if of_item is not None:
            y_true["item_weight"] = item_weight
        return super().__call__(y_true, scores, weight)

    def call(self, y_true: Tensor | dict[str, Tensor], y_pred: Tensor) -> Tensor:
        """One loss a list, before weights of lists and reduction.

        Args:
            y_true: As for `__call__`; a dict may also hold `item_weight`.
            y_pred: The student's scores, `(batch, list_size)`.

        Returns:
            `(batch,)`.
        """
        labels, mask = masked_ops.labels_and_mask(y_true)
        return self.function(
            labels,
            y_pred,
            mask,
            item_weight=_item_weight(y_true),
            **self._setting_values(),
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this loss anew."""
        return {**super().get_config(), **self._setting_values()}

    def _setting_values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.settings}

    def list_weight(self, labels: Tensor, mask: Tensor) -> Tensor:
        """Whether a list has anything to say to this loss.

        Args:
            labels: `(batch, list_size)`.
            mask: `(batch, list_size)`, bool.

        Returns:
            `(batch,)`, bool: here, whether the list has a real candidate.
        """
        return masked_ops.has_candidate(mask)


class TemperedListLoss(ListLoss):
    """A `ListLoss` with a temperature.

    Args:
        temperature: Above zero; see the function of the loss.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If the temperature is not a finite number above zero.
    """

    settings: ClassVar[tuple[str, ...]] = ("temperature",)

    def __init__(self, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature)
        self.temperature = temperature


def check_temperature(temperature: float) -> None:
    """Raise unless the temperature is a finite number above zero.

    Args:
        temperature: What a loss was given.

    Raises:
        ValueError: If it is not.
    """
    check_positive("temperature", temperature)


def check_positive(name: str, value: float) -> None:
    """Raise unless a setting is a finite number above zero.

    Args:
        name: What the error message calls it.
        value: What a loss was given. A tensor passes: a `Distiller` sets those, from a
            schedule that has checked its own range, and a graph cannot look at them.

    Raises:
        ValueError: If it is not.
    """
    if not tf.is_tensor(value) and not 0.0 < value < np.inf:
        raise ValueError(f"`{name}` must be positive. Received: {name}={value}")


def _item_weight(y_true: Tensor | dict[str, Tensor]) -> Tensor | None:
    return y_true.get("item_weight") if isinstance(y_true, dict) else None


def _weights(
    sample_weight: Tensor | None, scores: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The weights of lists and those of candidates; at least one is None."""
    if sample_weight is None:
        return None, None
    weight = tf.convert_to_tensor(sample_weight)
    scores = tf.convert_to_tensor(scores)
    if weight.shape.rank == 0 or scores.shape[:1].is_compatible_with(weight.shape):
        return weight, None
    if weight.shape.rank == 2 and scores.shape.is_compatible_with(weight.shape):
        return None, weight
    raise ValueError(
        "`sample_weight` must have shape (batch,), one weight a list, or (batch, "
        "list_size), one a candidate. Received: "
        f"sample_weight.shape={weight.shape}, student_scores.shape={scores.shape}"
    )
