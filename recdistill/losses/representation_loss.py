"""Base class of losses on embeddings: rows, masks, weights, and compared outputs.

Scores say which candidate is better; embeddings say which candidates are similar. The
*rows* of an embedding loss are the candidates of a list, `(batch, rows, width)`. If the
embeddings are those of queries, one for each list, the queries of a batch are the rows
of a single list, `(1, batch, width)`.

| the teacher's embeddings | loss | width |
|---|---|---|
| have coordinates that the student should reproduce | `HintMSE` | projected |
| have meaningful distances | `RelationalDistance` | any |
| have meaningful distances and directions | `RelationalAngle` | any |
| distinguish rows, for retrieval | `ContrastiveAlignment` | projected |

They are used as losses of a `recdistill.Distiller`, in addition to losses on scores.
Each names the output of the student and the output of the teacher that it compares.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import tensorflow as tf
from keras import ops

from recdistill.lists import masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import LossWithSettings


class RepresentationLoss(LossWithSettings):
    """Base class of Keras losses on embeddings.

    `y_true` holds the teacher's embeddings, `y_pred` the student's. Those of queries
    are `(batch, width)`; those of candidates are `(batch, list_size, width)`, or `(1,
    list_size, width)` if all lists share their candidates, which then form one list. A
    subclass defines `function`, or overrides `compare` if the function has settings.

    Args:
        student_output: In a `recdistill.Distiller`, the student's embedding: an output
            that it exposes ("query_embedding" and "candidate_embedding" of a
            `TwoTowerStudent`), or one of its layers by name or path.
        teacher_output: The teacher's embedding: a key of the batch under which it is
            stored, or an output or layer of the live teacher.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`. In the default
            mean a list of padding has weight 0.
    """

    function: ClassVar[Callable[..., Tensor]]
    """Computes one loss for each list from teacher, student, mask and weights."""

    projection = False
    """Whether a learned projection is applied to the student's embeddings first."""

    rows: int | None = None
    """Number of rows of a list that are compared, from the first; None for all."""

    def __init__(
        self,
        student_output: str = "query_embedding",
        teacher_output: str = "teacher_query_embedding",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.set_settings(student_output=student_output, teacher_output=teacher_output)

    def __call__(
        self,
        y_true: Tensor | dict[str, Tensor],
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of embeddings.

        Args:
            y_true: The teacher's embeddings, or `{"labels": …, "mask": …}` with a
                boolean mask `(batch, list_size)`. Without a mask all rows are real. A
                query is real if its list has a real candidate. The dict may also have
                `item_weight`, if both lists and candidates have weights.
            y_pred: The student's embeddings.
            sample_weight: `(batch,)`, one weight for each list, `(batch, list_size)`,
                one for each candidate, or a single number.

        Returns:
            A scalar; one loss for each list if `reduction` is None.

        Raises:
            ValueError: If the shapes do not match.
        """
        inputs, list_weight = _as_one_batch(y_true, y_pred, sample_weight)
        if self.rows is not None:
            inputs = {name: value[:, : self.rows] for name, value in inputs.items()}
        loss = super().__call__(inputs, inputs["student"], list_weight)
        if inputs["student"].shape[0] == 1:
            # A replica counts by its rows, as lists do elsewhere.
            list_weight = masked_ops.masked(inputs["weight"], inputs["mask"])
        return self.over_replicas(loss, list_weight)

    def call(self, y_true: dict[str, Tensor], y_pred: Tensor) -> Tensor:
        """The loss of each list; `y_true` has the form that `__call__` prepares."""
        # Keras has cast the mask to floats.
        mask = ops.cast(y_true["mask"], "bool")
        return self.compare(y_true["teacher"], y_pred, mask, y_true["weight"])

    def compare(
        self, teacher: Tensor, student: Tensor, mask: Tensor, weight: Tensor
    ) -> Tensor:
        """The loss of each list, from `function`.

        Args:
            teacher: `(batch, rows, width)`.
            student: `(batch, rows, width)`.
            mask: `(batch, rows)`, bool.
            weight: `(batch, rows)`.

        Returns:
            `(batch,)`.
        """
        return self.function(teacher, student, mask, weight)


def _as_one_batch(
    y_true: Tensor | dict[str, Tensor], student: Tensor, sample_weight: Tensor | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Embeddings, mask and row weights as a batch of lists, and the list weights."""
    teacher, mask = _embeddings_and_mask(y_true)
    # A copy without the mask that a layer may have attached, which Keras would apply.
    student = tf.identity(tf.convert_to_tensor(student))
    _check_ranks(teacher, student)
    queries = student.shape.rank == 2
    if queries:
        teacher, student = teacher[None], student[None]
    else:
        teacher, student = _as_many_lists(teacher, student)
    if mask is None:
        mask = tf.ones(tf.shape(student)[:2], tf.bool)
        mask = mask[0][:, None] if queries else mask
    own = y_true.get("item_weight") if isinstance(y_true, dict) else None
    list_weight, weight = list_and_row_weights(sample_weight, mask, own)
    if queries:
        mask, weight = masked_ops.has_candidate(mask)[None], list_weight[None]
    elif student.shape[0] == 1:
        # The weight of a shared candidate is the sum of its weights in all lists.
        weights = masked_ops.shares(weight, mask) * list_weight[:, None]
        mask, weight = ops.any(mask, axis=0)[None], ops.sum(weights, axis=0)[None]
    if student.shape[0] == 1:
        real = ops.logical_and(mask, weight > 0.0)
        list_weight = ops.cast(masked_ops.has_candidate(real), weight.dtype)
    inputs = {"teacher": teacher, "student": student, "mask": mask, "weight": weight}
    return inputs, list_weight


def list_and_row_weights(
    sample_weight: Tensor | None, mask: Tensor, item_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Split `sample_weight` into the weights of lists and the weights of rows.

    Args:
        sample_weight: `(batch,)`, a single number or None: the weights of lists.
            Alternatively `(batch, list_size)`, the weights of rows; only ratios within
            a list matter.
        mask: `(batch, list_size)`, bool.
        item_weight: `(batch, list_size)`, the weights of rows, or further factors of
            them; None for 1.

    Returns:
        The weights of lists `(batch,)`, 0 for a list without real rows of positive
        weight, and the weights of rows `(batch, list_size)`.
    """
    weight = tf.cast(1.0 if sample_weight is None else sample_weight, tf.float32)
    rows = tf.ones(tf.shape(mask), tf.float32)
    if item_weight is not None:
        rows *= tf.cast(item_weight, tf.float32)
    if weight.shape.rank == 2:
        rows, weight = rows * weight, tf.constant(1.0)
        item_weight = rows
    # Without weights of rows, all real ones count.
    real = mask if item_weight is None else ops.logical_and(mask, rows > 0.0)
    return ops.cast(masked_ops.has_candidate(real), "float32") * weight, rows


def as_rows(
    teacher: Tensor, student: Tensor, mask: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check the arguments of an embedding loss and convert them to tensors.

    Args:
        teacher: `(batch, rows, width)`.
        student: `(batch, rows, width)`, the width may differ.
        mask: `(batch, rows)`, bool. True marks a real row.
        weight: `(batch, rows)`; None for 1.

    Returns:
        Teacher and student, with zeros for rows of padding, mask and weight. Floats are
        float32, or float64 if both embeddings are.

    Raises:
        ValueError: If the mask is not boolean or the shapes differ.
    """
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


def _as_many_lists(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat candidates shared by all lists if the other side has one set per list."""
    if teacher.shape[0] == 1 and student.shape[0] != 1:
        teacher = tf.repeat(teacher, tf.shape(student)[0], axis=0)
    if student.shape[0] == 1 and teacher.shape[0] != 1:
        student = tf.repeat(student, tf.shape(teacher)[0], axis=0)
    return teacher, student


def _embeddings_and_mask(
    y_true: Tensor | dict[str, Tensor],
) -> tuple[Tensor, Tensor | None]:
    if not isinstance(y_true, dict):
        return tf.convert_to_tensor(y_true), None
    mask = y_true.get("mask")
    mask = None if mask is None else tf.cast(mask, tf.bool)
    return tf.convert_to_tensor(y_true["labels"]), mask


def _check_ranks(teacher: Tensor, student: Tensor) -> None:
    if student.shape.rank not in (2, 3) or teacher.shape.rank != student.shape.rank:
        raise ValueError(
            "Embeddings must be (batch, width) for queries or (batch, list_size, "
            "width) for candidates, and the same for teacher and student. Received: "
            f"teacher's shape={teacher.shape}, student's shape={student.shape}"
        )
