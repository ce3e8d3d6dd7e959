"""LambdaRank losses: misordered pairs, weighted by their effect on NDCG@k.

The gains come from relevance (`listwise_lambda_ndcg`) or from the teacher's soft
targets (`listwise_soft_lambda_ndcg`). Ranks are those of the student's scores, with
ties broken by position.
"""

from typing import Any

import keras
from keras import ops

from recdistill.lists import graph_ranks, masked_ops, masked_softmax
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import (
    RelevanceListLoss,
    TemperedListLoss,
    check_settings,
)


def listwise_lambda_ndcg(
    relevance: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int | None = 10,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""LambdaRank/LambdaLoss NDCG@k: logistic pair loss weighted by the change in NDCG.

    For every pair in which candidate $i$ has a larger gain than $j$, the logistic loss
    of their scores is multiplied by the change in NDCG if the two were swapped in the
    student's current order:

    $$ \ell = \sum_{g_i > g_j} \frac{(g_i - g_j)\,|d(r_i) - d(r_j)|}{\mathrm{IDCG}}
       \log\left(1 + e^{-(s_i - s_j) / \tau}\right), \quad
       d(r) = \frac{1}{\log_2(1 + r)} \text{ for } r \le k, \text{ else } 0 $$

    $r$ are ranks by the student's scores, and $\mathrm{IDCG}$ is the highest possible
    DCG@k. Gains are the relevance itself, as in this library's metrics (for exponential
    gains pass $2^r - 1$). Ranks change in steps, so no gradient flows through them.
    Only pairs with a candidate among the student's first k have a weight: the cost is
    $k$ times the size of the list, not its square.

    This is the weighting of LambdaRank, which LambdaLoss explains as one step of an
    expectation-maximisation. The bound NDCG-Loss2 of that paper, which discounts pairs
    differently, is not implemented. Logarithms are natural.

    Args:
        relevance: `(batch, list_size)`. A value below 0 counts as 0; entries under
            padding are ignored. Only ratios matter.
        student_scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above 0; it divides the student's scores. The loss is not rescaled
            by it.
        k: The cut-off of NDCG; None for no cut-off, at the cost of all pairs in memory.
        item_weight: `(batch, list_size)`, relative to the largest in the list; None for
            1. A pair takes the factor $w_i w_j$. 0 removes a candidate, from the ranks
            too. Weight 2 is not the same as two candidates, which take two ranks.

    Returns:
        `(batch,)`, at least 0; 0 for a list without relevant candidates.

    Raises:
        ValueError: If the temperature is not a finite number above 0, `k` is below 1,
            the mask is not boolean, or the shapes differ.

    Use when: relevance is graded and NDCG is the goal. For a single relevant candidate
        prefer `listwise_cross_entropy`. To learn from a teacher, use
        `listwise_soft_lambda_ndcg`.

    Reference: Wang et al. (2018), "The LambdaLoss Framework for Ranking Metric
        Optimization"; Burges (2010), "From RankNet to LambdaRank to LambdaMART".

    Examples:
        The relevant candidate is second, where it is discounted by log2(3). The scores
        are 1 apart in the wrong order.

        >>> relevance = np.array([[0.0, 1.0]], "float32")
        >>> scores, mask = np.array([[1.0, 0.0]], "float32"), np.ones((1, 2), bool)
        >>> listwise_lambda_ndcg(relevance, scores, mask).numpy().round(4)
        array([0.4847], dtype=float32)
        >>> float(round((1 - 1 / np.log2(3)) * np.log1p(np.e), 4))
        0.4847
    """
    check_settings(temperature=temperature, k=k)
    mask, weight, relevance, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, relevance=relevance, student_scores=student_scores
    )
    gains = masked_ops.shares(relevance, mask)
    return _lambda_ndcg(gains, student_scores, mask, weight, temperature, k)


def listwise_soft_lambda_ndcg(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int | None = 10,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""LambdaRank/LambdaLoss NDCG@k with the teacher's soft targets as gains.

    `listwise_lambda_ndcg` with the gains

    $$ g = \mathrm{softmax}(t / \tau) $$

    Teacher scores are not amounts and may be negative. Their soft targets are amounts,
    do not depend on the origin of the scores, and express how much more one candidate
    is worth than another. The temperature sets how fast gains fall: near 0 only the
    teacher's first candidate matters, and a large value makes all gains nearly equal
    and keeps their order.

    Args:
        teacher_scores: `(batch, list_size)`. Unnormalised; entries under padding are
            ignored.
        student_scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above 0, for both sides: it divides the teacher's scores in the
            gains and the student's in the logistic loss. The loss is not rescaled.
        k: The cut-off of NDCG; None for no cut-off, at the cost of all pairs in memory.
        item_weight: As for `listwise_lambda_ndcg`. It does not change the gains.

    Returns:
        `(batch,)`, at least 0; 0 for a list without real candidates.

    Raises:
        ValueError: If the temperature is not a finite number above 0, `k` is below 1,
            the mask is not boolean, or the shapes differ.

    Use when: the student is evaluated by its first k only. It needs a student that has
        learned some order already, because pairs outside its first k have no weight;
        from scratch prefer `listwise_kl_divergence`.

    Reference: Wang et al. (2018), "The LambdaLoss Framework for Ranking Metric
        Optimization".

    Examples:
        Gains 3/4 and 1/4; the student's scores are 1 apart in the wrong order.

        >>> teacher = np.array([[np.log(3.0), 0.0]], "float32")
        >>> scores, mask = np.array([[0.0, 1.0]], "float32"), np.ones((1, 2), bool)
        >>> listwise_soft_lambda_ndcg(teacher, scores, mask).numpy().round(4)
        array([0.267], dtype=float32)
        >>> discount = 1 / np.log2(3)
        >>> best = 3 / 4 + 1 / 4 * discount
        >>> float(round((3 / 4 - 1 / 4) * (1 - discount) / best * np.log1p(np.e), 4))
        0.267
    """
    check_settings(temperature=temperature, k=k)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    gains = masked_softmax.softmax(teacher_scores, mask, temperature)
    return _lambda_ndcg(gains, student_scores, mask, weight, temperature, k)


