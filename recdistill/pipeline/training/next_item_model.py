"""Model that trains a sequence ranker: windows of histories in, the loss out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from recdistill.lists.replicas import replicas
from recdistill.models.sequence_ranker import SequenceRanker


class NextItemModel(keras.Model):  # type: ignore[misc]
    """Trains a sequence ranker to predict the next item at all positions.

    Args:
        ranker: The sequence ranker.

    Attributes:
        student: The sequence ranker, under the name that a Distiller has for the model
            that it trains.
    """

    def __init__(self, ranker: SequenceRanker) -> None:
        super().__init__()
        self.student = ranker

    def call(self, batch: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        """The loss of a batch of `window_batches`, which is added to the model's."""
        loss = self.student.next_item_loss(
            batch["windows"], batch["query"], batch["known"], training=training
        )
        # Gradients are summed over replicas, and losses are reported as their mean.
        part = loss / replicas()
        self.add_loss(part + tf.stop_gradient(loss - part))
        return loss
