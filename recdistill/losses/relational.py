"""Relational knowledge distillation (RKD): distances and angles between embeddings.

Both losses compare the rows of a list with each other, separately for teacher and
student, so the widths, origins and scales of the two embeddings may differ.
"""

from typing import Any

import keras
from keras import ops

from recdistill.lists import masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.losses import geometry
from recdistill.losses.representation_loss import RepresentationLoss, as_rows


def relational_distance(
    teacher_embeddings: Tensor,
    student_embeddings: Tensor,
    mask: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    r"""RKD distance loss (RKD-D): Huber loss on relative distances between rows.

    The distance between two rows is divided by the mean distance within the list,
    separately for teacher and student, and the two are compared by the Huber loss:

    $$ \ell = \sum_{i \ne j} p_{ij} \, h\!\left(
       \frac{\lVert t_i - t_j \rVert}{\mu_t}, \frac{\lVert s_i - s_j \rVert}{\mu_s}
       \right), \quad p_{ij} \propto w_i w_j, \quad
       \mu = \sum_{i \ne j} p_{ij} \lVert \cdot_i - \cdot_j \rVert $$

    where $h(x, y)$ is $(x - y)^2 / 2$ up to a difference of 1 and $|x - y| - 1/2$
    beyond. Widths, origins, scales and rotations of the two spaces may differ. The
    distance between two identical rows is 0 and has gradient 0.

    Args:
        teacher_embeddings: `(batch, rows, width)`.
        student_embeddings: `(batch, rows, width)`, of any width.
        mask: `(batch, rows)`, bool. True marks a real row.
        weight: `(batch, rows)`, at least 0: the weight of each row; None for 1.

    Returns:
        `(batch,)`, at least 0; 0 for a list with fewer than two real rows. Time and
        memory grow with the square of the rows.

    Raises:
        ValueError: If the mask is not boolean or the shapes differ.

    Use when: distances between the teacher's embeddings are meaningful, and its space
        has another width or origin than the student's.

    Reference: Park et al. (2019), "Relational Knowledge Distillation".

    Examples:
        The teacher's rows lie at 0, 1 and 3; its distances 1, 2, 3 have mean 2. The
        student's lie at 0, 10 and 20, in another space: 10, 10, 20 have mean 40/3.

        >>> teacher = np.array([[[0.0], [1.0], [3.0]]], "float32")
        >>> student = np.array([[[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]]], "float32")
        >>> mask = np.ones((1, 3), bool)
        >>> relational_distance(teacher, student, mask).numpy().round(5)
        array([0.02083], dtype=float32)

        By hand, with the differences 1/2 - 3/4, 1 - 3/4 and 3/2 - 3/2:

        >>> round((0.25**2 / 2 + 0.25**2 / 2 + 0) / 3, 5)
        0.02083
    """
    teacher, student, mask, weight = as_rows(
        teacher_embeddings, student_embeddings, mask, weight
    )
    teacher, student = (geometry.scaled_to_unit(x, (1, 2)) for x in (teacher, student))
    weight = masked_ops.shares(weight, mask)  # No product leaves the range of float32.
    pairs = geometry.distinct_pairs(mask)
    products = geometry.flat(weight[:, :, None] * weight[:, None, :])
    weights = masked_ops.shares(products, geometry.flat(pairs))

    def relative(embeddings: Tensor) -> Tensor:
        distances = geometry.flat(geometry.lengths(geometry.differences(embeddings)))
        mean = masked_ops.total(weights * distances, geometry.flat(pairs))[:, None]
        return ops.where(mean > 0.0, distances / ops.where(mean > 0.0, mean, 1.0), 0.0)

    gaps = geometry.huber(relative(teacher) - relative(student))
    return masked_ops.total(weights * gaps, geometry.flat(pairs))


def relational_angle(
    teacher_embeddings: Tensor,
    student_embeddings: Tensor,
    mask: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    r"""RKD angle loss (RKD-A): Huber loss on the cosines of triplets of rows.

    Any three rows form a triangle; its angle at $j$ is compared by its cosine:

    $$ \ell = \sum_{i, j, k \text{ distinct}} p_{ijk} \, h\!\left(
       \cos \angle\, t_i t_j t_k, \; \cos \angle\, s_i s_j s_k \right), \quad
       p_{ijk} \propto w_i w_j w_k $$

    with the Huber function $h$ of `relational_distance`. Between two identical rows
    the direction is undefined; the cosine of such an angle is defined as 0.

    Args:
        teacher_embeddings: `(batch, rows, width)`.
        student_embeddings: `(batch, rows, width)`, of any width.
        mask: `(batch, rows)`, bool. True marks a real row.
        weight: `(batch, rows)`, at least 0: the weight of each row; None for 1.

    Returns:
        `(batch,)`, at least 0; 0 for a list with fewer than three real rows. Time and
        memory grow with the third power of the rows.

    Raises:
        ValueError: If the mask is not boolean or the shapes differ.

    Use when: `relational_distance` improves the student; in the paper angles improve it
        more, and both losses together most.

    Reference: Park et al. (2019), "Relational Knowledge Distillation".

    Examples:
        A right angle at the first row, and 45 degrees at the others; the student has
        all three on a line, with the first in the middle: cosines -1, 1 and 1.

        >>> teacher = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], "float32")
        >>> student = np.array([[[0.0], [1.0], [-1.0]]], "float32")
        >>> mask = np.ones((1, 3), bool)
        >>> relational_angle(teacher, student, mask).numpy().round(4)
        array([0.1953], dtype=float32)
        >>> round(float((1**2 / 2 + 2 * (1 - np.sqrt(0.5)) ** 2 / 2) / 3), 4)
        0.1953
    """
    teacher, student, mask, weight = as_rows(
        teacher_embeddings, student_embeddings, mask, weight
    )
    teacher, student = (geometry.scaled_to_unit(x, (1, 2)) for x in (teacher, student))
    weight = masked_ops.shares(weight, mask)  # No product leaves the range of float32.
    pairs = geometry.distinct_pairs(mask)
    triplets = ops.logical_and(
        ops.logical_and(pairs[:, :, :, None], pairs[:, None, :, :]),
        pairs[:, :, None, :],
    )
    products = (
        weight[:, :, None, None] * weight[:, None, :, None] * weight[:, None, None, :]
    )
    weights = masked_ops.shares(geometry.flat(products), geometry.flat(triplets))

    def cosines(embeddings: Tensor) -> Tensor:
        sides = geometry.directions(geometry.differences(embeddings))
        return geometry.flat(ops.einsum("bijd,bkjd->bijk", sides, sides))

    gaps = geometry.huber(cosines(teacher) - cosines(student))
    return masked_ops.total(weights * gaps, geometry.flat(triplets))


class _Relational(RepresentationLoss):
    """Base class: compares the first `rows` rows of each list with each other."""

    def __init__(
        self,
        student_output: str = "query_embedding",
        teacher_output: str = "teacher_query_embedding",
        rows: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(student_output, teacher_output, **kwargs)
        if rows < 2:
            raise ValueError(f"`rows` must be at least 2. Received: rows={rows}")
        self.set_settings(rows=rows)


@keras.saving.register_keras_serializable(package="recdistill")
class RelationalDistance(_Relational):
    """RKD distance loss (RKD-D), averaged over lists: mean of `relational_distance`.

    Args:
        student_output: Name of the student's embedding; see `RepresentationLoss`.
        teacher_output: Name of the teacher's embedding.
        rows: Number of candidates of a list, or queries of a batch, that are compared
            with each other, counted from the first; the cost grows with its square.
        **kwargs: Other arguments of `RepresentationLoss`.

    Raises:
        ValueError: If `rows` is below 2.

    Examples:
        >>> teacher = np.array([[0.0], [1.0], [3.0]], "float32")
        >>> student = np.array([[0.0], [10.0], [20.0]], "float32")
        >>> round(float(RelationalDistance()(teacher, student)), 5)
        0.02083
    """

    function = staticmethod(relational_distance)


@keras.saving.register_keras_serializable(package="recdistill")
class RelationalAngle(_Relational):
    """RKD angle loss (RKD-A), averaged over lists: mean of `relational_angle`.

    Args:
        student_output: Name of the student's embedding; see `RepresentationLoss`.
        teacher_output: Name of the teacher's embedding.
        rows: Number of candidates of a list, or queries of a batch, that are compared
            with each other, counted from the first; the cost grows with its cube.
        **kwargs: Other arguments of `RepresentationLoss`.

    Raises:
        ValueError: If `rows` is below 2.

    Examples:
        >>> teacher = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], "float32")
        >>> student = np.array([[0.0], [1.0], [-1.0]], "float32")
        >>> round(float(RelationalAngle()(teacher, student)), 4)
        0.1953
    """

    function = staticmethod(relational_angle)
