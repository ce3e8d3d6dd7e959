r"""Listwise losses that compare softmax distributions over the list.

KL divergence, soft cross-entropy and Jensen–Shannon divergence learn from teacher
scores, the ListNet cross-entropy from relevance. Losses on the order of the list are in
`plackett_luce.py` and `lambda_ndcg.py`.

**Lists with a drawn tail.** If $M$ of the $F$ items of a catalogue that are not certain
candidates were drawn uniformly, each has the inclusion probability $\pi = M / F$. With
the item weight $w = 1 / \pi$ for these and 1 for the others, the normaliser of every
softmax here is the Horvitz–Thompson estimate of that of the whole catalogue,

$$ \hat Z = \sum_{i \in \text{certain}} e^{s_i / \tau}
   + \sum_{i \in \text{drawn}} \tfrac{1}{\pi} e^{s_i / \tau}, \quad
   \mathrm{E}\, \hat Z = Z, $$

which is the same as adding $\log (1 / \pi)$ to the scores of drawn candidates (sampled
softmax; Bengio and Senécal, 2008, "Adaptive Importance Sampling to Accelerate Training
of a Neural Probabilistic Language Model"; Horvitz and Thompson, 1952). Sums over the
soft targets take the same weights, so that each loss is a consistent estimate of its
value on the whole catalogue: the error of its logarithms and ratios vanishes as the
tail grows. (That of the soft cross-entropy differs by $\sum_i p_i \log w_i$, which does
not depend on the student.) The pointwise and pairwise losses take the same weights as
means over candidates and over pairs. Losses with ranks or cut-offs accept the weights
as factors of their terms only.
"""

from math import log

import keras
from keras import ops

from recdistill.lists import masked_ops, masked_softmax
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import (
    RelevanceListLoss,
    TemperedListLoss,
    check_settings,
)


