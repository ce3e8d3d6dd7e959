"""Ensemble of teachers as one Keras model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from recdistill.distillation.ensemble_scores import ensemble_scores, weights_by_name
from recdistill.distillation.score_transforms import Transform
from recdistill.distillation.teacher_outputs import Teacher, scores_of
from recdistill.lists.masked_ops import Tensor

__all__ = ["EnsembleTeacher"]


@keras.saving.register_keras_serializable(package="recdistill")
class EnsembleTeacher(keras.Model):  # type: ignore[misc]
    r"""Ensemble of teachers: the weighted mean of their z-scores in each list.

    $$ t_i = \sum_m w_m \, f(t^{(m)})_i, \quad \sum_m w_m = 1, \quad
       f(t)_i = \frac{t_i - \mathrm{mean}(t)}{\mathrm{std}(t)} $$

    With z-scores, the default $f$, the teachers need not share a scale: a score counts
    relative to the other candidates of its list. A `recdistill.Distiller` with several
    teachers computes the same scores.

    Args:
        members: The teachers, called as `teacher(batch, training=False)`. Keras models
            among them become part of this model; a Functional model receives the inputs
            that it declares.
        weights: One weight for each member; equal by default. Only ratios matter: the
            weights are divided by their sum.
        normalize: Transform of each member's scores before the mean, one of
            `recdistill.distillation.score_transforms`; "none" if all members share a
            scale.
        name: Name of the model.
        **kwargs: `dtype` and `trainable`, as for any Keras model.

    Raises:
        ValueError: If there are no members, the number of weights differs from that of
            members, a weight is negative or not finite, or all weights are 0.
    """

    def __init__(
        self,
        members: Sequence[Teacher],
        weights: Sequence[float] | None = None,
        normalize: Transform = "z_score",
        name: str = "ensemble_teacher",
        **kwargs: Any,
    ) -> None:
        # The members cast their own inputs.
        super().__init__(name=name, autocast=False, **kwargs)
        by_number = weights_by_name(weights, [str(k) for k in range(len(members))])
        self.member_weights = tuple(by_number.values())
        self.members, self.normalize = list(members), normalize

    def build(self, batch_shape: Any = None) -> None:
        """Do nothing: the members build themselves."""

    def call(self, batch: Mapping[str, Any], training: bool = False) -> Tensor:
        """Scores `(batch, list_size)`; 0 under padding.

        Raises:
            ValueError: If a member returns something else, or a Functional member has
                an input that is not in the batch.
        """
        scores = [scores_of(member, dict(batch), training) for member in self.members]
        return self.joined(scores, batch)

    def joined(self, scores: Sequence[Any], batch: Mapping[str, Any]) -> Tensor:
        """Scores of the ensemble from scores of its members.

        Args:
            scores: Scores `(batch, list_size)` of each member.
            batch: Its `mask`, and its `item_weight` if it has one, are used.

        Returns:
            `(batch, list_size)`; 0 under padding.
        """
        by_number = {str(k): each for k, each in enumerate(scores)}
        return ensemble_scores(
            by_number,
            batch["mask"],
            self.member_weights,
            self.normalize,
            batch.get("item_weight"),
        )

    def get_config(self) -> dict[str, Any]:
        """Members, weights and transform; the members must be serialisable."""
        own = {
            "members": list(self.members),
            "weights": list(self.member_weights),
            "normalize": self.normalize,
        }
        return {**super().get_config(), **keras.saving.serialize_keras_object(own)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> EnsembleTeacher:
        """Create an ensemble from the result of `get_config`."""
        return cls(**keras.saving.deserialize_keras_object(config))
