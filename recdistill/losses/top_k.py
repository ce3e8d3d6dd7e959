r"""Top-K ranking distillation: the head of the teacher's order, against the tail.

The published methods draw the candidates of a step at random: some of the teacher's
top, a few of the rest. Here a loss draws nothing. What is in the list is what counts:
the first `k` in the teacher's order are the top, all others the tail, which the score
store has drawn uniformly (`lists.tail` of a pipeline). Where such a tail stands for the
rest of a catalogue, `tail_weight` says how many items a drawn one stands for.

All means are over candidates, so that neither `k` nor the length of the list changes
how loud a loss is beside another.
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

__all__ = [
    "TopKPositionWeighted",
    "TopKRankDistil",
    "TopKRelaxedRanking",
    "top_k_position_weighted",
    "top_k_rank_distil",
    "top_k_relaxed_ranking",
]


def top_k_position_weighted(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int = 50,
    decay: float = 10.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""The teacher's first k as positives, the more so the higher they stand.

    With the candidates numbered in the teacher's order and at most $K = k$ of them:

    $$ \ell = -\frac{\sum_{r=1}^{K} e^{-r / \lambda} \log \sigma(s_r / \tau)}
       {\sum_{r=1}^{K} e^{-r / \lambda}} $$

    That is ranking distillation with weights by position. The paper's second weight, by
    the discrepancy of ranks, is the subject of `top_k_dual_correction` and left out.

    It has no negatives: alone, it is at its least where all scores are large. They have
    to come from a relevance loss on the same scores that is not blind to a shift, such
    as a binary cross-entropy; or use `top_k_rank_distil`, which has both.

    Args:
        teacher_scores: `(batch, list_size)`. Only the order counts, equal scores by
            position; what stands under padding is ignored.
        student_scores: `(batch, list_size)`, log-odds.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above zero, for the student's scores. The loss is a log-likelihood
            and is not rescaled by it.
        k: How many of the teacher's first candidates are positives.
        decay: $\lambda$, above zero: after so many positions the weight has fallen by
            the factor $e$.
        item_weight: `(batch, list_size)`, a factor of each term and its weight; None
            for 1. Only ratios matter. 0 removes a candidate, and others move up.
            Weight 2 is not two candidates, which would take two positions.

    Returns:
        `(batch,)`, at least 0; 0 for a list with no real candidate.

    Raises:
        ValueError: If the temperature or the decay is not a finite number above zero, k
            is below 1, the mask is not boolean, or the shapes differ.

    Use when: the relevance loss is pointwise. Else prefer `top_k_relaxed_ranking`,
        which knows the order within the top.

    Reference: Tang, Wang (2018), "Ranking Distillation: Learning Compact Ranking Models
        With High Performance for Recommender System".

    Example:
        Weights fall by half at each position; scores of 0 are odds of one to one.

        >>> teacher = np.array([[9.0, 8.0, 7.0]], "float32")
        >>> student = np.array([[np.log(3.0), 0.0, -9.0]], "float32")
        >>> mask, decay = np.ones((1, 3), bool), 1 / np.log(2)
        >>> loss = top_k_position_weighted(teacher, student, mask, k=2, decay=decay)
        >>> loss.numpy().round(4)
        array([0.4228], dtype=float32)
        >>> float(round(-(2 * np.log(3 / 4) + np.log(1 / 2)) / 3, 4))
        0.4228
    """
    check_temperature(temperature)
    check_cutoff("k", k)
    check_positive("decay", decay)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    order = graph_ranks.best_first(teacher_scores, mask)
    scores = masked_ops.bounded(graph_ranks.taken(student_scores, order)) / temperature
    weight = ops.where(
        graph_ranks.head(order, k), graph_ranks.taken(weight, order), 0.0
    )
    positions = ops.cumsum(ops.ones_like(weight), axis=-1) - 1.0
    return masked_ops.mean(
        -ops.log_sigmoid(scores), weight * ops.exp(-positions / decay)
    )


