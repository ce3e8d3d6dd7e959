"""Pointwise losses: mean squared error and binary cross-entropy of single scores.

Unlike all other families, they depend on the level of the scores and not only on their
order and differences within a list: a student trained on them predicts amounts or
log-odds.
"""

from typing import Any

import keras
from keras import ops

from recdistill.lists import masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import ListLoss, TemperedListLoss, check_settings


def pointwise_mse(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Mean squared error (logit matching) between the teacher's and student's scores.

    $$ \ell = \frac{1}{n} \sum_{i \in \text{list}} (t_i - s_i)^2 $$

    The teacher's scores are used unchanged, whether log-odds, probabilities or ratings,
    and the student learns their scale.

    Args:
        teacher_scores: `(batch, list_size)`. Entries under padding are ignored.
        student_scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        item_weight: `(batch, list_size)`, how often each candidate occurs in the list;
            None for once each. Only ratios matter, and 0 removes a candidate.

    Returns:
        `(batch,)`, at least 0; 0 for a list without real candidates. Scores are clipped
        to ±1e15.

    Raises:
        ValueError: If the mask is not boolean, or the shapes differ.

    Use when: the teacher's scores are calibrated amounts and the student's must be,
        too. A score in the tail of a list counts as much as one at its top; for
        rankings prefer `listwise_kl_divergence`, and if only differences within a list
        are meaningful, `pairwise_margin_mse`.

    Reference: Ba, Caruana (2014), "Do Deep Nets Really Need to be Deep?".

    Examples:
        >>> teacher = np.array([[3.0, 0.0, 99.0]], "float32")
        >>> student = np.array([[1.0, 1.0, -99.0]], "float32")
        >>> mask = np.array([[True, True, False]])
        >>> pointwise_mse(teacher, student, mask).numpy()  # (4 + 1) / 2
        array([2.5], dtype=float32)
    """
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    gaps = masked_ops.bounded(teacher_scores) - masked_ops.bounded(student_scores)
    return masked_ops.mean(ops.square(gaps), weight)


def pointwise_binary_cross_entropy(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    from_probabilities: bool = False,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Binary cross-entropy between the teacher's probabilities and the student's.

    $$ \ell = -\frac{\tau^2}{n} \sum_{i \in \text{list}} \left( p_i \log q_i
       + (1 - p_i) \log(1 - q_i) \right), \quad
       p = \sigma(t / \tau), \; q = \sigma(s / \tau) $$

    Args:
        teacher_scores: `(batch, list_size)`, log-odds, or probabilities. Entries under
            padding are ignored.
        student_scores: `(batch, list_size)`, log-odds.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above 0. The factor $\tau^2$ keeps gradients on one scale.
        from_probabilities: Whether the teacher's scores are already the probabilities
            $p$. Then the temperature divides the student's scores only, and scores are
            clipped to the range from 0 to 1.
        item_weight: `(batch, list_size)`, how often each candidate occurs in the list;
            None for once each. Only ratios matter, and 0 removes a candidate.

    Returns:
        `(batch,)`, at least 0; 0 for a list without real candidates. If the student
        agrees with the teacher, the loss is the mean entropy of $p$ times $\tau^2$, not
        0. Scores are clipped to ±1e15.

    Raises:
        ValueError: If the temperature is not a finite number above 0, the mask is not
            boolean, or the shapes differ.

    Use when: the teacher predicts clicks or purchases, and the student's score is used
        as log-odds (an auction, a threshold). For rankings alone prefer
        `listwise_kl_divergence`.

    Reference: Hinton, Vinyals, Dean (2015), "Distilling the Knowledge in a Neural
        Network".

    Examples:
        The teacher gives 3/4, the student 1/4.

        >>> scores = np.log(np.array([[3.0], [1 / 3]], "float32"))
        >>> teacher, student, mask = scores[:1], scores[1:], np.ones((1, 1), bool)
        >>> loss = pointwise_binary_cross_entropy(teacher, student, mask)
        >>> loss.numpy().round(4)
        array([1.1116], dtype=float32)
        >>> float(round(-(3 / 4 * np.log(1 / 4) + 1 / 4 * np.log(3 / 4)), 4))
        1.1116
    """
    check_settings(temperature=temperature)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    if from_probabilities:
        positive = ops.clip(teacher_scores, 0.0, 1.0)
        negative = 1.0 - positive
    else:
        log_odds = masked_ops.bounded(teacher_scores) / temperature
        positive, negative = ops.sigmoid(log_odds), ops.sigmoid(-log_odds)
    student = masked_ops.bounded(student_scores) / temperature
    terms = positive * ops.softplus(-student) + negative * ops.softplus(student)
    return temperature**2 * masked_ops.mean(terms, weight)


@keras.saving.register_keras_serializable(package="recdistill")
class PointwiseMSE(ListLoss):
    """Mean squared error between the teacher's and the student's scores, over lists.

    The mean of `pointwise_mse`. `y_true` holds teacher scores, `y_pred` the student's.
    A list without real candidates has weight 0. Scores are compared
    unchanged, so the loss does not have a temperature.

    Examples:
        >>> teacher_scores = np.array([[3.0, 0.0]], "float32")
        >>> float(PointwiseMSE()(teacher_scores, np.ones((1, 2), "float32")))
        2.5
    """

    function = staticmethod(pointwise_mse)


@keras.saving.register_keras_serializable(package="recdistill")
class PointwiseBinaryCrossEntropy(TemperedListLoss):
    """Binary cross-entropy with the teacher's probabilities as targets, over lists.

    The mean of `pointwise_binary_cross_entropy`. `y_true` holds teacher scores,
    `y_pred` the student's. A list without real candidates has weight 0.

    Args:
        from_probabilities: Whether the teacher's scores are probabilities.
        temperature: Above 0, for both sides.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If the temperature is not a finite number above 0.

    Examples:
        >>> teacher_scores = np.array([[0.25, 1.0]], "float32")
        >>> loss = PointwiseBinaryCrossEntropy(from_probabilities=True)
        >>> round(float(loss(teacher_scores, np.zeros((1, 2), "float32"))), 4)  # log(2)
        0.6931
    """

    function = staticmethod(pointwise_binary_cross_entropy)

    def __init__(
        self,
        from_probabilities: bool = False,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, **kwargs)
        self.set_settings(from_probabilities=from_probabilities)
