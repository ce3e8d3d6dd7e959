"""In-batch softmax (sampled softmax with logQ correction) for pairs of query and item.

Each query of the batch has one positive item, and the positives of the other queries
are its negatives. No lists are needed, and one matrix product gives all scores. Two
corrections are built in. Popular items occur in more batches, so they are negatives too
often and would be ranked too low; the logQ correction by sampling probabilities
compensates for that. An item that is the positive of two queries would be its own
negative; such accidental hits are removed.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import TemperedListLoss
from recdistill.losses.listwise import listwise_cross_entropy


def in_batch_softmax(
    student_scores: Tensor,
    candidate_ids: Tensor,
    mask: Tensor | None = None,
    sampling_probability: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    r"""In-batch softmax cross-entropy, a sampled softmax with logQ correction.

    Row $i$ holds the scores of query $i$ for the positive items of all queries of the
    batch; its own positive is at $i$. With $Q_j$ the probability that an item is in a
    batch and $\text{id}$ the item's identity:

    $$ \ell_i = -\log \frac{\exp(s_{ii} / \tau) / Q_i}
       {\exp(s_{ii} / \tau) / Q_i
       + \sum_{j:\, \text{id}_j \ne \text{id}_i} \exp(s_{ij} / \tau) / Q_j} $$

    In terms of scores this is $s / \tau - \log Q$, the logQ correction, which also
    applies to the positive. It is `listwise_cross_entropy` with the batch as list and
    $1 / Q$ as candidate weights. (In keras-rs 0.4, `SamplingProbabilityCorrection` does
    the same for probabilities above its epsilon of one in a million.
    `RemoveAccidentalHits` adds a number near zero instead of a large negative one, so
    it removes nothing.)

    Args:
        student_scores: `(batch, batch)`. Query by candidate; the diagonal holds the
            positives.
        candidate_ids: `(batch,)`, integers or strings: the identity of each item.
        mask: `(batch,)`, bool. False marks a padding row, which is neither a query nor
            a candidate. None if all rows are real.
        sampling_probability: `(batch,)`, the probability that a batch contains the
            item, above 0 (0 counts as the smallest positive number). Only ratios
            matter, so frequencies can be used. None for no correction.
        temperature: Above 0. Scores of bounded size, such as cosines, need a
            temperature well below 1. The loss is a log-likelihood and is not rescaled
            by the temperature.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for padding and for a query whose batch
        has no other item.

    Raises:
        ValueError: If the scores are not square, another shape differs from theirs, the
            mask is not boolean, or the temperature is not a finite number above 0.

    Use when: there are pairs of query and item but no lists, or the catalogue is too
        large for lists. With lists use `listwise_cross_entropy`. This loss learns from
        interactions only; combine it with a distillation loss to learn from a teacher.

    Reference: Yi et al. (2019), "Sampling-Bias-Corrected Neural Modeling for Large
        Corpus Item Recommendations".

    Examples:
        The first two queries have the same positive item, so each has one negative, the
        third.

        >>> scores = np.log([[3.0, 9.0, 1.0], [9.0, 1.0, 1.0], [1.0, 1.0, 2.0]])
        >>> in_batch_softmax(scores, [7, 7, 8]).numpy().round(4)
        array([0.2877, 0.6931, 0.6931])
        >>> [float(round(-np.log(p), 4)) for p in (3 / 4, 1 / 2, 2 / 4)]
        [0.2877, 0.6931, 0.6931]
    """
    positive, real, weight = _as_lists(
        student_scores, candidate_ids, mask, sampling_probability
    )
    return listwise_cross_entropy(positive, student_scores, real, temperature, weight)


def _as_lists(
    scores: Tensor,
    candidate_ids: Tensor,
    mask: Tensor | None,
    sampling_probability: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Relevance, mask and candidate weights, `(batch, batch)`: one list per query."""
    scores = tf.convert_to_tensor(scores)
    rows = {"candidate_ids": tf.convert_to_tensor(candidate_ids)}
    if mask is not None:
        rows["mask"] = tf.convert_to_tensor(mask)
        if rows["mask"].dtype != tf.bool:
            name = rows["mask"].dtype.name
            raise ValueError(f"`mask` must be boolean. Received: dtype={name}")
    if sampling_probability is not None:
        rows["sampling_probability"] = tf.convert_to_tensor(sampling_probability)
    _check(scores, rows)
    ids = rows["candidate_ids"]
    positive = tf.eye(tf.shape(ids)[0], dtype=tf.bool)
    real = tf.logical_or(positive, tf.not_equal(ids[:, None], ids[None, :]))
    if mask is not None:
        both = tf.logical_and(rows["mask"][:, None], rows["mask"][None, :])
        real = tf.logical_and(real, both)
    dtype = tf.float64 if scores.dtype == tf.float64 else tf.float32
    relevance = tf.cast(positive, dtype)
    if sampling_probability is None:
        return relevance, real, None
    probability = tf.cast(rows["sampling_probability"], dtype)
    weight = 1.0 / ops.maximum(probability, np.finfo("float32").tiny)
    return relevance, real, tf.broadcast_to(weight[None, :], tf.shape(scores))


