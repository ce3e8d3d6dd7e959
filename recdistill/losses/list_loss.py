"""What all losses over lists share: labels and mask, weights, the mean over lists."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from recdistill import lists
from recdistill.lists import Tensor

__all__ = ["ListLoss", "check_temperature"]


class ListLoss(keras.losses.Loss):  # type: ignore[misc]
    """The Keras side of a loss over lists: what all of them share.

    It reads `{"labels": …, "mask": …}`, applies one weight a list, and leaves lists
    that say nothing out of the mean. A subclass writes `call`, which returns one loss a
    list, and may narrow down `list_weight`.

    Args:
        temperature: Above zero; see the function of the loss.
        reduction: How a batch of losses becomes one number. The default is their
            weighted mean, in which a list that says nothing weighs zero. All other
            reductions of Keras work; those that divide by the batch size count such
            lists.
        name: Name of the loss. The default is the class name in snake case.
        dtype: Keras's dtype of the computation. The default is its float type, float32.

    Raises:
        ValueError: If the temperature is not a finite number above zero.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        reduction: str | None = "mean_with_sample_weight",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        check_temperature(temperature)
        self.temperature = temperature

    def __call__(
        self,
        y_true: Tensor | dict[str, Tensor],
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of lists.

        Args:
            y_true: Labels `(batch, list_size)`, or `{"labels": …, "mask": …}`. Bare
                labels mean that all candidates are real.
            y_pred: The student's scores, `(batch, list_size)`.
            sample_weight: `(batch,)` or a single number: the weight of each list.

        Returns:
            A scalar; `(batch,)` where `reduction` is None.

        Raises:
            ValueError: If the shapes differ or the weights are not one a list.
        """
        labels, mask = lists.labels_and_mask(y_true)
        mask, labels, scores = lists.as_lists(
            mask, labels=labels, student_scores=y_pred
        )
        weight = ops.cast(self.list_weight(labels, mask), scores.dtype)
        if sample_weight is not None:
            weight = weight * _as_list_weight(sample_weight, scores)
        # A copy, because Keras would also apply a mask that a layer of the student (an
        # embedding of histories, say) has attached to the scores. Ours is in `y_true`.
        scores = tf.identity(scores)
        return super().__call__({"labels": labels, "mask": mask}, scores, weight)

    def list_weight(self, labels: Tensor, mask: Tensor) -> Tensor:
        """Whether a list has anything to say to this loss.

        Args:
            labels: `(batch, list_size)`.
            mask: `(batch, list_size)`, bool.

        Returns:
            `(batch,)`, bool: here, whether the list has a real candidate.
        """
        return lists.has_candidate(mask)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this loss anew."""
        return {**super().get_config(), "temperature": self.temperature}


def check_temperature(temperature: float) -> None:
    """Raise unless the temperature is a finite number above zero.

    Args:
        temperature: What a loss was given.

    Raises:
        ValueError: If it is not.
    """
    if not 0.0 < temperature < np.inf:
        raise ValueError(
            f"`temperature` must be positive. Received: temperature={temperature}"
        )


def _as_list_weight(sample_weight: Tensor, scores: Tensor) -> Tensor:
    """The weights as a tensor of the scores' type, one a list or one for all."""
    weight = tf.cast(sample_weight, scores.dtype)
    one_a_list = scores.shape[:1].is_compatible_with(weight.shape)
    if not (one_a_list or weight.shape.rank == 0):
        raise ValueError(
            "`sample_weight` must have shape (batch,), one weight a list. Received: "
            f"sample_weight.shape={weight.shape}, student_scores.shape={scores.shape}"
        )
    return weight
