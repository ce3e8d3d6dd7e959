"""The state of a sequence encoder after the newest item of a history."""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from recdistill.models.self_attention import CausalEncoder

SequenceEncoder = Literal["attention", "gru"]
"""`attention`: one block of causal self-attention (SASRec, Kang & McAuley, 2018).
`gru`: a gated recurrent unit (GRU4Rec, Hidasi et al., 2016)."""

LENGTH = 50
"""Number of the latest items that a sequence encoder of a student reads."""

HEADS = 2
"""Attention heads, if the width of the item vectors is even."""


@keras.saving.register_keras_serializable("recdistill")
class HistoryState(keras.layers.Layer):  # type: ignore[misc]
    """State of a sequence encoder after the newest item of a history.

    Only the latest 50 items are read. The state of an empty history is 0. It depends
    on the real items alone, not on the amount of padding.

    Args:
        encoder: "attention" or "gru".
        dim: Width of the item vectors and of the state.
        length: Largest number of items in a history.
        dropout: Share of entries dropped in training, for attention.

    Raises:
        ValueError: If `encoder` is neither.
    """

    def __init__(
        self,
        encoder: SequenceEncoder,
        dim: int,
        length: int,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if encoder not in ("attention", "gru"):
            raise ValueError(
                f'`encoder` must be "attention" or "gru". Received: encoder={encoder!r}'
            )
        self.encoder, self.dim, self.dropout = encoder, dim, dropout
        self.length = min(length, LENGTH)
        if encoder == "attention":
            heads = 1 if dim % HEADS else HEADS
            self.layer = CausalEncoder(dim, heads, 1, self.length, dropout)
        else:
            self.layer = keras.layers.GRU(dim, use_cudnn=False)

    def build(self, input_shape: Any = None) -> None:
        """Creates the weights."""
        self.layer.build((None, self.length, self.dim))
        self.built = True

    def call(
        self, vectors: tf.Tensor, real: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """The state, `(batch, dim)`.

        Args:
            vectors: `(batch, length, dim)`, item vectors, the newest first.
            real: `(batch, length)` bool, False for padding, which is last.
            training: Whether dropout is active.
        """
        vectors = vectors[:, : self.length][:, ::-1]
        real = real[:, : self.length][:, ::-1]
        if self.encoder == "attention":
            return self.layer(vectors, real, training=training)[:, -1]
        return self.layer(vectors, mask=real, training=training)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "encoder": self.encoder,
            "dim": self.dim,
            "length": self.length,
            "dropout": self.dropout,
        }
