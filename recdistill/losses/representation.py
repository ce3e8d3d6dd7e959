r"""Representation losses: what a student learns from its teacher's embeddings.

Scores say which candidate is better; embeddings say which are alike, and to what. Here
the *rows* are the candidates of a list, `(batch, rows, width)`. Where embeddings are of
queries, one each, the queries of a batch are the rows of one list, `(1, batch, width)`.

| the teacher has | use |
|---|---|
| embeddings whose axes the student should know | `HintMSE` |
| embeddings in which nearness means something | `RelationalDistance` |
| the same, with directions that do, too | `RelationalAngle` |
| embeddings that tell rows apart, for retrieval | `ContrastiveAlignment` |

`HintMSE` and `ContrastiveAlignment` compare a row with a row, so they bring a learned
projection to the teacher's width. The relational losses compare what rows are to each
other, so widths, origins and units may differ.

They are used as losses of a `recdistill.Distiller`, beside losses on scores. There each
says which of the student's outputs it compares with which of the teacher's.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from recdistill.lists import masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.losses import geometry
from recdistill.losses.list_loss import check_temperature
from recdistill.losses.representation_loss import RepresentationLoss

__all__ = [
    "ContrastiveAlignment",
    "HintMSE",
    "RelationalAngle",
    "RelationalDistance",
    "contrastive_alignment",
    "hint_mse",
    "relational_angle",
    "relational_distance",
]


def hint_mse(
    teacher_embeddings: Tensor,
    student_embeddings: Tensor,
    mask: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Mean squared gap between the entries of two embeddings.

    $$ \ell = \sum_i \frac{w_i}{\sum_j w_j} \, \frac{1}{d} \sum_{k=1}^{d}
       (s_{ik} - t_{ik})^2 $$

    over the real rows $i$ of a list. The paper has half the sum over the entries; the
    mean does not grow with the width $d$, so a weight found for one teacher suits the
    next.

    Args:
        teacher_embeddings: `(batch, rows, width)`.
        student_embeddings: `(batch, rows, width)`, projected to the teacher's width.
        mask: `(batch, rows)`, bool. True marks a real row.
        weight: `(batch, rows)`, at least 0: how much a row counts in its list. Equal if
            not given.

    Returns:
        `(batch,)`, at least 0; 0 for a list with no real row.

    Raises:
        ValueError: If the mask is not boolean, or the shapes or the widths differ.

    Use when: the teacher's embedding is to be imitated axis by axis, as when the
        student's tower stands in for the teacher's. Without a projection it also hands
        over lengths, and so dot products.

    Reference: Romero et al. (2015), "FitNets: Hints for Thin Deep Nets".

    Example:
        >>> teacher = np.array([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]], "float32")
        >>> student = np.array([[[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]], "float32")
        >>> mask = np.array([[True, True, False]])
        >>> hint_mse(teacher, student, mask).numpy()  # (1/2 + 1/2) / 2
        array([0.5], dtype=float32)
    """
    teacher, student, mask, weight = _as_rows(
        teacher_embeddings, student_embeddings, mask, weight
    )
    _check_widths(teacher, student)
    gaps = ops.mean(ops.square(student - teacher), axis=-1)
    return masked_ops.total(masked_ops.shares(weight, mask) * gaps, mask)


