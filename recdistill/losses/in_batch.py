"""In-batch softmax: the positives of a batch as each other's negatives.

It needs no lists: a batch of queries, each with one item that it chose, is enough, and
one matrix product gives all scores. Two things go wrong if nobody looks after them.
Popular items are in more batches, so they are negatives too often and end up ranked too
low: the correction by sampling probabilities undoes that. And an item that two queries
of a batch chose would be its own negative: such accidental hits are left out.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from recdistill.lists.masked_ops import Tensor
from recdistill.losses.list_loss import TemperedListLoss
from recdistill.losses.listwise import listwise_cross_entropy

__all__ = ["InBatchSoftmax", "in_batch_softmax"]


def in_batch_softmax(
    student_scores: Tensor,
    candidate_ids: Tensor,
    mask: Tensor | None = None,
    sampling_probability: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    r"""Surprise of the student at what each query chose, among the batch's choices.

    Row $i$ holds the scores of query $i$ for the items that the queries of the batch
    chose; its own is the one at $i$. With $Q_j$ the probability that an item is in a
    batch and $\text{id}$ the item's identity:

    $$ \ell_i = -\log \frac{\exp(s_{ii} / \tau) / Q_i}
       {\exp(s_{ii} / \tau) / Q_i
       + \sum_{j:\, \text{id}_j \ne \text{id}_i} \exp(s_{ij} / \tau) / Q_j} $$

    In terms of scores that is $s / \tau - \log Q$, the logQ correction, of the
    positive, too. It is `listwise_cross_entropy` whose list is the batch, with $1 / Q$
    for the weights of candidates. (In keras-rs 0.4, `SamplingProbabilityCorrection`
    does the same for probabilities above its epsilon of one in a million;
    `RemoveAccidentalHits` adds a number near zero where it means to take away a large
    one, and so removes nothing.)

    Args:
        student_scores: `(batch, batch)`. Query by candidate; the diagonal is chosen.
        candidate_ids: `(batch,)`, integers or strings: what counts as the same item.
        mask: `(batch,)`, bool. False marks a padding row, which is no query and no
            candidate. None where all rows are real.
        sampling_probability: `(batch,)`, the probability that a batch holds the item,
            above 0 (0 counts as the smallest number there is). Only ratios matter, so
            frequencies will do. None for no correction.
        temperature: Above zero. Scores of bounded size, such as cosines, need one well
            below 1. The loss is a log-likelihood and is not rescaled by it.

    Returns:
        `(batch,)`, at least 0 up to rounding; 0 for padding and for a query whose batch
        has no other item.

    Raises:
        ValueError: If the scores are not square, another shape differs from theirs, the
            mask is not boolean, or the temperature is not a finite number above zero.

    Use when: there are pairs of query and item and no lists, or the catalogue is too
        large for them. With lists, `listwise_cross_entropy`. It learns from choices;
        what the teacher knows comes from another loss beside it.

    Reference: Yi et al. (2019), "Sampling-Bias-Corrected Neural Modeling for Large
        Corpus Item Recommendations".

    Example:
        The first two queries chose the same item, so each has one negative, the third.

        >>> scores = np.log([[3.0, 9.0, 1.0], [9.0, 1.0, 1.0], [1.0, 1.0, 2.0]])
        >>> in_batch_softmax(scores, [7, 7, 8]).numpy().round(4)
        array([0.2877, 0.6931, 0.6931])
        >>> [float(round(-np.log(p), 4)) for p in (3 / 4, 1 / 2, 2 / 4)]
        [0.2877, 0.6931, 0.6931]
    """
    chosen, hits, weight = _as_lists(
        student_scores, candidate_ids, mask, sampling_probability
    )
    return listwise_cross_entropy(chosen, student_scores, hits, temperature, weight)


def _as_lists(
    scores: Tensor,
    candidate_ids: Tensor,
    mask: Tensor | None,
    sampling_probability: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Relevance, mask and weights of candidates, `(batch, batch)`: a list a query."""
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
    chosen = tf.eye(tf.shape(ids)[0], dtype=tf.bool)
    real = tf.logical_or(chosen, tf.not_equal(ids[:, None], ids[None, :]))
    if mask is not None:
        both = tf.logical_and(rows["mask"][:, None], rows["mask"][None, :])
        real = tf.logical_and(real, both)
    dtype = tf.float64 if scores.dtype == tf.float64 else tf.float32
    relevance = tf.cast(chosen, dtype)
    if sampling_probability is None:
        return relevance, real, None
    chance = tf.cast(rows["sampling_probability"], dtype)
    chance = ops.maximum(chance, np.finfo("float32").tiny)
    return relevance, real, tf.broadcast_to(1.0 / chance[None, :], tf.shape(scores))


def _check(scores: Tensor, rows: dict[str, Tensor]) -> None:
    """Raise unless the scores are a square and all else are its rows."""
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
    """The mean of `in_batch_softmax` over the queries of a batch.

    `y_true` is `{"candidate_ids": …}` with, optionally, `sampling_probability` and
    `mask`, each `(batch,)`; or the bare ids. `y_pred` holds the student's scores,
    `(batch, batch)`. `sample_weight` is `(batch,)`, one weight a query; an item of a
    query that weighs 0 still is a negative of the others.

    Example:
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
            A scalar; `(batch,)` where `reduction` is None.

        Raises:
            ValueError: If the shapes do not fit, or a key is unknown or missing.
        """
        # Lists are made here, as Keras makes floats of all that it passes on to `call`,
        # and large ids that differ may be the same float.
        return super().__call__(_list_form(y_true, y_pred), y_pred, sample_weight)


_KEYS = ("candidate_ids", "mask", "sampling_probability")


def _list_form(y_true: Any, scores: Tensor) -> dict[str, Tensor]:
    given = y_true if isinstance(y_true, dict) else {"candidate_ids": y_true}
    if "candidate_ids" not in given or not set(given) <= set(_KEYS):
        raise ValueError(
            '`y_true` must have the key "candidate_ids" and may have "mask" and '
            f'"sampling_probability". Received: keys={sorted(given)}'
        )
    chosen, real, weight = _as_lists(scores, *(given.get(key) for key in _KEYS))
    y_true = {"labels": chosen, "mask": real}
    return y_true if weight is None else {**y_true, "item_weight": weight}
