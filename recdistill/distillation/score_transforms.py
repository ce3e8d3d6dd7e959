"""Transforms of teacher scores: z-score, min-max, logit, log and rank, list by list.

A softmax interprets scores as log-odds, but few teachers give log-odds. The outputs of
a sigmoid are squashed between 0 and 1, so that all candidates get nearly the same
probability. The scores of a linear item model have a heavy tail, so that the first
candidate gets nearly all of the probability. A temperature cannot correct this, because
it changes the scale of the scores and not the shape of their distribution. A transform
can:

| transform | a score becomes | for scores that |
|---|---|---|
| `none` | itself | are log-odds already |
| `z_score` | its distance from the mean, in standard deviations | have no heavy tail |
| `min_max` | its position between lowest and highest, 0 to 1 | must stay bounded |
| `log` | the signed logarithm of its distance from the mean | have a heavy tail |
| `logit` | the z-score of its log-odds | are probabilities |
| `rank` | minus the logarithm of its rank | are meaningful only in their order |

All of them except `none` and `logit` are invariant to the scale and offset of the
scores. None reverses the order of a list, and values under padding are ignored.
`recdistill.distillation.score_doctor` examines scores and proposes a transform and a
temperature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import numpy as np
from keras import ops

from recdistill.lists import masked_ops, masked_softmax
from recdistill.lists.masked_ops import Tensor

__all__ = [
    "TRANSFORMS",
    "Transform",
    "differ",
    "effective_candidates",
    "log_odds",
    "log_rank",
    "signed_log",
    "transformed",
]

Transform: TypeAlias = Literal["none", "z_score", "min_max", "log", "logit", "rank"]
"""Name of a transform, as in the configuration."""

TRANSFORMS: tuple[Transform, ...] = get_args(Transform)

SMALLEST_ODDS = 2.0**-24
"""Distance from 0 and 1 to which probabilities are clipped (float32 near 1)."""


def transformed(
    scores: Tensor,
    mask: Tensor,
    transform: Transform,
    item_weight: Tensor | None = None,
) -> Tensor:
    """Transform teacher scores list by list.

    Args:
        scores: `(batch, list_size)`. Finite for real candidates.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        transform: Name of the transform; see the table of this module.
        item_weight: `(batch, list_size)`, above 0 for real candidates: how often each
            counts in means, deviations and ranks, so that the result of a list with a
            sampled tail estimates that of the whole catalogue. None for once each.

    Returns:
        `(batch, list_size)`; 0 under padding.

    Raises:
        ValueError: If the transform is unknown, or the shapes do not fit.

    Examples:
        >>> scores = np.array([[4.0, 2.0, 99.0]], "float32")
        >>> mask = np.array([[True, True, False]])
        >>> transformed(scores, mask, "z_score").numpy()
        array([[ 1., -1.,  0.]], dtype=float32)
    """
    mask, scores = masked_ops.as_lists(mask, scores=scores)
    functions: dict[str, Callable[..., Tensor]] = {
        "none": lambda scores, mask, _: ops.where(mask, scores, 0.0),
        "z_score": masked_ops.standardise,
        "min_max": lambda scores, mask, _: masked_ops.min_max(scores, mask),
        "log": signed_log,
        "logit": log_odds,
        "rank": log_rank,
    }
    if transform not in functions:
        raise ValueError(
            f"`transform` must be one of {', '.join(TRANSFORMS)}. "
            f"Received: {transform!r}"
        )
    return functions[transform](scores, mask, item_weight)


def differ(scores: Tensor, mask: Tensor) -> Tensor:
    """Whether the scores of each list differ.

    Equal scores for all candidates say nothing about them. As soft targets they would
    teach that all candidates are equally good, which is not what such a teacher means:
    a model of histories has no scores for a query without one.

    Args:
        scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch,)`, bool.

    Examples:
        >>> scores = np.array([[4.0, 2.0, 9.0], [3.0, 3.0, 9.0]], "float32")
        >>> mask = np.array([[True, True, False], [True, True, False]])
        >>> differ(scores, mask).numpy()
        array([ True, False])
    """
    mask, scores = masked_ops.as_lists(mask, scores=scores)
    low = ops.min(ops.where(mask, scores, np.inf), axis=1)
    high = ops.max(ops.where(mask, scores, -np.inf), axis=1)
    return high > low


def signed_log(
    scores: Tensor, mask: Tensor, item_weight: Tensor | None = None
) -> Tensor:
    r"""Signed logarithm of each score's distance from the mean of its list.

    $$ t_i = \mathrm{arsinh}(u_i), \quad u_i = \frac{s_i - \bar s}{d}, \quad
       d = \mathrm{mean}_j \, |s_j - \bar s| $$

    Where $|u| < 1$, the result is nearly $u$ itself; beyond that it grows like
    $\log 2|u|$. After a softmax at temperature $\tau$, the probability of a candidate
    with a large score is proportional to $u^{1/\tau}$, a power of $u$. Without the
    logarithm it would be an exponential, and the first candidate of a heavy tail would
    get nearly all of the probability. The scale is the mean distance $d$ because a few
    large scores dominate the standard deviation.

    Args:
        scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool.
        item_weight: As for `transformed`.

    Returns:
        `(batch, list_size)`; 0 under padding and in lists whose scores are all equal.

    Examples:
        The mean is 2 and the mean distance from it 3, so that u is -2/3 and 2.

        >>> scores = np.array([[0.0, 0.0, 0.0, 8.0, 99.0]], "float32")
        >>> mask = np.array([[True, True, True, True, False]])
        >>> signed_log(scores, mask).numpy().round(4)
        array([[-0.6251, -0.6251, -0.6251,  1.4436,  0.    ]], dtype=float32)
    """
    gaps = masked_ops.standardise(scores, mask, item_weight)
    unit = masked_ops.list_mean(ops.abs(gaps), mask, item_weight)
    return ops.arcsinh(gaps / ops.where(unit > 0.0, unit, 1.0))


def log_odds(scores: Tensor, mask: Tensor, item_weight: Tensor | None = None) -> Tensor:
    r"""Logit transform: z-scores of $\log p - \log(1 - p)$, for probabilities.

    This inverts a sigmoid: the result equals the z-scores of the model's logits.

    Args:
        scores: `(batch, list_size)`, from 0 to 1; clipped to a distance of 2 ** -24
            from 0 and 1.
        mask: `(batch, list_size)`, bool.
        item_weight: As for `transformed`.

    Returns:
        `(batch, list_size)`; 0 under padding and in lists whose scores are all equal.

    Examples:
        >>> scores = np.array([[0.5, 0.9, 0.1]], "float32")  # log-odds 0, log 9, -log 9
        >>> log_odds(scores, np.array([[True, True, True]])).numpy().round(4) + 0.0
        array([[ 0.    ,  1.2247, -1.2247]], dtype=float32)
    """
    scores = ops.clip(scores, SMALLEST_ODDS, 1.0 - SMALLEST_ODDS)
    odds = ops.log(scores) - ops.log1p(-scores)
    return masked_ops.standardise(odds, mask, item_weight)


def log_rank(scores: Tensor, mask: Tensor, item_weight: Tensor | None = None) -> Tensor:
    r"""Minus the logarithm of each candidate's rank, which depends on the order alone.

    After a softmax at temperature $\tau$, the probability of the candidate of rank $r$
    is proportional to $r^{-1/\tau}$, which is Zipf's law with exponent $1/\tau$. Equal
    scores get the mean of their ranks.

    Args:
        scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool.
        item_weight: As for `transformed`.

    Returns:
        `(batch, list_size)`, at most 0; 0 for the first candidate and under padding.

    Examples:
        >>> scores = np.array([[7.0, 900.0, 7.0, 99.0]], "float32")
        >>> mask = np.array([[True, True, True, False]])
        >>> log_rank(scores, mask).numpy().round(4) + 0.0  # 0, and twice -log(2.5)
        array([[-0.9163,  0.    , -0.9163,  0.    ]], dtype=float32)
    """
    ranks = masked_ops.mean_ranks(scores, mask, item_weight)
    return -ops.log(ops.maximum(ranks, 1.0))


def effective_candidates(
    scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Effective number of candidates in a list's soft targets (perplexity).

    $$ N = \exp\Bigl(-\sum_i p_i \log p_i\Bigr), \quad p = \mathrm{softmax}(s / \tau) $$

    It is N if N candidates share the probability equally, and 1 if one has all of it.

    Args:
        scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool.
        temperature: Above zero.
        item_weight: As for `transformed`; a candidate of weight w counts like w
            candidates with its score.

    Returns:
        `(batch,)`, from 1 to the number of candidates; 1 for a list without candidates.

    Examples:
        >>> scores = np.log([[1.0, 1.0, 2.0]])  # shares 1/4, 1/4, 1/2
        >>> mask = np.array([[True, True, True]])
        >>> effective_candidates(scores, mask).numpy().round(4)  # 2 ** 1.5
        array([2.8284])
    """
    logs = masked_softmax.log_softmax(scores, mask, temperature, item_weight)
    shares, each = ops.exp(logs), logs
    if item_weight is not None:
        each = logs - ops.log(ops.where(mask, item_weight, 1.0))
    return ops.exp(-masked_ops.total(shares * each, mask))
