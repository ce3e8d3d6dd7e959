"""Dual correction: what the student ranks too low, and what it ranks too high.

The losses beside it ask for an order whatever the student knows already (`top_k.py`);
this one looks at the student's order first and weighs each candidate by its error.
"""

from typing import Any, ClassVar

import keras
from keras import ops

from recdistill.lists import graph_ranks, masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.lists.numpy_ranks import check_cutoff
from recdistill.losses.list_loss import (
    TemperedListLoss,
    check_positive,
    check_temperature,
)

__all__ = ["TopKDualCorrection", "top_k_dual_correction"]


def top_k_dual_correction(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int = 50,
    sharpness: float = 0.1,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""What the student ranks too low, in the teacher's order, before what is too high.

    With $a_i$ the rank of a candidate by the teacher's scores and $b_i$ by the
    student's, its underestimation counts among the teacher's first `k`, its
    overestimation in all the list:

    $$ u_i = \tanh(\mu \max(b_i - a_i, 0)) \text{ for } a_i \le k, \text{ else } 0,
       \quad o_i = \tanh(\mu \max(a_i - b_i, 0)) $$

    $$ \ell = -\frac{1}{K} \sum_{i} u_i \log \frac{u_i \exp(s_i / \tau)}
       {\sum_{a_j \ge a_i} u_j \exp(s_j / \tau) + \sum_j o_j \exp(s_j / \tau)} $$

    with $K$ the number of candidates in the teacher's first `k`. It is relaxed ranking
    distillation where the underestimated take the place of the top and the
    overestimated that of the tail. The paper draws both with chances in proportion to
    $u$ and $o$; here these are the weights of all candidates, without chance. It ranks
    among the teacher's first 500 alone; here ranks are those in the list. It corrects
    items (users for an item), too, which are no lists here. Divided by $K$ and not by
    the sum of $u$, the loss fades as the orders come together, and is 0 when they are
    the same. Ranks move in steps, so no gradient goes through $u$ and $o$.

    Args:
        teacher_scores: `(batch, list_size)`. Only the order counts, equal scores by
            position; what stands under padding is ignored.
        student_scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above zero, for the student's scores. The loss is a log-likelihood
            and is not rescaled by it.
        k: How many of the teacher's first candidates can be underestimated.
        sharpness: $\mu$, above zero: one over the number of ranks from which on a
            discrepancy counts nearly in full.
        item_weight: `(batch, list_size)`, a factor of $u_i$ and $o_i$, and of 1 in $K$;
            None for 1. Only ratios matter. 0 removes a candidate, from the ranks too.
            Weight 2 is not two candidates, which would take two ranks.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list in the teacher's order.

    Raises:
        ValueError: If the temperature or the sharpness is not a finite number above
            zero, k is below 1, the mask is not boolean, or the shapes differ.

    Use when: a student has learned most of the order and should spend its capacity on
        the errors that are left. From scratch, or with the tail drawn anew for each
        step, prefer `top_k_relaxed_ranking`.

    Reference: Lee, Kim (2021), "Dual Correction Strategy for Ranking Distillation in
        Top-N Recommender System".

    Example:
        Two candidates exchanged, one rank apart: u and o are both tanh(1), so the first
        has chances of 1 to 3 against the second.

        >>> teacher = np.array([[9.0, 8.0]], "float32")
        >>> student = np.array([[0.0, np.log(3.0)]], "float32")
        >>> mask = np.ones((1, 2), bool)
        >>> loss = top_k_dual_correction(teacher, student, mask, sharpness=1.0)
        >>> loss.numpy().round(4)
        array([0.5279], dtype=float32)
        >>> float(round(np.tanh(1) * np.log(4) / 2, 4))
        0.5279
    """
    check_temperature(temperature)
    check_cutoff("k", k)
    check_positive("sharpness", sharpness)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    order = graph_ranks.best_first(teacher_scores, mask)
    weight, real = graph_ranks.taken(weight, order), graph_ranks.taken(mask, order)
    scores = graph_ranks.taken(student_scores, order)
    too_low = graph_ranks.ranks(scores, real) - ops.cumsum(
        ops.ones_like(scores), axis=-1
    )
    top, off = graph_ranks.head(order, k), ops.tanh(sharpness * too_low)
    # Padding has rank 0 and exponents that add nothing: among `over` it does no harm.
    under, over = ops.logical_and(top, off > 0.0), off < 0.0
    off = ops.abs(off)
    exponents = masked_ops.logits(scores, real, temperature, weight)
    exponents += ops.log(ops.where(off > 0.0, off, 1.0))
    terms = graph_ranks.surprise(exponents, under, graph_ranks.log_sum(exponents, over))
    return masked_ops.mean(off * terms, ops.where(top, weight, 0.0))


@keras.saving.register_keras_serializable(package="recdistill")
class TopKDualCorrection(TemperedListLoss):
    """The mean of `top_k_dual_correction` over the lists of a batch.

    `y_true` holds teacher scores, `y_pred` the student's. A list with no real candidate
    weighs zero.

    Args:
        k: How many of the teacher's first candidates can be underestimated.
        sharpness: One over the number of ranks from which on a discrepancy counts
            nearly in full.
        temperature: Above zero, for the student's scores.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If k is below 1, or sharpness or temperature is not a finite number
            above zero.

    Example:
        >>> teacher_scores = np.array([[9.0, 8.0]], "float32")
        >>> student_scores = np.array([[0.0, np.log(3.0)]], "float32")
        >>> loss = TopKDualCorrection(sharpness=1.0)
        >>> round(float(loss(teacher_scores, student_scores)), 4)
        0.5279
    """

    minimum_at_teacher: ClassVar[bool] = True
    function = staticmethod(top_k_dual_correction)
    settings: ClassVar[tuple[str, ...]] = ("temperature", "k", "sharpness")

    def __init__(
        self,
        k: int = 50,
        sharpness: float = 0.1,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, **kwargs)
        check_cutoff("k", k)
        check_positive("sharpness", sharpness)
        self.k, self.sharpness = k, sharpness