def _lambda_ndcg(
    gains: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    weight: Tensor,
    temperature: float,
    k: int | None,
) -> Tensor:
    """Pairs of the student's first k with all: `(batch, k, list_size)` in memory."""
    scores = masked_ops.bounded(student_scores)
    order = graph_ranks.best_first(student_scores, mask, k)
    ranks = graph_ranks.ranks(student_scores, mask)
    first = ranks > 0.0 if k is None else ops.logical_and(ranks > 0.0, ranks <= k)
    discounts = ops.where(first, _discount(ops.where(first, ranks, 1.0)), 0.0)
    weight = ops.divide_no_nan(weight, ops.max(weight, axis=-1, keepdims=True))

    def gaps(values: Tensor) -> Tensor:
        return graph_ranks.gather(values, order)[:, :, None] - values[:, None, :]

    gain_gaps = gaps(gains)
    # A pair within the first k occurs twice, once from each of its candidates.
    pair_weight = ops.where(first, 0.5 * weight, weight)
    cost = ops.abs(gain_gaps * gaps(discounts)) * pair_weight[:, None, :]
    cost *= graph_ranks.gather(weight, order)[:, :, None]
    loss = ops.softplus(-ops.sign(gain_gaps) * gaps(scores) / temperature)
    total = ops.sum(cost * loss, axis=(1, 2))
    return ops.divide_no_nan(total, _best_dcg(gains, k))


def _best_dcg(gains: Tensor, k: int | None) -> Tensor:
    """DCG@k of the ideal order, `(batch,)`; gains are 0 under padding."""
    best = -ops.sort(-gains, axis=-1)[:, :k]
    ranks = ops.cumsum(ops.ones_like(best), axis=-1)
    return ops.sum(best * _discount(ranks), axis=-1)


def _discount(ranks: Tensor) -> Tensor:
    """The discount up to the base of the logarithm, which cancels out in NDCG."""
    return 1.0 / ops.log1p(ranks)


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseLambdaNDCG(RelevanceListLoss):
    """LambdaRank/LambdaLoss NDCG@k on relevance, averaged over lists.

    The mean of `listwise_lambda_ndcg`. `y_true` holds relevance, `y_pred` the student's
    scores. A list without relevant candidates has weight 0.

    Args:
        k: The cut-off of NDCG; None for no cut-off.
        temperature: Above 0; it divides the student's scores.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If `k` is below 1 or the temperature not a finite number above 0.

    Examples:
        >>> relevance = np.array([[0.0, 1.0]], "float32")
        >>> student_scores = np.array([[1.0, 0.0]], "float32")
        >>> round(float(ListwiseLambdaNDCG()(relevance, student_scores)), 4)
        0.4847
    """

    function = staticmethod(listwise_lambda_ndcg)

    def __init__(
        self, k: int | None = 10, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(temperature, **kwargs)
        self.set_settings(k=k)


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseSoftLambdaNDCG(TemperedListLoss):
    """LambdaRank/LambdaLoss NDCG@k on the teacher's soft targets, over lists.

    The mean of `listwise_soft_lambda_ndcg`. `y_true` holds teacher scores, `y_pred` the
    student's. A list without real candidates has weight 0.

    Args:
        k: The cut-off of NDCG; None for no cut-off.
        temperature: Above 0, for both sides.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If `k` is below 1 or the temperature not a finite number above 0.

    Examples:
        >>> teacher_scores = np.array([[np.log(3.0), 0.0]], "float32")
        >>> student_scores = np.array([[0.0, 1.0]], "float32")
        >>> round(float(ListwiseSoftLambdaNDCG()(teacher_scores, student_scores)), 4)
        0.267
    """

    function = staticmethod(listwise_soft_lambda_ndcg)

    def __init__(
        self, k: int | None = 10, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(temperature, **kwargs)
        self.set_settings(k=k)
