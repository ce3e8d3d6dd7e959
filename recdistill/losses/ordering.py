"""Listwise losses that ask for an order: the likelihood of it, or its NDCG.

What the teacher's scores say beyond an order counts little or nothing here. The
functions look at a list in the teacher's or in the student's order, with ties broken by
position (`recdistill.lists.graph_ranks`).
"""

from typing import Any, ClassVar

import keras
from keras import ops

from recdistill.lists import graph_ranks, masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.lists.numpy_ranks import check_cutoff
from recdistill.losses.list_loss import TemperedListLoss, check_temperature

__all__ = [
    "ListwiseLambdaNDCG",
    "ListwisePlackettLuce",
    "ListwiseSoftLambdaNDCG",
    "listwise_lambda_ndcg",
    "listwise_plackett_luce",
    "listwise_soft_lambda_ndcg",
]


def listwise_plackett_luce(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int | None = None,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Surprise of the student at the order in which the teacher would draw a list.

    Candidates are drawn one by one and not put back, each with a chance that the
    student's scores give (Plackett–Luce). With the candidates numbered in the
    teacher's order, and $K$ the number of places that count, at most `k`:

    $$ \ell = -\frac{1}{K} \sum_{i=1}^{K} \log \frac{\exp(s_i / \tau)}
       {\sum_{j \ge i} \exp(s_j / \tau)} $$

    Every candidate after the first $i$ is in the denominator, the tail included. This
    is ListMLE with a top-k cut-off, divided by the number of places, so that a long
    list is not louder than the relevance loss beside it. Of the teacher's scores only
    the order counts.

    Args:
        teacher_scores: `(batch, list_size)`. Equal scores are ordered by position; what
            stands under padding is ignored.
        student_scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above zero. It belongs to the student's scores alone; the loss is a
            log-likelihood and is not rescaled by it.
        k: How many of the first places count; None for all.
        item_weight: `(batch, list_size)`, how much of a candidate is drawn; None for 1.
            $\exp(s_i / \tau)$ takes the factor $w_i$ above and below the line, and the
            terms are averaged by $w_i$. Only ratios matter, and 0 removes a candidate.
            Weight 2 is not two candidates: those would be drawn one after the other.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list with no real candidate.

    Raises:
        ValueError: If the temperature is not a finite number above zero, k is below 1,
            the mask is not boolean, or the shapes differ.

    Use when: the teacher's order can be trusted and its margins cannot (a booster, an
        ensemble of ranks, squashed or heavy-tailed scores). With good margins prefer
        `listwise_kl_divergence`.

    Reference: Xia et al. (2008), "Listwise Approach to Learning to Rank: Theory and
        Algorithm", for ListMLE; Xia, Liu, Li (2009), "Statistical Consistency of Top-k
        Ranking", for the cut-off; Plackett (1975), "The Analysis of Permutations".

    Example:
        The student gives the teacher's first 1/2, and of what is left its second 2/3.

        >>> teacher = np.array([[9.0, 8.0, 7.0]], "float32")
        >>> student = np.log(np.array([[3.0, 2.0, 1.0]], "float32"))
        >>> mask = np.ones((1, 3), bool)
        >>> listwise_plackett_luce(teacher, student, mask, k=2).numpy().round(4)
        array([0.5493], dtype=float32)
        >>> float(round(-(np.log(1 / 2) + np.log(2 / 3)) / 2, 4))
        0.5493
    """
    check_temperature(temperature)
    if k is not None:
        check_cutoff("k", k)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    order = graph_ranks.best_first(teacher_scores, mask)
    exponents = masked_ops.logits(student_scores, mask, temperature, weight)
    terms = graph_ranks.surprise(graph_ranks.taken(exponents, order))
    weight = graph_ranks.taken(weight, order)
    return masked_ops.mean(terms, ops.where(graph_ranks.head(weight, k), weight, 0.0))


def listwise_lambda_ndcg(
    relevance: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int | None = 10,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Pairs in the wrong order, each as costly as its exchange is for NDCG@k.

    For every pair in which candidate $i$ has more gain than $j$, the logistic loss of
    their scores, times what an exchange of the two in the student's present order would
    do to NDCG:

    $$ \ell = \sum_{g_i > g_j} \frac{(g_i - g_j)\,|d(r_i) - d(r_j)|}{\mathrm{IDCG}}
       \log\left(1 + e^{-(s_i - s_j) / \tau}\right), \quad
       d(r) = \frac{1}{\log_2(1 + r)} \text{ for } r \le k, \text{ else } 0 $$

    $r$ are ranks by the student's scores, and $\mathrm{IDCG}$ is the best DCG@k of all.
    Gains are relevance itself, as in this library's metrics (for exponential gains pass
    $2^r - 1$). Ranks move in steps, so no gradient goes through them. Only pairs with a
    candidate among the student's first k weigh anything: the cost is $k$ times the size
    of the list, not its square.

    This is LambdaRank's weighting, which LambdaLoss explains as one step of an
    expectation-maximisation; the bound NDCG-Loss2 of that paper, with other discounts
    for a pair, is not implemented. Logarithms are natural ones.

    Args:
        relevance: `(batch, list_size)`. Below zero counts as zero; what stands under
            padding is ignored. Only ratios count.
        student_scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above zero. It belongs to the student's scores; the loss is not
            rescaled by it.
        k: The cut-off of NDCG; None for none, at the cost of all pairs in memory.
        item_weight: `(batch, list_size)`, in units of the list's largest; None for 1.
            A pair takes the factor $w_i w_j$. 0 removes a candidate, from the ranks
            too. Weight 2 is not two candidates, which would take two ranks.

    Returns:
        `(batch,)`, at least 0; 0 for a list with no relevant candidate.

    Raises:
        ValueError: If the temperature is not a finite number above zero, k is below 1,
            the mask is not boolean, or the shapes differ.

    Use when: relevance is graded and NDCG is the goal. For a single relevant candidate
        prefer `listwise_cross_entropy`. To learn from a teacher,
        `listwise_soft_lambda_ndcg`.

    Reference: Wang et al. (2018), "The LambdaLoss Framework for Ranking Metric
        Optimization"; Burges (2010), "From RankNet to LambdaRank to LambdaMART".

    Example:
        The relevant candidate is second, where it is discounted by log2(3). The
        scores are 1 apart the wrong way.

        >>> relevance = np.array([[0.0, 1.0]], "float32")
        >>> scores, mask = np.array([[1.0, 0.0]], "float32"), np.ones((1, 2), bool)
        >>> listwise_lambda_ndcg(relevance, scores, mask).numpy().round(4)
        array([0.4847], dtype=float32)
        >>> float(round((1 - 1 / np.log2(3)) * np.log1p(np.e), 4))
        0.4847
    """
    check_temperature(temperature)
    if k is not None:
        check_cutoff("k", k)
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
    r"""Pairs out of the teacher's order, each as costly as it is for NDCG@k.

    `listwise_lambda_ndcg` with the teacher's soft targets for gains:

    $$ g = \mathrm{softmax}(t / \tau) $$

    Scores are no amounts and may be negative; their soft targets are amounts, whatever
    the scores' origin, and say how much more one candidate is worth than another. The
    temperature says how fast gains fall: near zero only the teacher's first matters,
    and a large value makes all gains alike, up to their order.

    Args:
        teacher_scores: `(batch, list_size)`. Unnormalised; what stands under padding is
            ignored.
        student_scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above zero, for both sides: gains, and the student's scores within
            the logistic loss. The loss is not rescaled by it.
        k: The cut-off of NDCG; None for none, at the cost of all pairs in memory.
        item_weight: As for `listwise_lambda_ndcg`. Gains are those of one candidate and
            do not take the weights.

    Returns:
        `(batch,)`, at least 0; 0 for a list with no real candidate.

    Raises:
        ValueError: If the temperature is not a finite number above zero, k is below 1,
            the mask is not boolean, or the shapes differ.

    Use when: the student is judged by the first k alone. It starts well only from a
        student that has some order already, as pairs outside its first k are not seen;
        from scratch prefer `listwise_kl_divergence`.

    Reference: Wang et al. (2018), "The LambdaLoss Framework for Ranking Metric
        Optimization".

    Example:
        Gains 3/4 and 1/4; the student has them the wrong way round, 1 apart.

        >>> teacher = np.array([[np.log(3.0), 0.0]], "float32")
        >>> scores, mask = np.array([[0.0, 1.0]], "float32"), np.ones((1, 2), bool)
        >>> listwise_soft_lambda_ndcg(teacher, scores, mask).numpy().round(4)
        array([0.267], dtype=float32)
        >>> discount = 1 / np.log2(3)
        >>> best = 3 / 4 + 1 / 4 * discount
        >>> float(round((3 / 4 - 1 / 4) * (1 - discount) / best * np.log1p(np.e), 4))
        0.267
    """
    check_temperature(temperature)
    if k is not None:
        check_cutoff("k", k)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    gains = masked_ops.softmax(teacher_scores, mask, temperature)
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
    order = graph_ranks.best_first(student_scores, mask)[:, :k]
    ranks = graph_ranks.ranks(student_scores, mask)
    first = ranks > 0.0 if k is None else ops.logical_and(ranks > 0.0, ranks <= k)
    discounts = ops.where(first, _discount(ops.where(first, ranks, 1.0)), 0.0)
    weight = ops.divide_no_nan(weight, ops.max(weight, axis=-1, keepdims=True))

    def gaps(values: Tensor) -> Tensor:
        return graph_ranks.taken(values, order)[:, :, None] - values[:, None, :]

    gained = gaps(gains)
    # A pair within the first k is seen from both its ends.
    seen = ops.where(first, 0.5 * weight, weight)
    cost = ops.abs(gained * gaps(discounts)) * seen[:, None, :]
    cost *= graph_ranks.taken(weight, order)[:, :, None]
    loss = ops.softplus(-ops.sign(gained) * gaps(scores) / temperature)
    total = ops.sum(cost * loss, axis=(1, 2))
    return ops.divide_no_nan(total, _best_dcg(gains, k))