def _check(scores: Tensor, rows: dict[str, Tensor]) -> None:
    """Raise ValueError unless scores are `(batch, batch)` and the others `(batch,)`."""
    shape = scores.shape
    if not (shape.rank == 2 and shape[:1].is_compatible_with(shape[1:])):
        raise ValueError(
            "`student_scores` must have shape (batch, batch). Received: "
            f"student_scores.shape={shape}"
        )
    for name, tensor in rows.items():
        if not (tensor.shape.rank == 1 and shape[:1].is_compatible_with(tensor.shape)):
            raise ValueError(
                f"`{name}` must have shape (batch,). Received: "
                f"{name}.shape={tensor.shape}, student_scores.shape={shape}"
            )


@keras.saving.register_keras_serializable(package="recdistill")
class InBatchSoftmax(TemperedListLoss):
    """In-batch softmax, a sampled softmax with logQ correction, averaged over queries.

    The mean of `in_batch_softmax`. `y_true` is `{"candidate_ids": …}` with, optionally,
    `sampling_probability` and `mask`, each `(batch,)`; or the ids alone. `y_pred` holds
    the student's scores, `(batch, batch)`. `sample_weight` is `(batch,)`, one weight
    for each query; the item of a query with weight 0 is still a negative of the others.

    Args:
        temperature: Above 0; it divides the student's scores.
        **kwargs: `reduction`, `name` and `dtype`, as for `ListLoss`.

    Examples:
        >>> scores = np.log([[3.0, 1.0], [1.0, 1.0]])
        >>> y_true = {"candidate_ids": np.array([7, 8])}
        >>> round(float(InBatchSoftmax()(y_true, scores)), 4)
        0.4904
        >>> float(round(-(np.log(3 / 4) + np.log(1 / 2)) / 2, 4))
        0.4904
    """

    function = staticmethod(listwise_cross_entropy)

    def __call__(
        self,
        y_true: Tensor | dict[str, Tensor],
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of queries.

        Args:
            y_true: See the class.
            y_pred: The student's scores, `(batch, batch)`.
            sample_weight: `(batch,)` or a single number: the weight of each query.

        Returns:
            A scalar; `(batch,)` if `reduction` is None.

        Raises:
            ValueError: If the shapes do not match, or a key is unknown or missing.
        """
        # The lists are built here, because Keras casts everything that it passes to
        # `call` to floats, and different large ids may become the same float.
        return super().__call__(_list_form(y_true, y_pred), y_pred, sample_weight)


_KEYS = ("candidate_ids", "mask", "sampling_probability")


def _list_form(y_true: Any, scores: Tensor) -> dict[str, Tensor]:
    given = y_true if isinstance(y_true, dict) else {"candidate_ids": y_true}
    if "candidate_ids" not in given or not set(given) <= set(_KEYS):
        raise ValueError(
            '`y_true` must have the key "candidate_ids" and may have "mask" and '
            f'"sampling_probability". Received: keys={sorted(given)}'
        )
    positive, real, weight = _as_lists(scores, *(given.get(key) for key in _KEYS))
    y_true = {"labels": positive, "mask": real}
    return y_true if weight is None else {**y_true, "item_weight": weight}
