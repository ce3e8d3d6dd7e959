"""Pointwise losses: each candidate's score by itself, so that it means something.

Unlike all other families, these see the level of the scores and not only their order
and distances within a list: a student trained on them predicts amounts, or log-odds.
"""

from typing import Any, ClassVar

import keras
from keras import ops

from recdistill.lists import masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import ListLoss, TemperedListLoss, check_temperature

__all__ = [
    "PointwiseBinaryCrossEntropy",
    "PointwiseMSE",
    "pointwise_binary_cross_entropy",
    "pointwise_mse",
]


def pointwise_mse(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""Mean squared difference between the teacher's scores and the student's.

    $$ \ell = \frac{1}{n} \sum_{i \in \text{list}} (t_i - s_i)^2 $$

    The teacher's scores are taken as they are, log-odds, probabilities or ratings, and
    the student learns that scale.

    Args:
        teacher_scores: `(batch, list_size)`. What stands under padding is ignored.
        student_scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        item_weight: `(batch, list_size)`, how often each candidate stands in the list;
            None for once each. Only ratios matter, and 0 removes a candidate.

    Returns:
        `(batch,)`, at least 0; 0 for a list with no real candidate. Scores beyond ±1e15
        count as that.

    Raises:
        ValueError: If the mask is not boolean, or the shapes differ.

    Use when: the teacher's scores are calibrated amounts and the student's must be,
        too. A score of a list's tail counts as much as one at its top; for rankings
        prefer `listwise_kl_divergence`, and where only differences within a list mean
        something, `pairwise_margin_mse`.

    Reference: Ba, Caruana (2014), "Do Deep Nets Really Need to be Deep?".

    Example:
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
    r"""Surprise of the student at the teacher's belief that a candidate is relevant.

    $$ \ell = -\frac{\tau^2}{n} \sum_{i \in \text{list}} \left( p_i \log q_i
       + (1 - p_i) \log(1 - q_i) \right), \quad
       p = \sigma(t / \tau), \; q = \sigma(s / \tau) $$

    Args:
        teacher_scores: `(batch, list_size)`, log-odds, or probabilities. What stands
            under padding is ignored.
        student_scores: `(batch, list_size)`, log-odds.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above zero. The factor $\tau^2$ keeps gradients on one scale.
        from_probabilities: Whether the teacher's scores are the probabilities $p$
            already. Then the temperature belongs to the student's alone, and a score
            below 0 or above 1 counts as 0 or 1.
        item_weight: `(batch, list_size)`, how often each candidate stands in the list;
            None for once each. Only ratios matter, and 0 removes a candidate.

    Returns:
        `(batch,)`, at least 0; 0 for a list with no real candidate. A student in
        agreement with the teacher has the mean entropy of $p$, times $\tau^2$, not 0.
        Scores beyond ±1e15 count as that.

    Raises:
        ValueError: If the temperature is not a finite number above zero, the mask is
            not boolean, or the shapes differ.

    Use when: the teacher predicts clicks or purchases, and the student's score is to be
        read as log-odds (an auction, a threshold). For rankings alone prefer
        `listwise_kl_divergence`.

    Reference: Hinton, Vinyals, Dean (2015), "Distilling the Knowledge in a Neural
        Network".

    Example:
        The teacher gives 3/4, the student 1/4.

        >>> scores = np.log(np.array([[3.0], [1 / 3]], "float32"))
        >>> teacher, student, mask = scores[:1], scores[1:], np.ones((1, 1), bool)
        >>> loss = pointwise_binary_cross_entropy(teacher, student, mask)
        >>> loss.numpy().round(4)
        array([1.1116], dtype=float32)
        >>> float(round(-(3 / 4 * np.log(1 / 4) + 1 / 4 * np.log(3 / 4)), 4))
        1.1116
    """
    check_temperature(temperature)
    mask, weight, teacher_scores, student_scores = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    if from_probabilities:
        yes = ops.clip(teacher_scores, 0.0, 1.0)
        no = 1.0 - yes
    else:
        log_odds = masked_ops.bounded(teacher_scores) / temperature
        yes, no = ops.sigmoid(log_odds), ops.sigmoid(-log_odds)
    student = masked_ops.bounded(student_scores) / temperature
    terms = yes * ops.softplus(-student) + no * ops.softplus(student)
    return temperature**2 * masked_ops.mean(terms, weight)


@keras.saving.register_keras_serializable(package="recdistill")
class PointwiseMSE(ListLoss):
    """The mean of `pointwise_mse` over the lists of a batch.

    `y_true` holds teacher scores, `y_pred` the student's. A list with no real candidate
    weighs zero. It has no temperature: scores are compared as they are.

    Example:
        >>> teacher_scores = np.array([[3.0, 0.0]], "float32")
        >>> float(PointwiseMSE()(teacher_scores, np.ones((1, 2), "float32")))
        2.5
    """

    shift_invariant: ClassVar[bool] = False
    minimum_at_teacher: ClassVar[bool] = True
    weight_is_count: ClassVar[bool] = True
    function = staticmethod(pointwise_mse)


@keras.saving.register_keras_serializable(package="recdistill")
class PointwiseBinaryCrossEntropy(TemperedListLoss):
    """The mean of `pointwise_binary_cross_entropy` over the lists of a batch.

    `y_true` holds teacher scores, `y_pred` the student's. A list with no real candidate
    weighs zero.

    Args:
        from_probabilities: Whether the teacher's scores are probabilities.
        temperature: Above zero.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If the temperature is not a finite number above zero.

    Example:
        >>> teacher_scores = np.array([[0.25, 1.0]], "float32")
        >>> loss = PointwiseBinaryCrossEntropy(from_probabilities=True)
        >>> round(float(loss(teacher_scores, np.zeros((1, 2), "float32"))), 4)  # log(2)
        0.6931
    """

    shift_invariant: ClassVar[bool] = False
    minimum_at_teacher: ClassVar[bool] = True
    weight_is_count: ClassVar[bool] = True
    function = staticmethod(pointwise_binary_cross_entropy)
    settings: ClassVar[tuple[str, ...]] = ("temperature", "from_probabilities")

    def __init__(
        self,
        from_probabilities: bool = False,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, **kwargs)
        self.from_probabilities = from_probabilities
