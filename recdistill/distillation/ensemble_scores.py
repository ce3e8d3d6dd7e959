r"""Ensemble of teachers: one score from the scores of several teachers.

`recdistill.Distiller([a, b])`, stored scores of several teachers and
`recdistill.EnsembleTeacher([a, b])` all use `ensemble_scores`, the weighted mean of the
teachers' transformed scores:

$$ t_i = \sum_m w_m \, f(t^{(m)})_i, \quad \sum_m w_m = 1, \quad
   f(t)_i = \frac{t_i - \mathrm{mean}(t)}{\mathrm{std}(t)} $$

The default transform $f$ is the z-score over each list.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TypeAlias

from recdistill.distillation.score_transforms import Transform, transformed
from recdistill.lists.masked_ops import Tensor

__all__ = ["TeacherWeights", "check_weights", "ensemble_scores", "weights_by_name"]

TeacherWeights: TypeAlias = Sequence[float] | Mapping[str, float] | None


def ensemble_scores(
    scores: Mapping[str, Tensor] | Tensor,
    mask: Tensor,
    weights: TeacherWeights = None,
    transform: Transform = "z_score",
    item_weight: Tensor | None = None,
) -> Tensor:
    """Weighted mean of the scores of several teachers, by default of their z-scores.

    Args:
        scores: One array `(batch, list_size)` for each teacher, by name; or one array
            `(batch, teachers, list_size)`.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        weights: One weight for each teacher, by name or in the order of the teachers.
            Only ratios matter: the weights are divided by their sum. Equal by default.
        transform: Transform of the scores of each teacher before the mean; see
            `recdistill.distillation.score_transforms`.
        item_weight: `(batch, list_size)`, as for `score_transforms.transformed`.

    Returns:
        `(batch, list_size)`; 0 under padding.

    Raises:
        ValueError: If the number of weights differs from that of teachers, a weight is
            negative or not finite, or all weights are 0.

    Examples:
        Two teachers with different scales, which disagree about the last two.

        >>> scores = np.array([[[9.0, 1.0, 5.0], [0.9, 0.5, 0.1]]], "float32")
        >>> ensemble_scores(scores, np.ones((1, 3), bool)).numpy().round(2)
        array([[ 1.22, -0.61, -0.61]], dtype=float32)
    """
    if not isinstance(scores, Mapping):
        scores = {str(k): scores[:, k] for k in range(scores.shape[1])}
    by_name = weights_by_name(weights, list(scores))
    parts = [
        by_name[name] * transformed(each, mask, transform, item_weight)
        for name, each in scores.items()
    ]
    return sum(parts[1:], parts[0])


def weights_by_name(weights: TeacherWeights, names: Sequence[str]) -> dict[str, float]:
    """Weight of each teacher, with a sum of 1, in the order of the names.

    Args:
        weights: As for `ensemble_scores`.
        names: Names of the teachers.

    Raises:
        ValueError: As for `ensemble_scores`.
    """
    if weights is None:
        weights = [1.0] * len(names)
    elif isinstance(weights, Mapping) and set(weights) == set(names):
        weights = [weights[name] for name in names]
    if isinstance(weights, Mapping) or len(weights) != len(names) or not names:
        raise ValueError(
            "`weights` must have one weight for each teacher. "
            f"Received: weights={weights} for the teachers {list(names)}"
        )
    check_weights(weights)
    total = sum(weights)
    return {name: weight / total for name, weight in zip(names, weights, strict=True)}


def check_weights(weights: Sequence[float] | Mapping[str, float]) -> None:
    """Raise unless all weights are finite and at least 0, and one is above 0.

    Args:
        weights: Weights of several teachers.

    Raises:
        ValueError: If a weight is out of range or all are 0.
    """
    values = list(weights.values() if isinstance(weights, Mapping) else weights)
    if not all(0.0 <= each and isfinite(each) for each in values) or not any(values):
        raise ValueError(
            "`weights` of teachers must be finite, at least 0 and not all 0. "
            f"Received: weights={weights}"
        )
