"""Listwise losses: a list's scores as one distribution over its candidates."""

import keras
from keras import ops

from recdistill import lists
from recdistill.lists import Tensor
from recdistill.losses.list_loss import ListLoss, check_temperature

__all__ = [
    "ListwiseCrossEntropy",
    "ListwiseKLDivergence",
    "listwise_cross_entropy",
    "listwise_kl_divergence",
]


def listwise_kl_divergence(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
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
    mask, teacher_scores, student_scores = lists.as_lists(
        mask, teacher_scores=teacher_scores, student_scores=student_scores
    )
    teacher_logs = lists.log_softmax(teacher_scores, mask, temperature)
    student_logs = lists.log_softmax(student_scores, mask, temperature)
    soft_targets = lists.softmax(teacher_scores, mask, temperature)
    divergence = lists.total(soft_targets * (teacher_logs - student_logs), mask)
    return temperature**2 * divergence


def listwise_cross_entropy(
    relevance: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
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
    mask, relevance, student_scores = lists.as_lists(
        mask, relevance=relevance, student_scores=student_scores
    )
    student_logs = lists.log_softmax(student_scores, mask, temperature)
    return -lists.total(lists.shares(relevance, mask) * student_logs, mask)


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseKLDivergence(ListLoss):
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

    def call(self, y_true: Tensor | dict[str, Tensor], y_pred: Tensor) -> Tensor:
        """One loss a list, `(batch,)`; see `listwise_kl_divergence`."""
        teacher_scores, mask = lists.labels_and_mask(y_true)
        return listwise_kl_divergence(teacher_scores, y_pred, mask, self.temperature)


@keras.saving.register_keras_serializable(package="recdistill")
class ListwiseCrossEntropy(ListLoss):
    """The mean of `listwise_cross_entropy` over the lists of a batch.

    `y_true` holds relevance, `y_pred` the student's scores. A list with no relevant
    candidate weighs zero.

    Example:
        >>> relevance = np.array([[0.0, 1.0], [0.0, 0.0]], "float32")
        >>> student_scores = np.zeros((2, 2), "float32")
        >>> round(float(ListwiseCrossEntropy()(relevance, student_scores)), 4)  # log(2)
        0.6931
    """

    def call(self, y_true: Tensor | dict[str, Tensor], y_pred: Tensor) -> Tensor:
        """One loss a list, `(batch,)`; see `listwise_cross_entropy`."""
        relevance, mask = lists.labels_and_mask(y_true)
        return listwise_cross_entropy(relevance, y_pred, mask, self.temperature)

    def list_weight(self, labels: Tensor, mask: Tensor) -> Tensor:
        """Whether a list has a relevant candidate, `(batch,)`, bool."""
        return lists.has_candidate(ops.logical_and(mask, labels > 0.0))
