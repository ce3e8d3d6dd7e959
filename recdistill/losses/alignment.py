"""Losses that compare embeddings row by row: FitNets hints and CRD (InfoNCE).

Both need embeddings of equal width, so by default they use a learned projection of the
student's embeddings to the teacher's width.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from recdistill.lists import masked_ops, masked_softmax
from recdistill.lists.masked_ops import Tensor
from recdistill.losses import geometry
from recdistill.losses.list_loss import check_settings
from recdistill.losses.representation_loss import RepresentationLoss, as_rows


def hint_mse(
    teacher_embeddings: Tensor,
    student_embeddings: Tensor,
    mask: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    r"""FitNets hints: mean squared error between two embeddings.

    $$ \ell = \sum_i \frac{w_i}{\sum_j w_j} \, \frac{1}{d} \sum_{k=1}^{d}
       (s_{ik} - t_{ik})^2 $$

    over the real rows $i$ of a list. The paper uses half the sum over the entries; the
    mean does not grow with the width $d$, so a loss weight tuned for one teacher
    remains suitable for another.

    Args:
        teacher_embeddings: `(batch, rows, width)`.
        student_embeddings: `(batch, rows, width)`, projected to the teacher's width.
        mask: `(batch, rows)`, bool. True marks a real row.
        weight: `(batch, rows)`, at least 0: the weight of each row; None for 1.

    Returns:
        `(batch,)`, at least 0; 0 for a list without real rows.

    Raises:
        ValueError: If the mask is not boolean, or the shapes or the widths differ.

    Use when: the student should reproduce the teacher's embedding coordinate by
        coordinate, for example because its tower replaces the teacher's. Without a
        projection this also transfers lengths, and so dot products.

    Reference: Romero et al. (2015), "FitNets: Hints for Thin Deep Nets".

    Examples:
        >>> teacher = np.array([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]], "float32")
        >>> student = np.array([[[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]], "float32")
        >>> mask = np.array([[True, True, False]])
        >>> hint_mse(teacher, student, mask).numpy()  # (1/2 + 1/2) / 2
        array([0.5], dtype=float32)
    """
    teacher, student, mask, weight = as_rows(
        teacher_embeddings, student_embeddings, mask, weight
    )
    _check_widths(teacher, student)
    gaps = ops.mean(ops.square(student - teacher), axis=-1)
    return masked_ops.total(masked_ops.shares(weight, mask) * gaps, mask)


def contrastive_alignment(
    teacher_embeddings: Tensor,
    student_embeddings: Tensor,
    mask: Tensor,
    weight: Tensor | None = None,
    temperature: float = 0.1,
) -> Tensor:
    r"""CRD, contrastive representation distillation with the InfoNCE loss.

    Each row of the student must be closest, by cosine, to the same row of the teacher:

    $$ \ell = -\sum_i \frac{w_i}{\sum_j w_j} \log \frac{\exp(\cos(s_i, t_i) / \tau)}
       {\sum_{j \in \text{list}} \exp(\cos(s_i, t_j) / \tau)} $$

    The other rows of the list are the negatives, so each row should occur once in a
    list.

    Args:
        teacher_embeddings: `(batch, rows, width)`.
        student_embeddings: `(batch, rows, width)`, projected to the teacher's width.
        mask: `(batch, rows)`, bool. True marks a real row.
        weight: `(batch, rows)`, at least 0: the weight of each row's own term; None for
            1. A row of weight 0 is not a negative either.
        temperature: Above 0. Cosines differ by at most 2, so it should be well below
            1; the smaller it is, the more the nearest negatives matter.

    Returns:
        `(batch,)`, at least 0; 0 for a list with fewer than two real rows.

    Raises:
        ValueError: If the temperature is not a finite number above 0, the mask is
            not boolean, or the shapes or the widths differ.

    Use when: the student's embeddings are used for retrieval and lengths do not matter.
        It needs many rows: queries of large batches, or long lists.

    Reference: van den Oord et al. (2018), "Representation Learning with Contrastive
        Predictive Coding"; Tian et al. (2020), "Contrastive Representation
        Distillation".

    Examples:
        Two rows in the directions of the teacher's, at a right angle to each other.

        >>> rows = np.array([[[2.0, 0.0], [0.0, 1.0]]], "float32")
        >>> mask = np.ones((1, 2), bool)
        >>> contrastive_alignment(rows, rows, mask, temperature=1.0).numpy().round(4)
        array([0.3133], dtype=float32)
        >>> float(round(-np.log(np.e / (np.e + 1)), 4))
        0.3133
    """
    check_settings(temperature=temperature)
    teacher, student, mask, weight = as_rows(
        teacher_embeddings, student_embeddings, mask, weight
    )
    _check_widths(teacher, student)
    cosines = ops.einsum(
        "bid,bjd->bij", geometry.directions(student), geometry.directions(teacher)
    )
    rows = tf.shape(mask)[1]
    candidates = ops.logical_and(mask, weight > 0.0)
    candidates = tf.repeat(candidates, rows, axis=0)
    logs = masked_softmax.log_softmax(
        tf.reshape(cosines, (-1, rows)), candidates, temperature
    )
    own = tf.linalg.diag_part(tf.reshape(logs, tf.shape(cosines)))
    return -masked_ops.total(masked_ops.shares(weight, mask) * own, mask)


def _check_widths(teacher: Tensor, student: Tensor) -> None:
    if not teacher.shape[-1:].is_compatible_with(student.shape[-1:]):
        raise ValueError(
            "`student_embeddings` must have the teacher's width; use "
            "`projection=True` in a `Distiller` to project them. Received: a width of "
            f"{student.shape[-1]} for the student and {teacher.shape[-1]} for the "
            "teacher"
        )


@keras.saving.register_keras_serializable(package="recdistill")
class HintMSE(RepresentationLoss):
    """FitNets hints, mean squared error between embeddings: mean of `hint_mse`.

    Args:
        student_output: Name of the student's embedding; see `RepresentationLoss`.
        teacher_output: Name of the teacher's embedding.
        projection: Whether a learned projection first maps the student's embeddings to
            the teacher's width. The `Distiller` owns it. Without a projection the
            widths must be equal, and the student learns the teacher's own coordinates.
        **kwargs: Other arguments of `RepresentationLoss`.

    Examples:
        >>> teacher = np.array([[1.0, 0.0], [0.0, 2.0]], "float32")
        >>> student = np.array([[0.0, 0.0], [0.0, 1.0]], "float32")
        >>> float(HintMSE()(teacher, student))
        0.5
        >>> float(HintMSE()(teacher, student, sample_weight=np.array([1.0, 0.0])))
        0.5
    """

    function = staticmethod(hint_mse)

    def __init__(
        self,
        student_output: str = "query_embedding",
        teacher_output: str = "teacher_query_embedding",
        projection: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(student_output, teacher_output, **kwargs)
        self.set_settings(projection=projection)


@keras.saving.register_keras_serializable(package="recdistill")
class ContrastiveAlignment(RepresentationLoss):
    """CRD, contrastive distillation with InfoNCE: mean of `contrastive_alignment`.

    Args:
        student_output: Name of the student's embedding; see `RepresentationLoss`.
        teacher_output: Name of the teacher's embedding.
        temperature: Above 0; it should be well below 1.
        projection: Whether a learned projection first maps the student's embeddings to
            the teacher's width; see `HintMSE`.
        **kwargs: Other arguments of `RepresentationLoss`.

    Raises:
        ValueError: If the temperature is not a finite number above 0.

    Examples:
        >>> rows = np.array([[2.0, 0.0], [0.0, 1.0]], "float32")
        >>> round(float(ContrastiveAlignment(temperature=1.0)(rows, rows)), 4)
        0.3133
    """

    def __init__(
        self,
        student_output: str = "query_embedding",
        teacher_output: str = "teacher_query_embedding",
        temperature: float = 0.1,
        projection: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(student_output, teacher_output, **kwargs)
        self.set_settings(temperature=temperature, projection=projection)

    def compare(
        self, teacher: Tensor, student: Tensor, mask: Tensor, weight: Tensor
    ) -> Tensor:
        """The loss of each list, `(batch,)`; see `contrastive_alignment`."""
        return contrastive_alignment(teacher, student, mask, weight, self.temperature)
