"""Listwise losses: a list's scores as one distribution over its candidates.

Those that ask for an order instead are in `ordering.py`.
"""

from math import log
from typing import ClassVar

import keras
from keras import ops

from recdistill.lists import masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import TemperedListLoss, check_temperature

__all__ = [
    "ListwiseCrossEntropy",
    "ListwiseJensenShannon",
    "ListwiseKLDivergence",
    "ListwiseSoftCrossEntropy",
    "listwise_cross_entropy",
    "listwise_jensen_shannon",
    "listwise_kl_divergence",
    "listwise_soft_cross_entropy",
]


def listwise_kl_divergence(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""How far the student's choice from a list is from the teacher's.

    Both score vectors become distributions over the real candidates of the list,
    softened by the temperature $\tau$. The loss is what is lost when the student's
    distribution $q$ has to stand in for the teacher's soft targets $p$:

    $$ \ell = \tau^2 \sum_{i \in \text{list}} p_i \,(\log p_i - \log q_i), \quad
       p = \mathrm{softmax}(t / \tau), \; q = \mathrm{softmax}(s / \tau) $$

    The factor $\tau^2$ keeps gradients on one scale for all temperatures. A constant
    added to all scores of a list changes nothing, so teacher and student need not share
    an origin, and negative teacher scores are ordinary values. As $\tau$ grows, the
    loss tends to half the mean squared gap between the centred scores.

    Args:
        teacher_scores: `(batch, list_size)`. Unnormalised; what stands under padding is
            ignored.
        student_scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above zero. Near zero only the teacher's first choice matters; a
            large value also teaches the order of the tail.
        item_weight: `(batch, list_size)`, how often each candidate stands in the list;
            None for once each. $p$ and $q$ take the factor $w_i$ before they are
            normalised. Only ratios matter, and 0 removes a candidate.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list with no real candidate.

    Raises:
        ValueError: If the temperature is not a finite number above zero, the mask is
            not boolean, or the shapes differ.

    Use when: the teacher's margins can be trusted. Look at its scores first: where a
        few stand far above the rest, a small temperature leaves only the top one.

    Reference: Hinton, Vinyals, Dean (2015), "Distilling the Knowledge in a Neural
        Network", for soft targets; Cao et al. (2007), "Learning to Rank: From Pairwise
        Approach to Listwise Approach", for the softmax over a list.

    Example:
        >>> teacher = np.array([[2.0, 0.0, -1.0], [2.0, 0.0, 99.0]], "float32")
        >>> student = np.array([[1.0, 1.0, -2.0], [1.0, 1.0, -99.0]], "float32")
        >>> mask = np.array([[True, True, True], [True, True, False]])
        >>> loss = listwise_kl_divergence(teacher, student, mask, temperature=2.0)
        >>> loss.numpy().round(4)
        array([0.4133, 0.4438], dtype=float32)
    """
    check_temperature(temperature)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    teacher_logs = masked_ops.log_softmax(teacher_scores, mask, temperature, weight)
    student_logs = masked_ops.log_softmax(student_scores, mask, temperature, weight)
    divergence = ops.exp(teacher_logs) * (teacher_logs - student_logs)
    return temperature**2 * masked_ops.total(divergence, mask)


def listwise_soft_cross_entropy(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Surprise of the student at the teacher's choice from a list.

    $$ \ell = -\tau^2 \sum_{i \in \text{list}} p_i \log q_i, \quad
       p = \mathrm{softmax}(t / \tau), \; q = \mathrm{softmax}(s / \tau) $$

    It is `listwise_kl_divergence` plus $\tau^2$ times the entropy of the soft targets
    $p$. No student moves that, so the gradients of the two are equal. What differs is
    the number: here it does not go to 0 as the student comes close.

    Args:
        teacher_scores: `(batch, list_size)`. Unnormalised; what stands under padding is
            ignored.
        student_scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above zero; see `listwise_kl_divergence`.
        item_weight: `(batch, list_size)`, how often each candidate stands in the list;
            None for once each. $p$ and $q$ take the factor $w_i$ before they are
            normalised. Only ratios matter, and 0 removes a candidate.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list with no real candidate.

    Raises:
        ValueError: If the temperature is not a finite number above zero, the mask is
            not boolean, or the shapes differ.

    Use when: numbers are to be compared with those of other libraries, which mostly
        report this form. Else prefer `listwise_kl_divergence`, which says how far there
        is to go.

    Reference: Hinton, Vinyals, Dean (2015), "Distilling the Knowledge in a Neural
        Network"; Cao et al. (2007), "Learning to Rank: From Pairwise Approach to
        Listwise Approach".

    Example:
        The teacher gives 3/4 and 1/4, the student 1/2 and 1/2: log(2).

        >>> teacher = np.array([[np.log(3.0), 0.0]], "float32")
        >>> student, mask = np.zeros((1, 2), "float32"), np.ones((1, 2), bool)
        >>> listwise_soft_cross_entropy(teacher, student, mask).numpy().round(4)
        array([0.6931], dtype=float32)
    """
    check_temperature(temperature)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    soft_targets = masked_ops.softmax(teacher_scores, mask, temperature, weight)
    student_logs = masked_ops.log_softmax(student_scores, mask, temperature, weight)
    return -(temperature**2) * masked_ops.total(soft_targets * student_logs, mask)


def listwise_jensen_shannon(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""How far teacher and student are from what they have in common.

    Each distribution is compared with the mean of the two:

    $$ \ell = \frac{\tau^2}{2} \sum_{i \in \text{list}} \left( p_i \log \frac{p_i}{m_i}
       + q_i \log \frac{q_i}{m_i} \right), \quad m = \frac{p + q}{2}, \;
       p = \mathrm{softmax}(t / \tau), \; q = \mathrm{softmax}(s / \tau) $$

    It is symmetric and bounded by $\tau^2 \log 2$: a candidate that the teacher likes
    and the student finds impossible costs a finite amount and, unlike under
    `listwise_kl_divergence`, cannot dominate a batch. For a student far off, gradients
    are small for the same reason. As $\tau$ grows, it tends to an eighth of the mean
    squared gap between the centred scores.

    Args:
        teacher_scores: `(batch, list_size)`. Unnormalised; what stands under padding is
            ignored.
        student_scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above zero; see `listwise_kl_divergence`.
        item_weight: `(batch, list_size)`, how often each candidate stands in the list;
            None for once each. $p$ and $q$ take the factor $w_i$ before they are
            normalised. Only ratios matter, and 0 removes a candidate.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list with no real candidate.

    Raises:
        ValueError: If the temperature is not a finite number above zero, the mask is
            not boolean, or the shapes differ.

    Use when: some of the teacher's lists are wrong or noisy, and single ones must not
        rule the gradient. For a trusted teacher prefer `listwise_kl_divergence`.

    Reference: Lin (1991), "Divergence Measures Based on the Shannon Entropy".

    Example:
        Teacher and student are each sure of another candidate: log(2), the most.

        >>> teacher = np.array([[50.0, 0.0]], "float32")
        >>> student = np.array([[0.0, 50.0]], "float32")
        >>> mask = np.ones((1, 2), bool)
        >>> listwise_jensen_shannon(teacher, student, mask).numpy().round(4)
        array([0.6931], dtype=float32)
    """
    check_temperature(temperature)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    teacher_logs = masked_ops.log_softmax(teacher_scores, mask, temperature, weight)
    student_logs = masked_ops.log_softmax(student_scores, mask, temperature, weight)
    # The gradients through the logarithm of the mean add up to zero, since both sides
    # sum to one. Left out, they cannot go wrong where the two are equal.
    mean_logs = ops.stop_gradient(ops.logaddexp(teacher_logs, student_logs) - log(2.0))
    divergence = ops.exp(teacher_logs) * (teacher_logs - mean_logs)
    divergence += ops.exp(student_logs) * (student_logs - mean_logs)
    return temperature**2 / 2.0 * masked_ops.total(divergence, mask)


def listwise_cross_entropy(
    relevance: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Surprise of the student at what was relevant, when it picks from the list.

    Relevance is shared out to sum to one over the list, and compared with the
    distribution that the student's scores give (ListNet's top-one loss; with a single
    relevant candidate, the softmax cross-entropy or sampled softmax of retrieval):

    $$ \ell = -\sum_{i \in \text{list}} \frac{r_i}{\sum_j r_j} \log q_i, \quad
       q = \mathrm{softmax}(s / \tau) $$

    Args:
        relevance: `(batch, list_size)`. Clicks, ratings or grades; only their ratios
            count. Below zero counts as zero; what stands under padding is ignored.
        student_scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above zero. It belongs to the student's scores alone: scores of
            bounded size, such as cosines, need one well below 1 to tell candidates
            apart. The loss is a log-likelihood and is not rescaled by it.
        item_weight: `(batch, list_size)`, how often each candidate stands in the list;
            None for once each. $r$ and $q$ take the factor $w_i$ before they are
            normalised. Only ratios matter, and 0 removes a candidate.

    Returns:
        `(batch,)`, at least 0. It is 0 for a list with no relevant candidate, about
        which it has nothing to say.

    Raises:
        ValueError: If the temperature is not a finite number above zero, the mask is
            not boolean, or the shapes differ.

    Use when: the list has observed relevance. For teacher scores, which are no amounts
        and may be negative, use `listwise_kl_divergence`.

    Reference: Cao et al. (2007), "Learning to Rank: From Pairwise Approach to Listwise
        Approach"; Bruch et al. (2019), "An Analysis of the Softmax Cross Entropy Loss
        for Learning-to-Rank with Binary Relevance".

    Example:
        The student gives 1/4 and 3/4; relevance asks for 2/3 and 1/3.

        >>> scores = np.array([[0.0, np.log(3.0), 99.0]], "float32")
        >>> mask = np.array([[True, True, False]])
        >>> relevance = np.array([[2.0, 1.0, 5.0]], "float32")
        >>> listwise_cross_entropy(relevance, scores, mask).numpy().round(4)
        array([1.0201], dtype=float32)
        >>> float(round(2 / 3 * np.log(4) + 1 / 3 * np.log(4 / 3), 4))
        1.0201
    """
    check_temperature(temperature)
    mask, weight, relevance, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, relevance=relevance, student_scores=student_scores
    )
    # As shares first, because a product of two large numbers may be none.
    relevance = masked_ops.shares(masked_ops.shares(relevance, mask) * weight, mask)
    student_logs = masked_ops.log_softmax(student_scores, mask, temperature, weight)
    return -masked_ops.total(relevance * student_logs, mask)


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseKLDivergence(TemperedListLoss):
    """The mean of `listwise_kl_divergence` over the lists of a batch.

    `y_true` holds teacher scores, `y_pred` the student's. A list with no real candidate
    weighs zero.

    Inside `keras.distillation.LogitsDistillation` give the temperature here and 1
    there, or the factor of its square is lost.

    Example:
        >>> teacher_scores = np.array([[2.0, 0.0, -1.0]], "float32")
        >>> student_scores = np.array([[1.0, 1.0, -2.0]], "float32")
        >>> loss = ListwiseKLDivergence(temperature=2.0)
        >>> round(float(loss(teacher_scores, student_scores)), 4)
        0.4133
    """

    minimum_at_teacher: ClassVar[bool] = True
    weight_is_count: ClassVar[bool] = True
    function = staticmethod(listwise_kl_divergence)


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseSoftCrossEntropy(TemperedListLoss):
    """The mean of `listwise_soft_cross_entropy` over the lists of a batch.

    `y_true` holds teacher scores, `y_pred` the student's. A list with no real candidate
    weighs zero.

    Example:
        >>> teacher_scores = np.array([[np.log(3.0), 0.0]], "float32")
        >>> loss = ListwiseSoftCrossEntropy()
        >>> round(float(loss(teacher_scores, np.zeros((1, 2), "float32"))), 4)  # log(2)
        0.6931
    """

    minimum_at_teacher: ClassVar[bool] = True
    weight_is_count: ClassVar[bool] = True
    function = staticmethod(listwise_soft_cross_entropy)


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseJensenShannon(TemperedListLoss):
    """The mean of `listwise_jensen_shannon` over the lists of a batch.

    `y_true` holds teacher scores, `y_pred` the student's. A list with no real candidate
    weighs zero.

    Example:
        >>> teacher_scores = np.array([[50.0, 0.0]], "float32")
        >>> student_scores = np.array([[0.0, 50.0]], "float32")
        >>> loss = ListwiseJensenShannon()
        >>> round(float(loss(teacher_scores, student_scores)), 4)  # log(2)
        0.6931
    """

    minimum_at_teacher: ClassVar[bool] = True
    weight_is_count: ClassVar[bool] = True
    function = staticmethod(listwise_jensen_shannon)


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseCrossEntropy(TemperedListLoss):
    """The mean of `listwise_cross_entropy` over the lists of a batch.

    `y_true` holds relevance, `y_pred` the student's scores. A list with no relevant
    candidate weighs zero.

    Example:
        >>> relevance = np.array([[0.0, 1.0], [0.0, 0.0]], "float32")
        >>> student_scores = np.zeros((2, 2), "float32")
        >>> round(float(ListwiseCrossEntropy()(relevance, student_scores)), 4)  # log(2)
        0.6931
    """

    weight_is_count: ClassVar[bool] = True
    function = staticmethod(listwise_cross_entropy)

    def list_weight(self, labels: Tensor, mask: Tensor) -> Tensor:
        """Whether a list has a relevant candidate, `(batch,)`, bool."""
        return masked_ops.has_candidate(ops.logical_and(mask, labels > 0.0))
