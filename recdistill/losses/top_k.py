r"""Top-K distillation losses: Ranking Distillation (Tang & Wang) and RankDistil.

The published methods sample the candidates of a training step: some from the teacher's
top, a few from the rest. The losses here use all candidates of a list. The first `k`
candidates of a list in the teacher's order are the top, and all others are the tail,
which the score store has sampled uniformly (`lists.tail` of a pipeline). If such a tail
represents the rest of a catalogue, `tail_weight` is the number of items that each of
its candidates represents. DE-RRD is in `plackett_luce.py`, DCD in `dual_correction.py`.

All means are over candidates, so that neither `k` nor the length of the list changes
the scale of a loss.
"""

from typing import Any

import keras
from keras import ops

from recdistill.lists import graph_ranks, masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import TemperedListLoss, check_settings


def top_k_position_weighted(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int = 50,
    decay: float = 10.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Ranking Distillation (Tang & Wang): the teacher's top k as weighted positives.

    With the candidates numbered in the teacher's order and at most $K = k$ of them:

    $$ \ell = -\frac{\sum_{r=1}^{K} e^{-r / \lambda} \log \sigma(s_r / \tau)}
       {\sum_{r=1}^{K} e^{-r / \lambda}} $$

    These are the paper's weights by position. Its second weight, by the discrepancy
    between ranks, is left out; see `top_k_dual_correction` for that.

    The loss has no negatives: alone, it is at its minimum if all scores are large. The
    negatives must come from a relevance loss on the same scores that is not
    shift-invariant, such as a binary cross-entropy; or use `top_k_rank_distil`, which
    has both.

    Args:
        teacher_scores: `(batch, list_size)`. Only the order matters; equal scores are
            ordered by position, and entries under padding are ignored.
        student_scores: `(batch, list_size)`, log-odds.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above 0; it divides the student's scores. The loss is a
            log-likelihood and is not rescaled by the temperature.
        k: How many of the teacher's first candidates are positives.
        decay: $\lambda$, above 0: the number of positions over which the weight falls
            by the factor $e$.
        item_weight: `(batch, list_size)`, a factor of each term and of its weight; None
            for 1. Only ratios matter. 0 removes a candidate, and later ones move up.
            Weight 2 is not the same as two candidates, which take two positions.

    Returns:
        `(batch,)`, at least 0; 0 for a list without real candidates.

    Raises:
        ValueError: If the temperature or the decay is not a finite number above 0, `k`
            is below 1, the mask is not boolean, or the shapes differ.

    Use when: the relevance loss is pointwise. Otherwise prefer `top_k_relaxed_ranking`,
        which also learns the order within the top.

    Reference: Tang, Wang (2018), "Ranking Distillation: Learning Compact Ranking Models
        With High Performance for Recommender System".

    Examples:
        The weight halves at each position; a score of 0 means odds of one to one.

        >>> teacher = np.array([[9.0, 8.0, 7.0]], "float32")
        >>> student = np.array([[np.log(3.0), 0.0, -9.0]], "float32")
        >>> mask, decay = np.ones((1, 3), bool), 1 / np.log(2)
        >>> loss = top_k_position_weighted(teacher, student, mask, k=2, decay=decay)
        >>> loss.numpy().round(4)
        array([0.4228], dtype=float32)
        >>> float(round(-(2 * np.log(3 / 4) + np.log(1 / 2)) / 3, 4))
        0.4228
    """
    check_settings(temperature=temperature, k=k, decay=decay)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    order = graph_ranks.best_first(teacher_scores, mask, k)
    scores = masked_ops.bounded(graph_ranks.gather(student_scores, order)) / temperature
    weight = graph_ranks.gather(weight, order)
    positions = ops.cumsum(ops.ones_like(weight), axis=-1) - 1.0
    return masked_ops.mean(
        -ops.log_sigmoid(scores), weight * ops.exp(-positions / decay)
    )


def top_k_rank_distil(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int = 50,
    tail_weight: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""RankDistil: match the teacher's scores on its top k, and lower all other scores.

    With $p = \sigma(t / \tau)$ and $q = \sigma(s / \tau)$, the $K$ candidates of the
    teacher's first `k` as top and all others as tail:

    $$ \ell = \tau^2 \, \frac{-\sum_{i \in \text{top}} \left( p_i \log q_i
       + (1 - p_i) \log(1 - q_i) \right)
       - \beta \sum_{u \in \text{tail}} \log(1 - q_u)}
       {K + \beta \, |\text{tail}|} $$

    This follows the framework of RankDistil: the student reproduces the teacher's
    scores at the top, and so their order; large scores of items that the teacher ranks
    low are penalised, regardless of the teacher's scores for them. The paper studies
    several losses for each part. This function uses a binary cross-entropy for both,
    the whole top instead of a sample, the tail of the list as the sampled tail, and a
    mean instead of a sum.

    Args:
        teacher_scores: `(batch, list_size)`, log-odds: adding a constant changes the
            loss. Entries under padding are ignored.
        student_scores: `(batch, list_size)`, log-odds.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above 0; it divides the scores of both sides.
        k: Size of the top.
        tail_weight: $\beta$, above 0: how many items of the catalogue each candidate of
            the tail represents. For M sampled from N it is N / M.
        item_weight: `(batch, list_size)`, a factor of each term and of its weight; None
            for 1. Only ratios matter, and 0 removes a candidate. Weight 2 is not the
            same as two candidates, which could lie on both sides of the cut-off.

    Returns:
        `(batch,)`, at least 0; 0 for a list without real candidates. Scores are clipped
        to ±1e15.

    Raises:
        ValueError: If the temperature or the weight of the tail is not a finite number
            above 0, `k` is below 1, the mask is not boolean, or the shapes differ.

    Use when: teacher scores are log-odds (a model trained on clicks), the catalogue is
        large, and the student's scores should be log-odds too. If only a ranking is
        needed, prefer `top_k_relaxed_ranking`.

    Reference: Reddi et al. (2021), "RankDistil: Knowledge Distillation for Ranking".

    Examples:
        The student's probabilities are all 1/2: at the top, where the teacher's are 3/4
        and 1/2, and in the tail of one candidate that represents two. Each term is
        log(2), and so is the mean.

        >>> teacher = np.array([[np.log(3.0), 0.0, -1.0]], "float32")
        >>> student, mask = np.zeros((1, 3), "float32"), np.ones((1, 3), bool)
        >>> loss = top_k_rank_distil(teacher, student, mask, k=2, tail_weight=2.0)
        >>> loss.numpy().round(4)
        array([0.6931], dtype=float32)
    """
    check_settings(temperature=temperature, k=k, tail_weight=tail_weight)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    order = graph_ranks.best_first(teacher_scores, mask)
    top = graph_ranks.within_first(order, k)
    weight = graph_ranks.gather(weight, order)
    weight = ops.where(top, weight, tail_weight * weight)
    teacher, student = (
        masked_ops.bounded(graph_ranks.gather(scores, order)) / temperature
        for scores in (teacher_scores, student_scores)
    )
    positive = ops.where(top, ops.sigmoid(teacher), 0.0)
    negative = ops.where(top, ops.sigmoid(-teacher), 1.0)
    terms = positive * ops.softplus(-student) + negative * ops.softplus(student)
    return temperature**2 * masked_ops.mean(terms, weight)


@keras.saving.register_keras_serializable(package="recdistill")
class TopKPositionWeighted(TemperedListLoss):
    """Ranking Distillation (Tang & Wang) with weights by position, over lists.

    The mean of `top_k_position_weighted`. `y_true` holds teacher scores, `y_pred` the
    student's. A list without real candidates has weight 0.

    Args:
        k: How many of the teacher's first candidates are positives.
        decay: The number of positions over which the weight falls by the factor e.
        temperature: Above 0; it divides the student's scores.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If `k` is below 1, or decay or temperature is not a finite number
            above 0.

    Examples:
        >>> teacher_scores = np.array([[9.0, 8.0, 7.0]], "float32")
        >>> student_scores = np.array([[np.log(3.0), 0.0, -9.0]], "float32")
        >>> loss = TopKPositionWeighted(k=2, decay=1 / np.log(2))
        >>> round(float(loss(teacher_scores, student_scores)), 4)
        0.4228
    """

    function = staticmethod(top_k_position_weighted)

    def __init__(
        self,
        k: int = 50,
        decay: float = 10.0,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, **kwargs)
        self.set_settings(k=k, decay=decay)


@keras.saving.register_keras_serializable(package="recdistill")
class TopKRankDistil(TemperedListLoss):
    """RankDistil: the teacher's scores on its top k and a low tail, over lists.

    The mean of `top_k_rank_distil`. `y_true` holds teacher scores, `y_pred` the
    student's. A list without real candidates has weight 0.

    Args:
        k: Size of the top.
        tail_weight: How many items of the catalogue each candidate of the tail
            represents.
        temperature: Above 0, for both sides.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If `k` is below 1, or the weight of the tail or the temperature is
            not a finite number above 0.

    Examples:
        >>> teacher_scores = np.array([[np.log(3.0), 0.0, -1.0]], "float32")
        >>> loss = TopKRankDistil(k=2, tail_weight=2.0)
        >>> round(float(loss(teacher_scores, np.zeros((1, 3), "float32"))), 4)
        0.6931
    """

    function = staticmethod(top_k_rank_distil)

    def __init__(
        self,
        k: int = 50,
        tail_weight: float = 1.0,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, **kwargs)
        self.set_settings(k=k, tail_weight=tail_weight)