def relational_distance(
    teacher_embeddings: Tensor,
    student_embeddings: Tensor,
    mask: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    r"""How far the student's map of a list is from the teacher's, as to distances.

    The distance of two rows is measured in units of the mean distance within the list,
    separately for teacher and student, and compared by Huber's loss:

    $$ \ell = \sum_{i \ne j} p_{ij} \, h\!\left(
       \frac{\lVert t_i - t_j \rVert}{\mu_t}, \frac{\lVert s_i - s_j \rVert}{\mu_s}
       \right), \quad p_{ij} \propto w_i w_j, \quad
       \mu = \sum_{i \ne j} p_{ij} \lVert \cdot_i - \cdot_j \rVert $$

    where $h(x, y)$ is $(x - y)^2 / 2$ up to a gap of 1 and $|x - y| - 1/2$ beyond.
    Widths, origins, units and rotations of the two spaces may differ. Rows in one place
    have distance 0 and no direction in which to part.

    Args:
        teacher_embeddings: `(batch, rows, width)`.
        student_embeddings: `(batch, rows, width)`, of any width.
        mask: `(batch, rows)`, bool. True marks a real row.
        weight: `(batch, rows)`, at least 0: how much a row counts. Equal if not given.

    Returns:
        `(batch,)`, at least 0; 0 for a list with fewer than two real rows. Time and
        memory grow with the square of the rows.

    Raises:
        ValueError: If the mask is not boolean or the shapes differ.

    Use when: the teacher knows which candidates (or queries) are alike, and its space
        has another width or origin than the student's.

    Reference: Park et al. (2019), "Relational Knowledge Distillation".

    Example:
        The teacher's rows lie at 0, 1 and 3; its distances 1, 2, 3 have mean 2. The
        student's lie at 0, 10 and 20, in another space: 10, 10, 20 have mean 40/3.

        >>> teacher = np.array([[[0.0], [1.0], [3.0]]], "float32")
        >>> student = np.array([[[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]]], "float32")
        >>> mask = np.ones((1, 3), bool)
        >>> relational_distance(teacher, student, mask).numpy().round(5)
        array([0.02083], dtype=float32)

        By hand, with the gaps 1/2 - 3/4, 1 - 3/4 and 3/2 - 3/2:

        >>> round((0.25**2 / 2 + 0.25**2 / 2 + 0) / 3, 5)
        0.02083
    """
    teacher, student, mask, weight = _as_rows(
        teacher_embeddings, student_embeddings, mask, weight
    )
    teacher, student = (geometry.in_units(x, (1, 2)) for x in (teacher, student))
    pairs = geometry.distinct_pairs(mask)
    together = geometry.flat(weight[:, :, None] * weight[:, None, :])
    weights = masked_ops.shares(together, geometry.flat(pairs))

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
    r"""How far the student's map of a list is from the teacher's, as to angles.

    Any three rows span a triangle; its angle at $j$ is compared by its cosine:

    $$ \ell = \sum_{i, j, k \text{ distinct}} p_{ijk} \, h\!\left(
       \cos \angle\, t_i t_j t_k, \; \cos \angle\, s_i s_j s_k \right), \quad
       p_{ijk} \propto w_i w_j w_k $$

    with Huber's $h$ as in `relational_distance`. Two rows in one place have no
    direction; the cosine of such an angle is taken as 0.

    Args:
        teacher_embeddings: `(batch, rows, width)`.
        student_embeddings: `(batch, rows, width)`, of any width.
        mask: `(batch, rows)`, bool. True marks a real row.
        weight: `(batch, rows)`, at least 0: how much a row counts. Equal if not given.

    Returns:
        `(batch,)`, at least 0; 0 for a list with fewer than three real rows. Time and
        memory grow with the third power of the rows.

    Raises:
        ValueError: If the mask is not boolean or the shapes differ.

    Use when: `relational_distance` helps; the paper finds angles to say more, and both
        together most.

    Reference: Park et al. (2019), "Relational Knowledge Distillation".

    Example:
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
    teacher, student, mask, weight = _as_rows(
        teacher_embeddings, student_embeddings, mask, weight
    )
    teacher, student = (geometry.in_units(x, (1, 2)) for x in (teacher, student))
    pairs = geometry.distinct_pairs(mask)
    triplets = ops.logical_and(
        ops.logical_and(pairs[:, :, :, None], pairs[:, None, :, :]),
        pairs[:, :, None, :],
    )
    together = (
        weight[:, :, None, None] * weight[:, None, :, None] * weight[:, None, None, :]
    )
    weights = masked_ops.shares(geometry.flat(together), geometry.flat(triplets))

    def cosines(embeddings: Tensor) -> Tensor:
        sides = geometry.directions(geometry.differences(embeddings))
        return geometry.flat(ops.einsum("bijd,bkjd->bijk", sides, sides))

    gaps = geometry.huber(cosines(teacher) - cosines(student))
    return masked_ops.total(weights * gaps, geometry.flat(triplets))


def contrastive_alignment(
    teacher_embeddings: Tensor,
    student_embeddings: Tensor,
    mask: Tensor,
    weight: Tensor | None = None,
    temperature: float = 0.1,
) -> Tensor:
    r"""Surprise of the student's rows at which of the teacher's is their own (InfoNCE).

    Each row of the student looks for itself among the teacher's rows, by cosine:

    $$ \ell = -\sum_i \frac{w_i}{\sum_j w_j} \log \frac{\exp(\cos(s_i, t_i) / \tau)}
       {\sum_{j \in \text{list}} \exp(\cos(s_i, t_j) / \tau)} $$

    The other rows of the list are its negatives, so a list should hold each row once.

    Args:
        teacher_embeddings: `(batch, rows, width)`.
        student_embeddings: `(batch, rows, width)`, projected to the teacher's width.
        mask: `(batch, rows)`, bool. True marks a real row.
        weight: `(batch, rows)`, at least 0: how much a row counts as the one that
            looks; one with weight 0 is no negative either. Equal if not given.
        temperature: Above zero. Cosines differ by 2 at most, so it has to be well below
            1; the smaller, the more the nearest negatives matter.

    Returns:
        `(batch,)`, at least 0; 0 for a list with fewer than two real rows.

    Raises:
        ValueError: If the temperature is not a finite number above zero, the mask is
            not boolean, or the shapes or the widths differ.

    Use when: the student's embeddings are for retrieval and lengths do not matter. It
        needs many rows: take queries of large batches, or long lists.

    Reference: van den Oord et al. (2018), "Representation Learning with Contrastive
        Predictive Coding"; Tian et al. (2020), "Contrastive Representation
        Distillation".

    Example:
        Two rows that point the right way, at a right angle to each other.

        >>> rows = np.array([[[2.0, 0.0], [0.0, 1.0]]], "float32")
        >>> mask = np.ones((1, 2), bool)
        >>> contrastive_alignment(rows, rows, mask, temperature=1.0).numpy().round(4)
        array([0.3133], dtype=float32)
        >>> float(round(-np.log(np.e / (np.e + 1)), 4))
        0.3133
    """
    check_temperature(temperature)
    teacher, student, mask, weight = _as_rows(
        teacher_embeddings, student_embeddings, mask, weight
    )
    _check_widths(teacher, student)
    cosines = ops.einsum(
        "bid,bjd->bij", geometry.directions(student), geometry.directions(teacher)
    )
    rows = tf.shape(mask)[1]
    candidates = ops.logical_and(mask, weight > 0.0)
    candidates = tf.repeat(candidates, rows, axis=0)
    logs = masked_ops.log_softmax(
        tf.reshape(cosines, (-1, rows)), candidates, temperature
    )
    own = tf.linalg.diag_part(tf.reshape(logs, tf.shape(cosines)))
    return -masked_ops.total(masked_ops.shares(weight, mask) * own, mask)


@keras.saving.register_keras_serializable(package="recdistill")
class HintMSE(RepresentationLoss):
    """The mean of `hint_mse` over a batch.

    Args:
        student_output: What of the student is compared; see `RepresentationLoss`.
        teacher_output: What it is compared with.
        projection: Whether a learned projection takes the student's embeddings to the
            teacher's width first. It belongs to the `Distiller`. Without it widths must
            be equal, and the student's own axes become the teacher's.
        **kwargs: Other arguments of `RepresentationLoss`.

    Example:
        >>> teacher = np.array([[1.0, 0.0], [0.0, 2.0]], "float32")
        >>> student = np.array([[0.0, 0.0], [0.0, 1.0]], "float32")
        >>> float(HintMSE()(teacher, student))
        0.5
        >>> float(HintMSE()(teacher, student, sample_weight=np.array([1.0, 0.0])))
        0.5
    """

    def __init__(
        self,
        student_output: str = "query_embedding",
        teacher_output: str = "teacher_query_embedding",
        projection: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(student_output, teacher_output, **kwargs)
        self.projected = projection

    def compare(
        self, teacher: Tensor, student: Tensor, mask: Tensor, weight: Tensor
    ) -> Tensor:
        """One loss a list, `(batch,)`; see `hint_mse`."""
        return hint_mse(teacher, student, mask, weight)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this loss anew."""
        return {**super().get_config(), "projection": self.projected}


class _Relational(RepresentationLoss):
    """A loss on what rows are to each other; only the first `rows` of a list count."""

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
        self.rows = rows

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this loss anew."""
        return {**super().get_config(), "rows": self.rows}


@keras.saving.register_keras_serializable(package="recdistill")
class RelationalDistance(_Relational):
    """The mean of `relational_distance` over a batch.

    Args:
        student_output: What of the student is compared; see `RepresentationLoss`.
        teacher_output: What it is compared with.
        rows: Only the first so many candidates of a list, or queries of a batch, are
            compared with each other: the cost grows with their square.
        **kwargs: Other arguments of `RepresentationLoss`.

    Raises:
        ValueError: If there are fewer than 2 rows.

    Example:
        >>> teacher = np.array([[0.0], [1.0], [3.0]], "float32")
        >>> student = np.array([[0.0], [10.0], [20.0]], "float32")
        >>> round(float(RelationalDistance()(teacher, student)), 5)
        0.02083
    """

    def compare(
        self, teacher: Tensor, student: Tensor, mask: Tensor, weight: Tensor
    ) -> Tensor:
        """One loss a list, `(batch,)`; see `relational_distance`."""
        return relational_distance(teacher, student, mask, weight)


@keras.saving.register_keras_serializable(package="recdistill")
class RelationalAngle(_Relational):
    """The mean of `relational_angle` over a batch.

    Args:
        student_output: What of the student is compared; see `RepresentationLoss`.
        teacher_output: What it is compared with.
        rows: Only the first so many candidates of a list, or queries of a batch, are
            compared with each other: the cost grows with the third power.
        **kwargs: Other arguments of `RepresentationLoss`.

    Raises:
        ValueError: If there are fewer than 2 rows.

    Example:
        >>> teacher = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], "float32")
        >>> student = np.array([[0.0], [1.0], [-1.0]], "float32")
        >>> round(float(RelationalAngle()(teacher, student)), 4)
        0.1953
    """

    def compare(
        self, teacher: Tensor, student: Tensor, mask: Tensor, weight: Tensor
    ) -> Tensor:
        """One loss a list, `(batch,)`; see `relational_angle`."""
        return relational_angle(teacher, student, mask, weight)


@keras.saving.register_keras_serializable(package="recdistill")
class ContrastiveAlignment(RepresentationLoss):
    """The mean of `contrastive_alignment` over a batch.

    Args:
        student_output: What of the student is compared; see `RepresentationLoss`.
        teacher_output: What it is compared with.
        temperature: Above zero; well below 1.
        projection: Whether a learned projection takes the student's embeddings to the
            teacher's width first; see `HintMSE`.
        **kwargs: Other arguments of `RepresentationLoss`.

    Raises:
        ValueError: If the temperature is not a finite number above zero.

    Example:
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
        check_temperature(temperature)
        self.temperature, self.projected = temperature, projection

    def compare(
        self, teacher: Tensor, student: Tensor, mask: Tensor, weight: Tensor
    ) -> Tensor:
        """One loss a list, `(batch,)`; see `contrastive_alignment`."""
        return contrastive_alignment(teacher, student, mask, weight, self.temperature)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this loss anew."""
        own = {"temperature": self.temperature, "projection": self.projected}
        return {**super().get_config(), **own}


def _as_rows(
    teacher: Tensor, student: Tensor, mask: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check shapes; return tensors, with zeros for rows of padding."""
    teacher, student = tf.convert_to_tensor(teacher), tf.convert_to_tensor(student)
    mask = tf.convert_to_tensor(mask)
    for name, rows in {"teacher": teacher, "student": student}.items():
        if rows.shape.rank != 3 or not rows.shape[:2].is_compatible_with(mask.shape):
            raise ValueError(
                f"`{name}_embeddings` must have shape (batch, rows, width), and `mask` "
                f"(batch, rows). Received: {name}_embeddings.shape={rows.shape}, "
                f"mask.shape={mask.shape}"
            )
    both_wide = teacher.dtype == student.dtype == tf.float64
    dtype = tf.float64 if both_wide else tf.float32
    if weight is None:
        weight = tf.ones(tf.shape(mask), dtype)
    mask, weight = masked_ops.as_lists(mask, weight=weight)
    teacher, student = (
        ops.where(mask[..., None], tf.cast(rows, dtype), 0.0)
        for rows in (teacher, student)
    )
    return teacher, student, mask, tf.cast(weight, dtype)


def _check_widths(teacher: Tensor, student: Tensor) -> None:
    if not teacher.shape[-1:].is_compatible_with(student.shape[-1:]):
        raise ValueError(
            "`student_embeddings` must have the teacher's width: project them first, "
            "with `projection=True` in a `Distiller`. Received: a width of "
            f"{student.shape[-1]} for the student and {teacher.shape[-1]} for the "
            "teacher"
        )