def listwise_kl_divergence(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""KL divergence from the teacher's to the student's softmax over each list.

    Both score vectors become distributions over the real candidates of the list,
    softened by the temperature $\tau$. The loss is the information lost when the
    student's distribution $q$ stands in for the teacher's soft targets $p$:

    $$ \ell = \tau^2 \sum_{i \in \text{list}} p_i \,(\log p_i - \log q_i), \quad
       p = \mathrm{softmax}(t / \tau), \; q = \mathrm{softmax}(s / \tau) $$

    The factor $\tau^2$ keeps gradients on one scale for all temperatures. A constant
    added to all scores of a list changes nothing, so teacher and student need not share
    an origin, and negative teacher scores are ordinary values. As $\tau$ grows, the
    loss tends to half the mean squared difference between the centred scores.

    Args:
        teacher_scores: `(batch, list_size)`. Unnormalised; entries under padding are
            ignored.
        student_scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above 0. Near 0 only the teacher's first choice matters; a large
            value also teaches the order of the tail.
        item_weight: `(batch, list_size)`, how often each candidate occurs in the list;
            None for once each. $p$ and $q$ take the factor $w_i$ before they are
            normalised. Only ratios matter, and 0 removes a candidate.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list without real candidates.

    Raises:
        ValueError: If the temperature is not a finite number above 0, the mask is not
            boolean, or the shapes differ.

    Use when: the teacher's margins can be trusted. Look at its scores first: if a few
        lie far above the rest, a small temperature leaves only the top one.

    Reference: Hinton, Vinyals, Dean (2015), "Distilling the Knowledge in a Neural
        Network", for soft targets; Cao et al. (2007), "Learning to Rank: From Pairwise
        Approach to Listwise Approach", for the softmax over a list.

    Examples:
        >>> teacher = np.array([[2.0, 0.0, -1.0], [2.0, 0.0, 99.0]], "float32")
        >>> student = np.array([[1.0, 1.0, -2.0], [1.0, 1.0, -99.0]], "float32")
        >>> mask = np.array([[True, True, True], [True, True, False]])
        >>> loss = listwise_kl_divergence(teacher, student, mask, temperature=2.0)
        >>> loss.numpy().round(4)
        array([0.4133, 0.4438], dtype=float32)
    """
    teacher, student = _distributions(
        teacher_scores, student_scores, mask, temperature, item_weight
    )
    return temperature**2 * masked_softmax.divergence(teacher, student, temperature)


def listwise_soft_cross_entropy(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Soft cross-entropy (ListNet on soft targets): the KL divergence plus a constant.

    $$ \ell = -\tau^2 \sum_{i \in \text{list}} p_i \log q_i, \quad
       p = \mathrm{softmax}(t / \tau), \; q = \mathrm{softmax}(s / \tau) $$

    It is `listwise_kl_divergence` plus $\tau^2$ times the entropy of the soft targets
    $p$, which does not depend on the student. So both have the same gradient, and only
    the reported number differs: this one does not go to 0 as the student approaches the
    teacher.

    Args:
        teacher_scores: As for `listwise_kl_divergence`.
        student_scores: As for `listwise_kl_divergence`.
        mask: As for `listwise_kl_divergence`.
        temperature: As for `listwise_kl_divergence`.
        item_weight: As for `listwise_kl_divergence`.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list without real candidates.

    Raises:
        ValueError: As `listwise_kl_divergence`.

    Use when: the number is to be compared with other libraries, most of which report
        this form. Otherwise prefer `listwise_kl_divergence`, whose minimum is 0.

    Reference: Hinton, Vinyals, Dean (2015), "Distilling the Knowledge in a Neural
        Network"; Cao et al. (2007), "Learning to Rank: From Pairwise Approach to
        Listwise Approach".

    Examples:
        The teacher gives 3/4 and 1/4, the student 1/2 and 1/2: log(2).

        >>> teacher = np.array([[np.log(3.0), 0.0]], "float32")
        >>> student, mask = np.zeros((1, 2), "float32"), np.ones((1, 2), bool)
        >>> listwise_soft_cross_entropy(teacher, student, mask).numpy().round(4)
        array([0.6931], dtype=float32)
    """
    (_, soft_targets), (student_logs, _) = _distributions(
        teacher_scores, student_scores, mask, temperature, item_weight
    )
    return -(temperature**2) * ops.sum(soft_targets * student_logs, axis=-1)


def listwise_jensen_shannon(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Jensen–Shannon divergence between the teacher's and the student's softmax.

    Each distribution is compared with the mean of the two:

    $$ \ell = \frac{\tau^2}{2} \sum_{i \in \text{list}} \left( p_i \log \frac{p_i}{m_i}
       + q_i \log \frac{q_i}{m_i} \right), \quad m = \frac{p + q}{2}, \;
       p = \mathrm{softmax}(t / \tau), \; q = \mathrm{softmax}(s / \tau) $$

    It is symmetric and bounded by $\tau^2 \log 2$. A candidate that the teacher ranks
    high and the student considers impossible has a finite cost and, unlike under
    `listwise_kl_divergence`, cannot dominate a batch. For the same reason the gradients
    are small if the student is far off. As $\tau$ grows, the loss tends to an eighth of
    the mean squared difference between the centred scores.

    Args:
        teacher_scores: As for `listwise_kl_divergence`.
        student_scores: As for `listwise_kl_divergence`.
        mask: As for `listwise_kl_divergence`.
        temperature: As for `listwise_kl_divergence`.
        item_weight: As for `listwise_kl_divergence`.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list without real candidates.

    Raises:
        ValueError: As `listwise_kl_divergence`.

    Use when: some of the teacher's lists are wrong or noisy, and single lists must not
        dominate the gradient. For a trusted teacher prefer `listwise_kl_divergence`.

    Reference: Lin (1991), "Divergence Measures Based on the Shannon Entropy".

    Examples:
        Teacher and student are each certain of a different candidate: log(2), the
        maximum.

        >>> teacher = np.array([[50.0, 0.0]], "float32")
        >>> student = np.array([[0.0, 50.0]], "float32")
        >>> mask = np.ones((1, 2), bool)
        >>> listwise_jensen_shannon(teacher, student, mask).numpy().round(4)
        array([0.6931], dtype=float32)
    """
    teacher, student = _distributions(
        teacher_scores, student_scores, mask, temperature, item_weight
    )
    # The gradients through the logarithm of the mean add up to zero, because both
    # distributions sum to one. Leaving them out avoids undefined values if the two are
    # equal.
    mean = (
        ops.stop_gradient(ops.logaddexp(teacher[0], student[0]) - log(2.0)),
        ops.stop_gradient((teacher[1] + student[1]) / 2.0),
    )
    divergences = (
        masked_softmax.divergence(one, mean, temperature) for one in (teacher, student)
    )
    return temperature**2 / 2.0 * sum(divergences)


def listwise_cross_entropy(
    relevance: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Softmax cross-entropy (ListNet) between relevance and the student's scores.

    Relevance is normalised to sum to one over the list and compared with the softmax of
    the student's scores. This is ListNet's top-one loss; with a single relevant
    candidate it is the softmax cross-entropy, or sampled softmax, of retrieval:

    $$ \ell = -\sum_{i \in \text{list}} \frac{r_i}{\sum_j r_j} \log q_i, \quad
       q = \mathrm{softmax}(s / \tau) $$

    Args:
        relevance: `(batch, list_size)`. Clicks, ratings or grades; only ratios matter.
            A value below 0 counts as 0; entries under padding are ignored.
        student_scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above 0; it divides the student's scores. Scores of bounded size,
            such as cosines, need a temperature well below 1 to separate candidates. The
            loss is a log-likelihood and is not rescaled by the temperature.
        item_weight: `(batch, list_size)`, how often each candidate occurs in the list;
            None for once each. $r$ and $q$ take the factor $w_i$ before they are
            normalised. Only ratios matter, and 0 removes a candidate.

    Returns:
        `(batch,)`, at least 0; 0 for a list without relevant candidates.

    Raises:
        ValueError: If the temperature is not a finite number above 0, the mask is not
            boolean, or the shapes differ.

    Use when: the list has observed relevance. For teacher scores, which are not amounts
        and may be negative, use `listwise_kl_divergence`.

    Reference: Cao et al. (2007), "Learning to Rank: From Pairwise Approach to Listwise
        Approach"; Bruch et al. (2019), "An Analysis of the Softmax Cross Entropy Loss
        for Learning-to-Rank with Binary Relevance".

    Examples:
        The student gives 1/4 and 3/4; the normalised relevance is 2/3 and 1/3.

        >>> scores = np.array([[0.0, np.log(3.0), 99.0]], "float32")
        >>> mask = np.array([[True, True, False]])
        >>> relevance = np.array([[2.0, 1.0, 5.0]], "float32")
        >>> listwise_cross_entropy(relevance, scores, mask).numpy().round(4)
        array([1.0201], dtype=float32)
        >>> float(round(2 / 3 * np.log(4) + 1 / 3 * np.log(4 / 3), 4))
        1.0201
    """
    check_settings(temperature=temperature)
    mask, weight, relevance, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, relevance=relevance, student_scores=student_scores
    )
    if item_weight is None:
        weight, relevance = None, ops.maximum(relevance, 0.0)
    else:
        # Normalised before the product, because two large factors may overflow.
        relevance = masked_ops.shares(relevance, mask) * weight
    student_logs = masked_softmax.log_softmax(student_scores, mask, temperature, weight)
    return -masked_ops.mean(student_logs, relevance)


def _distributions(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float,
    item_weight: Tensor | None,
) -> list[tuple[Tensor, Tensor]]:
    """Log-softmax and softmax of the teacher, then of the student; 0 under padding."""
    check_settings(temperature=temperature)
    mask, weight, *both = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    weight = None if item_weight is None else weight
    return [
        masked_softmax.distribution(scores, mask, temperature, weight)
        for scores in both
    ]


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseKLDivergence(TemperedListLoss):
    """KL divergence of softmax distributions: mean of `listwise_kl_divergence`.

    `y_true` holds teacher scores, `y_pred` the student's. A list without real
    candidates has weight 0.

    Inside `keras.distillation.LogitsDistillation`, set the temperature here and leave
    it at 1 there; otherwise the factor of its square is lost.

    Args:
        temperature: Above 0; it divides the scores of both sides.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Examples:
        >>> teacher_scores = np.array([[2.0, 0.0, -1.0]], "float32")
        >>> student_scores = np.array([[1.0, 1.0, -2.0]], "float32")
        >>> loss = ListwiseKLDivergence(temperature=2.0)
        >>> round(float(loss(teacher_scores, student_scores)), 4)
        0.4133
    """

    function = staticmethod(listwise_kl_divergence)


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseSoftCrossEntropy(ListwiseKLDivergence):
    """Soft cross-entropy (ListNet on soft targets): KL divergence plus a constant.

    The gradient is that of `ListwiseKLDivergence`; see `listwise_soft_cross_entropy`.

    Args:
        temperature: Above 0; it divides the scores of both sides.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Examples:
        >>> teacher_scores = np.array([[np.log(3.0), 0.0]], "float32")
        >>> loss = ListwiseSoftCrossEntropy()
        >>> round(float(loss(teacher_scores, np.zeros((1, 2), "float32"))), 4)  # log(2)
        0.6931
    """

    function = staticmethod(listwise_soft_cross_entropy)


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseJensenShannon(TemperedListLoss):
    """Jensen–Shannon divergence of softmax distributions, averaged over lists.

    The mean of `listwise_jensen_shannon`. `y_true` holds teacher scores, `y_pred` the
    student's. A list without real candidates has weight 0.

    Args:
        temperature: Above 0; it divides the scores of both sides.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Examples:
        >>> teacher_scores = np.array([[50.0, 0.0]], "float32")
        >>> student_scores = np.array([[0.0, 50.0]], "float32")
        >>> loss = ListwiseJensenShannon()
        >>> round(float(loss(teacher_scores, student_scores)), 4)  # log(2)
        0.6931
    """

    function = staticmethod(listwise_jensen_shannon)


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseCrossEntropy(RelevanceListLoss):
    """Softmax cross-entropy (ListNet) on relevance, averaged over lists.

    The mean of `listwise_cross_entropy`. `y_true` holds relevance, `y_pred` the
    student's scores. A list without relevant candidates has weight 0.

    Args:
        temperature: Above 0; it divides the student's scores.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Examples:
        >>> relevance = np.array([[0.0, 1.0], [0.0, 0.0]], "float32")
        >>> student_scores = np.zeros((2, 2), "float32")
        >>> round(float(ListwiseCrossEntropy()(relevance, student_scores)), 4)  # log(2)
        0.6931
    """

    function = staticmethod(listwise_cross_entropy)