def top_k_relaxed_ranking(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int = 50,
    tail_weight: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""The order of the teacher's first k, all of them ahead of one shared tail.

    With the candidates numbered in the teacher's order, at most $K = k$ of them in the
    top and all others in the tail:

    $$ \ell = -\frac{1}{K} \sum_{i=1}^{K} \log \frac{\exp(s_i / \tau)}
       {\sum_{j=i}^{K} \exp(s_j / \tau) + \beta \sum_{u \in \text{tail}}
       \exp(s_u / \tau)} $$

    The order within the tail is relaxed: it does not count. With $\beta = 1$ this is
    `listwise_plackett_luce` with the same k. The paper draws the candidates of the top,
    by their rank, and those of the tail anew in each epoch, and adds the terms up; here
    the whole top counts, the tail is the list's, and the terms are averaged.

    Args:
        teacher_scores: `(batch, list_size)`. Only the order counts, equal scores by
            position; what stands under padding is ignored.
        student_scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above zero, for the student's scores. The loss is a log-likelihood
            and is not rescaled by it.
        k: How many of the teacher's first candidates are the top.
        tail_weight: $\beta$, above zero: how many items a candidate of the tail stands
            for. For M drawn from N it is N / M, and the sum over the tail is then an
            unbiased estimate of the one over all N.
        item_weight: `(batch, list_size)`, as for `listwise_plackett_luce`.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list with no real candidate.

    Raises:
        ValueError: If the temperature or the weight of the tail is not a finite number
            above zero, k is below 1, the mask is not boolean, or the shapes differ.

    Use when: the teacher's order at the top can be trusted, its margins cannot, and the
        tail of the list is a sample of a large catalogue.

    Reference: Kang et al. (2020), "DE-RRD: A Knowledge Distillation Framework for
        Recommender System".

    Example:
        The first wins over 2 + 1 + 3 x 1 + 3 of a tail of one that stands for three.

        >>> teacher = np.array([[9.0, 8.0, 7.0]], "float32")
        >>> student = np.log(np.array([[3.0, 2.0, 1.0]], "float32"))
        >>> mask = np.ones((1, 3), bool)
        >>> loss = top_k_relaxed_ranking(teacher, student, mask, k=2, tail_weight=3.0)
        >>> loss.numpy().round(4)
        array([0.9486], dtype=float32)
        >>> float(round(-(np.log(3 / (3 + 2 + 3)) + np.log(2 / (2 + 3))) / 2, 4))
        0.9486
    """
    check_temperature(temperature)
    check_cutoff("k", k)
    check_positive("tail_weight", tail_weight)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    order = graph_ranks.best_first(teacher_scores, mask)
    exponents = masked_ops.logits(student_scores, mask, temperature, weight)
    exponents = graph_ranks.taken(exponents, order)
    top = graph_ranks.head(order, k)
    exponents += ops.where(top, 0.0, ops.log(ops.cast(tail_weight, exponents.dtype)))
    terms = graph_ranks.surprise(exponents)
    return masked_ops.mean(terms, ops.where(top, graph_ranks.taken(weight, order), 0.0))


def top_k_rank_distil(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int = 50,
    tail_weight: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Match the teacher on its first k, and push down whatever it ranks low.

    With $p = \sigma(t / \tau)$ and $q = \sigma(s / \tau)$, the $K$ candidates of the
    teacher's first `k` as top and all others as tail:

    $$ \ell = \tau^2 \, \frac{-\sum_{i \in \text{top}} \left( p_i \log q_i
       + (1 - p_i) \log(1 - q_i) \right)
       - \beta \sum_{u \in \text{tail}} \log(1 - q_u)}
       {K + \beta \, |\text{tail}|} $$

    This follows the framework of RankDistil: the student keeps the teacher's scores at
    the top, so also its order, and large scores of items that the teacher ranks low are
    penalised, whatever the teacher's scores for them. The paper leaves both parts open
    and studies several; this one is binary in both, takes the whole top instead of a
    sample, the list's tail for the sampled one, and an average for the sum.

    Args:
        teacher_scores: `(batch, list_size)`, log-odds: a shift of them matters. What
            stands under padding is ignored.
        student_scores: `(batch, list_size)`, log-odds.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above zero, for both sides.
        k: How many of the teacher's first candidates are the top.
        tail_weight: $\beta$, above zero: how many items a candidate of the tail stands
            for. For M drawn from N it is N / M.
        item_weight: `(batch, list_size)`, a factor of each term and its weight; None
            for 1. Only ratios matter, and 0 removes a candidate. Weight 2 is not two
            candidates, which could fall on both sides of the cut-off.

    Returns:
        `(batch,)`, at least 0; 0 for a list with no real candidate. Scores beyond ±1e15
        count as that.

    Raises:
        ValueError: If the temperature or the weight of the tail is not a finite number
            above zero, k is below 1, the mask is not boolean, or the shapes differ.

    Use when: teacher scores are log-odds (a model trained on clicks), the catalogue is
        large, and the student's scores are to mean something, too. Where only a ranking
        is wanted, prefer `top_k_relaxed_ranking`.

    Reference: Reddi et al. (2021), "RankDistil: Knowledge Distillation for Ranking".

    Example:
        At the top 3/4 and 1/2 meet odds of one to one; so does a tail that stands for
        two. Each costs log(2), and so does their mean.

        >>> teacher = np.array([[np.log(3.0), 0.0, -1.0]], "float32")
        >>> student, mask = np.zeros((1, 3), "float32"), np.ones((1, 3), bool)
        >>> loss = top_k_rank_distil(teacher, student, mask, k=2, tail_weight=2.0)
        >>> loss.numpy().round(4)
        array([0.6931], dtype=float32)
    """
    check_temperature(temperature)
    check_cutoff("k", k)
    check_positive("tail_weight", tail_weight)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    order = graph_ranks.best_first(teacher_scores, mask)
    top = graph_ranks.head(order, k)
    weight = graph_ranks.taken(weight, order)
    weight = ops.where(top, weight, tail_weight * weight)
    teacher = masked_ops.bounded(graph_ranks.taken(teacher_scores, order)) / temperature
    student = masked_ops.bounded(graph_ranks.taken(student_scores, order)) / temperature
    targets = ops.where(top, ops.sigmoid(teacher), 0.0)
    others = ops.where(top, ops.sigmoid(-teacher), 1.0)
    terms = targets * ops.softplus(-student) + others * ops.softplus(student)
    return temperature**2 * masked_ops.mean(terms, weight)


@keras.saving.register_keras_serializable(package="recdistill")
class TopKPositionWeighted(TemperedListLoss):
    """The mean of `top_k_position_weighted` over the lists of a batch.

    `y_true` holds teacher scores, `y_pred` the student's. A list with no real candidate
    weighs zero.

    Args:
        k: How many of the teacher's first candidates are positives.
        decay: After so many positions the weight has fallen by the factor e.
        temperature: Above zero, for the student's scores.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If k is below 1, or decay or temperature is not a finite number
            above zero.

    Example:
        >>> teacher_scores = np.array([[9.0, 8.0, 7.0]], "float32")
        >>> student_scores = np.array([[np.log(3.0), 0.0, -9.0]], "float32")
        >>> loss = TopKPositionWeighted(k=2, decay=1 / np.log(2))
        >>> round(float(loss(teacher_scores, student_scores)), 4)
        0.4228
    """

    shift_invariant: ClassVar[bool] = False
    function = staticmethod(top_k_position_weighted)
    settings: ClassVar[tuple[str, ...]] = ("temperature", "k", "decay")

    def __init__(
        self,
        k: int = 50,
        decay: float = 10.0,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, **kwargs)
        check_cutoff("k", k)
        check_positive("decay", decay)
        self.k, self.decay = k, decay


class _TailedLoss(TemperedListLoss):
    """The settings of losses with a tail that stands for more items."""

    settings: ClassVar[tuple[str, ...]] = ("temperature", "k", "tail_weight")

    def __init__(
        self,
        k: int = 50,
        tail_weight: float = 1.0,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, **kwargs)
        check_cutoff("k", k)
        check_positive("tail_weight", tail_weight)
        self.k, self.tail_weight = k, tail_weight


@keras.saving.register_keras_serializable(package="recdistill")
class TopKRelaxedRanking(_TailedLoss):
    """The mean of `top_k_relaxed_ranking` over the lists of a batch.

    `y_true` holds teacher scores, `y_pred` the student's. A list with no real candidate
    weighs zero.

    Args:
        k: How many of the teacher's first candidates are the top.
        tail_weight: How many items a candidate of the tail stands for.
        temperature: Above zero, for the student's scores.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If k is below 1, or the weight of the tail or the temperature is not
            a finite number above zero.

    Example:
        >>> teacher_scores = np.array([[9.0, 8.0, 7.0]], "float32")
        >>> student_scores = np.log(np.array([[3.0, 2.0, 1.0]], "float32"))
        >>> loss = TopKRelaxedRanking(k=2, tail_weight=3.0)
        >>> round(float(loss(teacher_scores, student_scores)), 4)
        0.9486
    """

    function = staticmethod(top_k_relaxed_ranking)


@keras.saving.register_keras_serializable(package="recdistill")
class TopKRankDistil(_TailedLoss):
    """The mean of `top_k_rank_distil` over the lists of a batch.

    `y_true` holds teacher scores, `y_pred` the student's. A list with no real candidate
    weighs zero.

    Args:
        k: How many of the teacher's first candidates are the top.
        tail_weight: How many items a candidate of the tail stands for.
        temperature: Above zero, for both sides.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If k is below 1, or the weight of the tail or the temperature is not
            a finite number above zero.

    Example:
        >>> teacher_scores = np.array([[np.log(3.0), 0.0, -1.0]], "float32")
        >>> loss = TopKRankDistil(k=2, tail_weight=2.0)
        >>> round(float(loss(teacher_scores, np.zeros((1, 3), "float32"))), 4)
        0.6931
    """

    shift_invariant: ClassVar[bool] = False
    function = staticmethod(top_k_rank_distil)
