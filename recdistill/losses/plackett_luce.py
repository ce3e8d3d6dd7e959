"""Plackett–Luce losses: ListMLE and relaxed ranking distillation (DE-RRD).

Both are the negative log-likelihood of the teacher's order, with ties broken by
position. The margins between the teacher's scores do not matter.
"""

from typing import Any

import keras
from keras import ops

from recdistill.lists import graph_ranks, masked_ops, masked_softmax
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import TemperedListLoss, check_settings


def listwise_plackett_luce(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int | None = None,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""ListMLE: negative Plackett–Luce log-likelihood of the teacher's ranking.

    In the Plackett–Luce model candidates are drawn one by one without replacement, each
    with a probability given by the student's scores. With the candidates numbered in
    the teacher's order, and $K$ the number of ranks that count, at most `k`:

    $$ \ell = -\frac{1}{K} \sum_{i=1}^{K} \log \frac{\exp(s_i / \tau)}
       {\sum_{j \ge i} \exp(s_j / \tau)} $$

    The denominator contains all candidates from rank $i$ on, including the tail. This
    is ListMLE with a top-k cut-off, divided by the number of ranks, so that a long list
    does not outweigh the relevance loss. Only the order of the teacher's scores
    matters. It is `top_k_relaxed_ranking` with `tail_weight=1`.

    Args:
        teacher_scores: `(batch, list_size)`. Equal scores are ordered by position;
            entries under padding are ignored.
        student_scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above 0; it divides the student's scores only. The loss is a
            log-likelihood and is not rescaled by the temperature.
        k: Number of top ranks that count; None for all.
        item_weight: `(batch, list_size)`, the weight of each candidate; None for 1.
            $\exp(s_i / \tau)$ takes the factor $w_i$ in numerator and denominator, and
            the terms are averaged by $w_i$. Only ratios matter, and 0 removes a
            candidate. Weight 2 is not the same as two candidates, which would be drawn
            one after the other.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list without real candidates.

    Raises:
        ValueError: If the temperature is not a finite number above 0, `k` is below 1,
            the mask is not boolean, or the shapes differ.

    Use when: the teacher's order can be trusted and its margins cannot (a booster, an
        ensemble of ranks, squashed or heavy-tailed scores). With good margins prefer
        `listwise_kl_divergence`.

    Reference: Xia et al. (2008), "Listwise Approach to Learning to Rank: Theory and
        Algorithm", for ListMLE; Xia, Liu, Li (2009), "Statistical Consistency of Top-k
        Ranking", for the cut-off; Plackett (1975), "The Analysis of Permutations".

    Examples:
        The student gives the teacher's first candidate 1/2, and the second 2/3 of the
        rest.

        >>> teacher = np.array([[9.0, 8.0, 7.0]], "float32")
        >>> student = np.log(np.array([[3.0, 2.0, 1.0]], "float32"))
        >>> mask = np.ones((1, 3), bool)
        >>> listwise_plackett_luce(teacher, student, mask, k=2).numpy().round(4)
        array([0.5493], dtype=float32)
        >>> float(round(-(np.log(1 / 2) + np.log(2 / 3)) / 2, 4))
        0.5493
    """
    return top_k_relaxed_ranking(
        teacher_scores, student_scores, mask, temperature, k, 1.0, item_weight
    )


def top_k_relaxed_ranking(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int | None = 50,
    tail_weight: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""DE-RRD relaxed ranking distillation: the teacher's top k in order, above a tail.

    With the candidates numbered in the teacher's order, at most $K = k$ of them in the
    top and all others in the tail:

    $$ \ell = -\frac{1}{K} \sum_{i=1}^{K} \log \frac{\exp(s_i / \tau)}
       {\sum_{j=i}^{K} \exp(s_j / \tau) + \beta \sum_{u \in \text{tail}}
       \exp(s_u / \tau)} $$

    The order within the tail is relaxed: it does not count. With $\beta = 1$ this is
    ListMLE with the same k, `listwise_plackett_luce`. The paper samples the candidates
    of the top by their rank and those of the tail again in each epoch, and sums the
    terms; here the whole top counts, the tail is that of the list, and the terms are
    averaged.

    Args:
        teacher_scores: `(batch, list_size)`. Only the order matters; equal scores are
            ordered by position, and entries under padding are ignored.
        student_scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above 0; it divides the student's scores. The loss is a
            log-likelihood and is not rescaled by the temperature.
        k: Size of the top; None for the whole list, which leaves no tail.
        tail_weight: $\beta$, above 0: how many items of the catalogue each candidate of
            the tail represents. For M sampled from N it is N / M, and the sum over the
            tail is then an unbiased estimate of the sum over all N.
        item_weight: `(batch, list_size)`, as for `listwise_plackett_luce`.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list without real candidates.

    Raises:
        ValueError: If the temperature or the weight of the tail is not a finite number
            above 0, `k` is below 1, the mask is not boolean, or the shapes differ.

    Use when: the teacher's order at the top can be trusted, its margins cannot, and the
        tail of the list is a sample of a large catalogue.

    Reference: Kang et al. (2020), "DE-RRD: A Knowledge Distillation Framework for
        Recommender System".

    Examples:
        The numerators are 3 and 2; the tail has one candidate of 1 that represents
        three.

        >>> teacher = np.array([[9.0, 8.0, 7.0]], "float32")
        >>> student = np.log(np.array([[3.0, 2.0, 1.0]], "float32"))
        >>> mask = np.ones((1, 3), bool)
        >>> loss = top_k_relaxed_ranking(teacher, student, mask, k=2, tail_weight=3.0)
        >>> loss.numpy().round(4)
        array([0.9486], dtype=float32)
        >>> float(round(-(np.log(3 / (3 + 2 + 3)) + np.log(2 / (2 + 3))) / 2, 4))
        0.9486
    """
    check_settings(temperature=temperature, k=k, tail_weight=tail_weight)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    order = graph_ranks.best_first(teacher_scores, mask)
    exponents = masked_softmax.logits(student_scores, mask, temperature, weight)
    exponents = graph_ranks.gather(exponents, order)
    top = graph_ranks.within_first(order, k)
    exponents += ops.where(top, 0.0, ops.log(ops.cast(tail_weight, exponents.dtype)))
    terms = graph_ranks.plackett_luce_terms(exponents)
    weight = graph_ranks.gather(weight, order)
    return masked_ops.mean(terms, ops.where(top, weight, 0.0))


