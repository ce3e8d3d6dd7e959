"""Dual correction distillation (DCD): corrects ranks that are too low or too high.

The losses in `top_k.py` and `plackett_luce.py` do not depend on the student's current
order; this one weights each candidate by its error in rank.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from recdistill.lists import graph_ranks, masked_ops, masked_softmax
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import TemperedListLoss, check_settings


def top_k_dual_correction(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int = 50,
    sharpness: float = 0.1,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""DCD dual correction: rank underestimated candidates above overestimated ones.

    With $a_i$ the rank of a candidate by the teacher's scores and $b_i$ by the
    student's, its underestimation counts among the teacher's first `k`, and its
    overestimation in the whole list:

    $$ u_i = \tanh(\mu \max(b_i - a_i, 0)) \text{ for } a_i \le k, \text{ else } 0,
       \quad o_i = \tanh(\mu \max(a_i - b_i, 0)) $$

    $$ \ell = -\frac{1}{K} \sum_{i} u_i \log \frac{u_i \exp(s_i / \tau)}
       {\sum_{a_j \ge a_i} u_j \exp(s_j / \tau) + \sum_j o_j \exp(s_j / \tau)} $$

    with $K$ the number of candidates in the teacher's first `k`. It is relaxed ranking
    distillation (`top_k_relaxed_ranking`) with the underestimated candidates as the top
    and the overestimated ones as the tail. Ranks change in steps, so no gradient flows
    through $u$ and $o$.

    This differs from the paper in three points. The paper samples both kinds of
    candidate with probabilities proportional to $u$ and $o$; here all candidates count,
    with these weights. The paper computes ranks among the teacher's first 500
    candidates; here they are ranks in the list. The paper also corrects the ranking of
    users for an item; here lists are rankings of items only. Because the sum is divided
    by $K$ instead of the sum of $u$, the loss decreases as the orders converge and is 0
    if they are the same.

    Args:
        teacher_scores: `(batch, list_size)`. Only the order matters; equal scores are
            ordered by position, and entries under padding are ignored.
        student_scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above 0; it divides the student's scores. The loss is a
            log-likelihood and is not rescaled by the temperature.
        k: How many of the teacher's first candidates can be underestimated.
        sharpness: $\mu$, above 0: the inverse of the difference in ranks that counts
            almost fully.
        item_weight: `(batch, list_size)`, a factor of $u_i$ and $o_i$, and of 1 in $K$;
            None for 1. Only ratios matter. 0 removes a candidate, from the ranks too.
            Weight 2 is not the same as two candidates, which take two ranks.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list in the teacher's order.

    Raises:
        ValueError: If the temperature or the sharpness is not a finite number above 0,
            `k` is below 1, the mask is not boolean, or the shapes differ.

    Use when: a student has learned most of the order and should spend its capacity on
        the remaining errors. From scratch, or if the tail is sampled again in each
        step, prefer `top_k_relaxed_ranking`.

    Reference: Lee, Kim (2021), "Dual Correction Strategy for Ranking Distillation in
        Top-N Recommender System".

    Examples:
        Two candidates are swapped, one rank apart: u and o are both tanh(1), so the
        first has odds of 1 to 3 against the second.

        >>> teacher = np.array([[9.0, 8.0]], "float32")
        >>> student = np.array([[0.0, np.log(3.0)]], "float32")
        >>> mask = np.ones((1, 2), bool)
        >>> loss = top_k_dual_correction(teacher, student, mask, sharpness=1.0)
        >>> loss.numpy().round(4)
        array([0.5279], dtype=float32)
        >>> float(round(np.tanh(1) * np.log(4) / 2, 4))
        0.5279
    """
    check_settings(temperature=temperature, k=k, sharpness=sharpness)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    order = graph_ranks.best_first(teacher_scores, mask)
    # Ties of the student are in the order of the list, not in that of the teacher.
    ranks = graph_ranks.ranks(student_scores, mask)
    weight, real, scores, ranks = (
        graph_ranks.gather(values, order)
        for values in (weight, mask, student_scores, ranks)
    )
    teacher_ranks = ops.cumsum(ops.ones_like(scores), axis=-1)
    error = ops.tanh(sharpness * (ranks - teacher_ranks))
    top = graph_ranks.within_first(order, k)
    # Padding has rank 0, so it counts as overestimated, but its exponent adds nothing.
    under, over = ops.logical_and(top, error > 0.0), error < 0.0
    size = ops.abs(error)
    exponents = masked_softmax.logits(scores, real, temperature, weight)
    exponents += ops.log(ops.where(size > 0.0, size, 1.0))
    tail = graph_ranks.log_sum_exp(exponents, over)
    terms = graph_ranks.plackett_luce_terms(exponents, under, tail)
    loss = masked_ops.mean(size * terms, ops.where(top, weight, 0.0))
    # Without ranks, no candidate is above or below its place, and the loss would be 0.
    diverged = masked_ops.nan_lists(0.0 * student_scores, mask)
    return loss * ops.cast(ops.where(diverged, np.nan, 1.0), loss.dtype)


@keras.saving.register_keras_serializable(package="recdistill")
class TopKDualCorrection(TemperedListLoss):
    """DCD dual correction of the student's ranking errors, averaged over lists.

    The mean of `top_k_dual_correction`. `y_true` holds teacher scores, `y_pred` the
    student's. A list without real candidates has weight 0.

    Args:
        k: How many of the teacher's first candidates can be underestimated.
        sharpness: The inverse of the difference in ranks that counts almost fully.
        temperature: Above 0; it divides the student's scores.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If `k` is below 1, or sharpness or temperature is not a finite
            number above 0.

    Examples:
        >>> teacher_scores = np.array([[9.0, 8.0]], "float32")
        >>> student_scores = np.array([[0.0, np.log(3.0)]], "float32")
        >>> loss = TopKDualCorrection(sharpness=1.0)
        >>> round(float(loss(teacher_scores, student_scores)), 4)
        0.5279
    """

    function = staticmethod(top_k_dual_correction)

    def __init__(
        self,
        k: int = 50,
        sharpness: float = 0.1,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, **kwargs)
        self.set_settings(k=k, sharpness=sharpness)
