"""Several teachers as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from recdistill.distillation.score_transforms import Transform, transformed

Teacher = Callable[..., Any]
"""Called as `teacher(batch, training=False)`; scores `(batch, list_size)` come back."""


class EnsembleTeacher(keras.Model):  # type: ignore[misc]
    r"""Several teachers as one: the weighted sum of their scores in each list.

    $$ t_i = \sum_m w_m \, f(t^{(m)})_i, \quad
       f(t)_i = \frac{t_i - \mathrm{mean}(t)}{\mathrm{std}(t)} $$

    With z-scores, the default $f$, teachers need not share a scale; what counts is how
    far a candidate stands out among the candidates of its list.

    Args:
        members: The teachers. Those that are Keras models are part of this one.
        weights: One for each; equal if not given.
        normalize: What becomes of each member's scores in a list before they are added,
            a transform of `recdistill.distillation.score_transforms`; "none" where all
            share a scale.

    Raises:
        ValueError: If there is no member, or not one weight for each.
    """

    def __init__(
        self,
        members: Sequence[Teacher],
        weights: Sequence[float] | None = None,
        normalize: Transform = "z_score",
    ) -> None:
        super().__init__(name="ensemble_teacher")
        weights = tuple(weights if weights is not None else [1.0] * len(members))
        if not members or len(weights) != len(members):
            raise ValueError(
                "`members` must have a teacher and `weights` one entry for each. "
                f"Received: {len(members)} members, {len(weights)} weights"
            )
        self.members, self.weights_of_members = list(members), weights
        self.normalize = normalize

    def call(self, batch: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        """Scores `(batch, list_size)`; 0 under padding."""
        scores = [member(batch, training=training) for member in self.members]
        return self.joined(scores, batch["mask"])

    def joined(self, scores: Sequence[Any], mask: Any) -> tf.Tensor:
        """The members' scores, each `(batch, list_size)`, as one; 0 under padding."""
        return tf.add_n(
            [
                weight * transformed(each, mask, self.normalize)
                for weight, each in zip(self.weights_of_members, scores, strict=True)
            ]
        )
