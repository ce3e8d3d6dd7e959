"""Teachers: models that score the candidates of a batch, however slowly.

A teacher is anything that is called as `teacher(batch, training=False)` and returns
scores `(batch, list_size)`; see `recdistill.batches` for what a batch holds. The
reference ranker is in `recdistill.ranker`, the linear item model in
`recdistill.linear`; here is what joins several of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from recdistill import lists


class EnsembleTeacher(keras.Model):  # type: ignore[misc]
    r"""Several teachers as one: the weighted sum of their z-scores in each list.

    $$ t_i = \sum_m w_m \, \frac{t^{(m)}_i - \mathrm{mean}(t^{(m)})}
       {\mathrm{std}(t^{(m)})} $$

    Teachers need not share a scale; what counts is how far a candidate stands out
    among the candidates of its list.

    Args:
        members: The teachers.
        weights: One for each; equal if not given.

    Raises:
        ValueError: If there is no member, or not one weight for each.
    """

    def __init__(
        self, members: Sequence[keras.Model], weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(name="ensemble_teacher")
        weights = tuple(weights if weights is not None else [1.0] * len(members))
        if not members or len(weights) != len(members):
            raise ValueError(
                "`members` must have a teacher and `weights` one entry for each. "
                f"Received: {len(members)} members, {len(weights)} weights"
            )
        self.members, self.weights_of_members = list(members), weights

    def call(self, batch: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        """Scores `(batch, list_size)`; 0 under padding."""
        scores = [
            weight * lists.standardize(member(batch, training=training), batch["mask"])
            for member, weight in zip(
                self.members, self.weights_of_members, strict=True
            )
        ]
        return tf.add_n(scores)