@keras.saving.register_keras_serializable(package="recdistill")
class ListwisePlackettLuce(TemperedListLoss):
    """ListMLE, the Plackett–Luce likelihood of the teacher's ranking, over lists.

    The mean of `listwise_plackett_luce`. `y_true` holds teacher scores, `y_pred` the
    student's. A list without real candidates has weight 0.

    Args:
        k: Number of the teacher's top ranks that count; None for all.
        temperature: Above 0; it divides the student's scores.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If `k` is below 1 or the temperature not a finite number above 0.

    Examples:
        >>> teacher_scores = np.array([[9.0, 8.0, 7.0]], "float32")
        >>> student_scores = np.log(np.array([[3.0, 2.0, 1.0]], "float32"))
        >>> loss = ListwisePlackettLuce(k=1)
        >>> round(float(loss(teacher_scores, student_scores)), 4)  # log(2)
        0.6931
    """

    function = staticmethod(listwise_plackett_luce)

    def __init__(
        self, k: int | None = None, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(temperature, **kwargs)
        self.set_settings(k=k)


@keras.saving.register_keras_serializable(package="recdistill")
class TopKRelaxedRanking(TemperedListLoss):
    """DE-RRD relaxed ranking distillation, averaged over lists.

    The mean of `top_k_relaxed_ranking`: ListMLE for the teacher's first k, all of them
    ahead of an unordered tail. `y_true` holds teacher scores, `y_pred` the student's. A
    list without real candidates has weight 0.

    Args:
        k: Size of the top; None for the whole list.
        tail_weight: How many items of the catalogue each candidate of the tail
            represents.
        temperature: Above 0; it divides the student's scores.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If `k` is below 1, or the weight of the tail or the temperature is
            not a finite number above 0.

    Examples:
        >>> teacher_scores = np.array([[9.0, 8.0, 7.0]], "float32")
        >>> student_scores = np.log(np.array([[3.0, 2.0, 1.0]], "float32"))
        >>> loss = TopKRelaxedRanking(k=2, tail_weight=3.0)
        >>> round(float(loss(teacher_scores, student_scores)), 4)
        0.9486
    """

    function = staticmethod(top_k_relaxed_ranking)

    def __init__(
        self,
        k: int | None = 50,
        tail_weight: float = 1.0,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, **kwargs)
        self.set_settings(k=k, tail_weight=tail_weight)
