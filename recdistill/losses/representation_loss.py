"""What losses on embeddings share: rows, masks and weights, and what is compared."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from recdistill.lists import masked_ops
from recdistill.lists.masked_ops import Tensor

__all__ = ["RepresentationLoss"]


class RepresentationLoss(keras.losses.Loss):  # type: ignore[misc]
    """The Keras side of a loss on embeddings: what all of them share.

    `y_true` holds the teacher's embeddings, `y_pred` the student's. Those of queries
    are `(batch, width)`; those of candidates are `(batch, list_size, width)`, or `(1,
    list_size, width)` where all lists share their candidates, which then are one list.
    A subclass writes `compare`.

    Args:
        student_output: In a `recdistill.Distiller`, what of the student is compared: a
            name that it exposes ("query_embedding" and "candidate_embedding" of a
            `TwoTowerStudent`), or one of its layers by its name or path.
        teacher_output: What it is compared with: a key of the batch, where the
            teacher's embeddings are stored, or else a name that the live teacher
            exposes, or one of its layers.
        reduction: How a batch of losses becomes one number. The default is the mean, in
            which a list counts by its weight, and a list of padding not at all.
        name: Name of the loss. The default is the class name in snake case.
        dtype: Keras's dtype of the computation. The default is its float type, float32.
    """

    projected = False
    """Whether the student's embeddings pass a learned projection first."""

    rows: int | None = None
    """How many rows of a list are looked at, from the first; None for all."""

    def __init__(
        self,
        student_output: str = "query_embedding",
        teacher_output: str = "teacher_query_embedding",
        reduction: str | None = "mean_with_sample_weight",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.student_output, self.teacher_output = student_output, teacher_output

    def __call__(
        self,
        y_true: Tensor | dict[str, Tensor],
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of embeddings.

        Args:
            y_true: The teacher's embeddings, or `{"labels": …, "mask": …}` with a
                boolean mask `(batch, list_size)`. Bare embeddings are all real. A
                query is real where its list has a real candidate.
            y_pred: The student's embeddings.
            sample_weight: `(batch,)`, one weight a list, `(batch, list_size)`, one a
                candidate, or a single number.

        Returns:
            A scalar; one loss a list where `reduction` is None.

        Raises:
            ValueError: If shapes do not fit.
        """
        inputs, list_weight = _as_one_batch(y_true, y_pred, sample_weight)
        if self.rows is not None:
            inputs = {name: value[:, : self.rows] for name, value in inputs.items()}
        return super().__call__(inputs, inputs["student"], list_weight)

    def call(self, y_true: dict[str, Tensor], y_pred: Tensor) -> Tensor:
        """One loss a list. `y_true` is as `__call__` prepares it."""
        # Keras has cast the mask to floats on the way.
        mask = ops.cast(y_true["mask"], "bool")
        return self.compare(y_true["teacher"], y_pred, mask, y_true["weight"])

    def compare(
        self, teacher: Tensor, student: Tensor, mask: Tensor, weight: Tensor
    ) -> Tensor:
        """The function of the loss.

        Args:
            teacher: `(batch, rows, width)`.
            student: `(batch, rows, width)`.
            mask: `(batch, rows)`, bool.
            weight: `(batch, rows)`.

        Returns:
            `(batch,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `compare`")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this loss anew."""
        own = {
            "student_output": self.student_output,
            "teacher_output": self.teacher_output,
        }
        return {**super().get_config(), **own}


def _as_one_batch(
    y_true: Tensor | dict[str, Tensor], student: Tensor, sample_weight: Tensor | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Embeddings, mask and weights of rows as a batch of lists; a weight a list."""
    teacher, mask = _embeddings_and_mask(y_true)
    # A copy, without a mask that a layer may have attached for Keras to apply.
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
    list_weight, weight = lists_and_rows(sample_weight, mask)
    if queries:
        mask, weight = masked_ops.has_candidate(mask)[None], list_weight[None]
    elif student.shape[0] == 1:
        # How much a shared candidate counts in all lists together.
        parts = masked_ops.shares(weight, mask) * list_weight[:, None]
        mask, weight = ops.any(mask, axis=0)[None], ops.sum(parts, axis=0)[None]
    if student.shape[0] == 1:
        real = ops.logical_and(mask, weight > 0.0)
        list_weight = ops.cast(masked_ops.has_candidate(real), weight.dtype)
    inputs = {"teacher": teacher, "student": student, "mask": mask, "weight": weight}
    return inputs, list_weight


def lists_and_rows(sample_weight: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What a list counts in its batch, and a row in its list.

    Args:
        sample_weight: `(batch,)`, a single number or None: the weights of lists; or
            `(batch, list_size)`, those of rows, where only ratios within a list matter.
        mask: `(batch, list_size)`, bool.

    Returns:
        Weights of lists `(batch,)`, 0 for a list without a real row that counts, and of
        rows `(batch, list_size)`.
    """
    weight = tf.cast(1.0 if sample_weight is None else sample_weight, tf.float32)
    if weight.shape.rank == 2:
        real = ops.logical_and(mask, weight > 0.0)
        return ops.cast(masked_ops.has_candidate(real), "float32"), weight
    list_weight = ops.cast(masked_ops.has_candidate(mask), "float32") * weight
    return list_weight, tf.ones(tf.shape(mask), tf.float32)


def _as_many_lists(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Shared candidates repeated for each list, if the other side has lists apart."""
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
            "Embeddings must be (batch, width), of queries, or (batch, list_size, "
            "width), of candidates, the same for teacher and student. Received: "
            f"teacher's shape={teacher.shape}, student's shape={student.shape}"
        )
