"""Pairwise losses: margin-MSE and RankNet on the teacher's preferences.

A pair consists of two candidates drawn from a list independently, each with a
probability proportional to its weight. Both may therefore be the same candidate, for
which the loss is 0, and a candidate of weight 2 is equivalent to two candidates.
"""

from typing import Any

import keras
from keras import ops

from recdistill.lists import graph_ranks, masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import ListLoss, TemperedListLoss, check_settings


def pairwise_margin_mse(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Margin-MSE: mean squared difference between the teacher's and student's margins.

    $$ \ell = \frac{1}{n^2} \sum_{i,j \in \text{list}}
       \left( (t_i - t_j) - (s_i - s_j) \right)^2
       = 2\,\mathrm{Var}_{i \in \text{list}}(t_i - s_i) $$

    The variance on the right takes time and memory proportional to the list, not to its
    pairs. The mean runs over all $n^2$ ordered pairs, including those of a candidate
    with itself. For a list of two candidates it is half the squared difference of their
    margins; the paper, which has no longer lists, uses the full square.

    Args:
        teacher_scores: `(batch, list_size)`. Entries under padding are ignored.
        student_scores: `(batch, list_size)`, learned on the scale of the teacher's.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        item_weight: `(batch, list_size)`, how often each candidate occurs in the list;
            None for once each. A pair takes the factor $w_i w_j$. Only ratios matter,
            and 0 removes a candidate.

    Returns:
        `(batch,)`, at least 0; 0 for a list with fewer than two real candidates. Scores
        are clipped to ±1e15.

    Raises:
        ValueError: If the mask is not boolean, or the shapes differ.

    Use when: the student should reproduce the teacher's margins, on its scale, down to
        the tail; all candidates count equally. If the top matters more, prefer
        `listwise_kl_divergence`, which at a large temperature tends to a quarter of
        this loss.

    Reference: Hofstätter et al. (2020), "Improving Efficient Neural Ranking Models with
        Cross-Architecture Knowledge Distillation".

    Examples:
        Margins of 3 and 1; of the four ordered pairs, two differ by 2: (4 + 4) / 4.

        >>> teacher = np.array([[3.0, 0.0]], "float32")
        >>> student, mask = np.array([[1.0, 0.0]], "float32"), np.ones((1, 2), bool)
        >>> pairwise_margin_mse(teacher, student, mask).numpy()
        array([2.], dtype=float32)
    """
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    gaps = masked_ops.bounded(teacher_scores) - masked_ops.bounded(student_scores)
    # Subtracted twice: a mean far from zero is rounded, and the second mean is near
    # zero.
    gaps -= masked_ops.mean(gaps, weight)[:, None]
    gaps -= masked_ops.mean(gaps, weight)[:, None]
    return 2.0 * masked_ops.mean(ops.square(gaps), weight)


def pairwise_rank_net(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    k: int | None = None,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""RankNet on soft targets: KL divergence between preferences for each pair.

    Each side prefers $i$ to $j$ with a probability given by its scores. The two are
    compared over pairs of $i$ among the teacher's first `k` and $j$ in the list:

    $$ \ell = \frac{\tau^2}{|\text{top}|\,n} \sum_{i \in \text{top}}
       \sum_{j \in \text{list}} \left( P_{ij} \log \frac{P_{ij}}{Q_{ij}}
       + P_{ji} \log \frac{P_{ji}}{Q_{ji}} \right), \quad
       P_{ij} = \sigma\left(\frac{t_i - t_j}{\tau}\right), \;
       Q_{ij} = \sigma\left(\frac{s_i - s_j}{\tau}\right) $$

    This is RankNet's cross-entropy with the teacher's probabilities as targets, minus
    their entropy, which does not depend on the student. So the gradients are RankNet's,
    and the loss of a perfect student is 0. The factor $\tau^2$ keeps gradients on one
    scale.

    Args:
        teacher_scores: `(batch, list_size)`. Unnormalised; entries under padding are
            ignored.
        student_scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above 0. The larger it is, the more the size of a margin matters,
            and not only its sign.
        k: How many of the teacher's first candidates are compared with all others, at a
            cost of k times the list; exact for those pairs. None for all pairs, at the
            cost of the list squared: for lists of up to a few hundred candidates.
        item_weight: `(batch, list_size)`, how often each candidate occurs in the list;
            None for once each. A pair takes the factor $w_i w_j$. Only ratios matter,
            and 0 removes a candidate. With a `k`, weight 2 is not the same as two
            candidates, which take two of the first places.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list with fewer than two real
        candidates. Scores are clipped to ±1e15.

    Raises:
        ValueError: If the temperature is not a finite number above 0, `k` is below 1,
            the mask is not boolean, or the shapes differ.

    Use when: lists are short, or the teacher was trained on pairs. If its margins can
        be trusted, use `pairwise_margin_mse`; for long lists `listwise_kl_divergence`
        is cheaper.

    Reference: Burges et al. (2005), "Learning to Rank using Gradient Descent", which
        has soft targets in its equation 3.

    Examples:
        The teacher prefers the first candidate with odds of 3 to 1; the student has no
        preference. Half of the ordered pairs are pairs of a candidate with itself,
        whose loss is 0.

        >>> teacher = np.array([[np.log(3.0), 0.0]], "float32")
        >>> student, mask = np.zeros((1, 2), "float32"), np.ones((1, 2), bool)
        >>> pairwise_rank_net(teacher, student, mask).numpy().round(4)
        array([0.0654], dtype=float32)
        >>> float(round((3 / 4 * np.log(3 / 2) + 1 / 4 * np.log(1 / 2)) / 2, 4))
        0.0654
    """
    check_settings(temperature=temperature, k=k)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    top = graph_ranks.best_first(teacher_scores, mask, k)

    def margins(scores: Tensor) -> Tensor:
        scores = masked_ops.bounded(scores)
        gaps = graph_ranks.gather(scores, top)[:, :, None] - scores[:, None, :]
        return gaps / temperature

    teacher, student = margins(teacher_scores), margins(student_scores)
    divergence = sum(
        ops.sigmoid(sign * teacher)
        * (ops.log_sigmoid(sign * teacher) - ops.log_sigmoid(sign * student))
        for sign in (1.0, -1.0)
    )
    of_top = masked_ops.mean(divergence, weight[:, None, :])
    return temperature**2 * masked_ops.mean(of_top, graph_ranks.gather(weight, top))


@keras.saving.register_keras_serializable(package="recdistill")
class PairwiseMarginMSE(ListLoss):
    """Margin-MSE between the teacher's and the student's scores, averaged over lists.

    The mean of `pairwise_margin_mse`. `y_true` holds teacher scores, `y_pred` the
    student's. A list without real candidates has weight 0. Margins are compared
    unchanged, so the loss does not have a temperature.

    Examples:
        >>> teacher_scores = np.array([[3.0, 0.0]], "float32")
        >>> student_scores = np.array([[1.0, 0.0]], "float32")
        >>> float(PairwiseMarginMSE()(teacher_scores, student_scores))
        2.0
    """

    function = staticmethod(pairwise_margin_mse)


@keras.saving.register_keras_serializable(package="recdistill")
class PairwiseRankNet(TemperedListLoss):
    """RankNet on the teacher's preferences between pairs, averaged over lists.

    The mean of `pairwise_rank_net`. `y_true` holds teacher scores, `y_pred` the
    student's. A list without real candidates has weight 0.

    Args:
        k: How many of the teacher's first candidates are compared with all others; None
            for all pairs.
        temperature: Above 0, for both sides.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If `k` is below 1 or the temperature not a finite number above 0.

    Examples:
        >>> teacher_scores = np.array([[np.log(3.0), 0.0]], "float32")
        >>> loss = PairwiseRankNet()
        >>> round(float(loss(teacher_scores, np.zeros((1, 2), "float32"))), 4)
        0.0654
    """

    function = staticmethod(pairwise_rank_net)

    def __init__(
        self, k: int | None = None, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(temperature, **kwargs)
        self.set_settings(k=k)
