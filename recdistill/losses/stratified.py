r"""UnKD: distillation within strata of items, such as groups of similar popularity."""

from typing import Any, ClassVar

import keras
import tensorflow as tf
from keras import ops

from recdistill.lists import masked_ops, masked_softmax
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import TemperedListLoss, check_settings


def stratified_kl_divergence(
    teacher_scores: Tensor,
    student_scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    strata: int = 4,
    stratum: Tensor | None = None,
    item_weight: Tensor | None = None,
) -> Tensor:
    r"""UnKD (popularity-stratified distillation): mean KL divergence within strata.

    The candidates of a list are divided into strata of similar popularity. In each
    stratum $g$ the scores of both sides become distributions over its candidates, and
    the loss is the mean of their KL divergences over the $G$ strata of the list that
    have candidates:

    $$ \ell = \frac{\tau^2}{G} \sum_{g} \sum_{i \in g} p_{i|g} \,
       (\log p_{i|g} - \log q_{i|g}), \quad
       p_{\cdot|g} = \mathrm{softmax}_{i \in g}(t_i / \tau), \;
       q_{\cdot|g} = \mathrm{softmax}_{i \in g}(s_i / \tau) $$

    A constant added to the scores of one stratum changes nothing. So the student learns
    the teacher's ranking of popular items among themselves and of rare items among
    themselves, but not how much the teacher prefers popular items to rare ones. That it
    must learn from the relevance loss, or from a second distillation loss. The KL
    divergence over the whole list is the sum of a KL divergence between the strata,
    which this loss leaves out, and of the divergences within them, which it gives the
    weight of the stratum's soft targets instead of $1 / G$:

    $$ \mathrm{KL}(p \,\|\, q) = \sum_g P_g \log \frac{P_g}{Q_g}
       + \sum_g P_g \, \mathrm{KL}(p_{\cdot|g} \,\|\, q_{\cdot|g}), \quad
       P_g = \sum_{i \in g} p_i, \; Q_g = \sum_{i \in g} q_i $$

    The paper samples pairs of items within each stratum, more often from the teacher's
    top, and uses a logistic loss on the order of each pair. This function uses all
    candidates and the teacher's margins instead.

    Args:
        teacher_scores: `(batch, list_size)`. Unnormalised; entries under padding are
            ignored.
        student_scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        temperature: Above 0; it divides the scores of both sides.
        strata: Number of strata.
        stratum: `(batch, list_size)` or `(list_size,)`, int from 0 to `strata - 1`: the
            stratum of each candidate. Candidates with another number are left out. None
            if all candidates are in one stratum.
        item_weight: `(batch, list_size)`, how often each candidate occurs in its
            stratum; None for once each. Only ratios matter, and 0 removes a candidate.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for a list without real candidates.

    Raises:
        ValueError: If the temperature is not a finite number above 0, `strata` is below
            1, the mask is not boolean, or the shapes differ.

    Use when: the student must not inherit the teacher's preference for popular items,
        or rare items lose quality in the distillation. If the mean over all queries is
        the goal, prefer `listwise_kl_divergence`.

    Reference: Chen et al. (2023), "Unbiased Knowledge Distillation for Recommendation".

    Examples:
        The teacher prefers the first of two popular candidates with odds of 3 to 1 and
        is indifferent between two rare ones, which it ranks far lower. The student
        agrees within both strata.

        >>> teacher = np.array([[np.log(3.0), 0.0, -9.0, -9.0]], "float32")
        >>> student = np.array([[np.log(3.0), 0.0, 2.0, 2.0]], "float32")
        >>> mask, stratum = np.ones((1, 4), bool), np.array([0, 0, 1, 1])
        >>> loss = stratified_kl_divergence(teacher, student, mask, 1.0, 2, stratum)
        >>> loss.numpy().round(4)
        array([0.], dtype=float32)
    """
    check_settings(temperature=temperature, strata=strata)
    mask, weight, *both = masked_ops.as_weighted_lists(
        mask, item_weight, teacher_scores=teacher_scores, student_scores=student_scores
    )
    weight = None if item_weight is None else weight
    total, count = 0.0, 0.0
    for inside in _masks(mask, stratum, strata):
        teacher, student = (
            masked_softmax.distribution(
                masked_ops.masked(scores, inside), inside, temperature, weight
            )
            for scores in both
        )
        total += masked_softmax.divergence(teacher, student, temperature)
        count += ops.cast(ops.any(inside, axis=-1), both[0].dtype)
    return temperature**2 * total / ops.maximum(count, 1.0)


def _masks(mask: Tensor, stratum: Tensor | None, strata: int) -> list[Tensor]:
    """The mask of the candidates of each stratum, each `(batch, list_size)`."""
    if stratum is None:
        return [mask]
    stratum = tf.cast(stratum, tf.int32)
    if not mask.shape[2 - len(stratum.shape) :].is_compatible_with(stratum.shape):
        raise ValueError(
            "`stratum` must have shape (batch, list_size) or (list_size,). Received: "
            f"stratum.shape={stratum.shape}, mask.shape={mask.shape}"
        )
    return [mask & (stratum == number) for number in range(strata)]


@keras.saving.register_keras_serializable(package="recdistill")
class StratifiedKLDivergence(TemperedListLoss):
    """UnKD (popularity-stratified distillation): mean KL divergence within strata.

    The mean of `stratified_kl_divergence`. `y_true` holds teacher scores, `y_pred` the
    student's. A list without real candidates has weight 0.

    `y_true` also has the strata, as `{"labels": …, "mask": …, "stratum": …}`; without
    them all candidates are in one stratum. A `recdistill.Distiller` reads them from the
    entry "stratum" of the batch, which must be there.

    Args:
        strata: Number of strata.
        temperature: Above 0, for both sides.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Raises:
        ValueError: If `strata` is below 1 or the temperature is not a finite number
            above 0.

    Examples:
        The student is right within both strata, and the KL divergence of the whole list
        only sees that it ranks the rare candidates higher.

        >>> teacher_scores = np.array([[np.log(3.0), 0.0, -9.0, -9.0]], "float32")
        >>> student_scores = np.array([[np.log(3.0), 0.0, 2.0, 2.0]], "float32")
        >>> y_true = {"labels": teacher_scores, "mask": np.ones((1, 4), bool)}
        >>> round(float(StratifiedKLDivergence()(y_true, student_scores)), 4)
        1.5457
        >>> y_true["stratum"] = np.array([0, 0, 1, 1])
        >>> abs(round(float(StratifiedKLDivergence()(y_true, student_scores)), 4))
        0.0
    """

    inputs: ClassVar[tuple[str, ...]] = ("stratum",)
    function = staticmethod(stratified_kl_divergence)

    def __init__(
        self, strata: int = 4, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(temperature, **kwargs)
        self.set_settings(strata=strata)