def _best_dcg(gains: Tensor, k: int | None) -> Tensor:
    """DCG@k of the order of the gains, which are 0 under padding; `(batch,)`."""
    best = -ops.sort(-gains, axis=-1)[:, :k]
    ranks = ops.cumsum(ops.ones_like(best), axis=-1)
    return ops.sum(best * _discount(ranks), axis=-1)


def _discount(ranks: Tensor) -> Tensor:
    """Up to the base of the logarithm, which NDCG, a ratio, does not depend on."""
    return 1.0 / ops.log1p(ranks)


@keras.saving.register_keras_serializable(package="recdistill")
class ListwisePlackettLuce(TemperedListLoss):
    """The mean of `listwise_plackett_luce` over the lists of a batch.

    `y_true` holds teacher scores, `y_pred` the student's. A list with no real candidate
    weighs zero.

    Args:
        k: How many of the teacher's first places count; None for all.
        temperature: Above zero, for the student's scores.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If k is below 1 or the temperature not a finite number above zero.

    Example:
        >>> teacher_scores = np.array([[9.0, 8.0, 7.0]], "float32")
        >>> student_scores = np.log(np.array([[3.0, 2.0, 1.0]], "float32"))
        >>> loss = ListwisePlackettLuce(k=1)
        >>> round(float(loss(teacher_scores, student_scores)), 4)  # log(2)
        0.6931
    """

    function = staticmethod(listwise_plackett_luce)
    settings: ClassVar[tuple[str, ...]] = ("temperature", "k")

    def __init__(
        self, k: int | None = None, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(temperature, **kwargs)
        if k is not None:
            check_cutoff("k", k)
        self.k = k


class _LambdaNDCG(TemperedListLoss):
    """The settings that both kinds of gain share."""

    settings: ClassVar[tuple[str, ...]] = ("temperature", "k")

    def __init__(
        self, k: int | None = 10, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(temperature, **kwargs)
        if k is not None:
            check_cutoff("k", k)
        self.k = k


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseLambdaNDCG(_LambdaNDCG):
    """The mean of `listwise_lambda_ndcg` over the lists of a batch.

    `y_true` holds relevance, `y_pred` the student's scores. A list with no relevant
    candidate weighs zero.

    Args:
        k: The cut-off of NDCG; None for none.
        temperature: Above zero, for the student's scores.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If k is below 1 or the temperature not a finite number above zero.

    Example:
        >>> relevance = np.array([[0.0, 1.0]], "float32")
        >>> student_scores = np.array([[1.0, 0.0]], "float32")
        >>> round(float(ListwiseLambdaNDCG()(relevance, student_scores)), 4)
        0.4847
    """

    function = staticmethod(listwise_lambda_ndcg)

    def list_weight(self, labels: Tensor, mask: Tensor) -> Tensor:
        """Whether a list has a relevant candidate, `(batch,)`, bool."""
        return masked_ops.has_candidate(ops.logical_and(mask, labels > 0.0))


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseSoftLambdaNDCG(_LambdaNDCG):
    """The mean of `listwise_soft_lambda_ndcg` over the lists of a batch.

    `y_true` holds teacher scores, `y_pred` the student's. A list with no real candidate
    weighs zero.

    Args:
        k: The cut-off of NDCG; None for none.
        temperature: Above zero, for both sides.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If k is below 1 or the temperature not a finite number above zero.

    Example:
        >>> teacher_scores = np.array([[np.log(3.0), 0.0]], "float32")
        >>> student_scores = np.array([[0.0, 1.0]], "float32")
        >>> round(float(ListwiseSoftLambdaNDCG()(teacher_scores, student_scores)), 4)
        0.267
    """

    function = staticmethod(listwise_soft_lambda_ndcg)
