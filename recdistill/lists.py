"""Arithmetic along the list axis: the one place that knows about padding.

A batch of lists is a matrix `(batch, list_size)`. Lists are rarely of one length, so
short ones are padded, and `mask` says which entries are real candidates. It is never
guessed from values: a teacher score of -5 or 0 is a score like any other.

Every function here keeps three promises. What stands under padding, be it 1e30 or NaN,
changes neither a result nor a gradient. A list that is all padding gives zeros. And
results and gradients are finite for all finite scores: the mask enters *before* an
exponential, so that nothing under padding can overflow, and *again after* it, so that
nothing leaks out.

Example:
    Two lists; the second has only two candidates, and rubbish where the third would be.

    >>> scores = np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 99.0]], "float32")
    >>> mask = np.array([[True, True, True], [True, True, False]])
    >>> softmax(scores, mask).numpy().round(3)
    array([[0.787, 0.107, 0.107],
           [0.5  , 0.5  , 0.   ]], dtype=float32)
"""

from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from keras import ops

__all__ = [
    "Tensor",
    "as_lists",
    "has_candidate",
    "labels_and_mask",
    "log_softmax",
    "shares",
    "softmax",
    "standardize",
    "total",
]

Tensor: TypeAlias = Any
"""A `tf.Tensor`, or what converts to one: a NumPy array, a nested list of numbers."""

# The exponential of this is zero in every float type, while this times a squared
# temperature still is a finite float32.
_LOWEST_LOG = -1e30


def as_lists(mask: Tensor, **values: Tensor) -> tuple[Tensor, ...]:
    """Check that some arrays describe one batch of lists, and return them as tensors.

    This is the boundary: what has passed here is not checked again.

    Args:
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        **values: Arrays `(batch, list_size)` of numbers, each under the name that its
            error message should use.

    Returns:
        The mask and then the values in the order given. Values are float32, or float64
        where all of them came as float64.

    Raises:
        ValueError: If the mask is not boolean, an array does not hold numbers, or it
            is not a matrix of the mask's shape.

    Example:
        >>> as_lists(np.ones((1, 3), bool), scores=np.zeros((3,)))
        Traceback (most recent call last):
        ...
        ValueError: `scores` must have the shape of `mask`. Received: scores.shape=(3),
        mask.shape=(1, 3)
    """
    mask = tf.convert_to_tensor(mask)
    if mask.dtype != tf.bool:
        raise ValueError(f"`mask` must be boolean. Received: dtype={mask.dtype.name}")
    if mask.shape.rank != 2:
        raise ValueError(
            "`mask` must have shape (batch, list_size). "
            f"Received: mask.shape={_readable(mask)}"
        )
    tensors = {name: tf.convert_to_tensor(value) for name, value in values.items()}
    for name, tensor in tensors.items():
        _check(name, tensor, mask)
    wide = all(tensor.dtype == tf.float64 for tensor in tensors.values())
    dtype = tf.float64 if wide else tf.float32
    return mask, *(tf.cast(tensor, dtype) for tensor in tensors.values())


def _check(name: str, tensor: Tensor, mask: Tensor) -> None:
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer):
        raise ValueError(
            f"`{name}` must hold numbers. Received: dtype={tensor.dtype.name}"
        )
    if not (tensor.shape.rank == 2 and tensor.shape.is_compatible_with(mask.shape)):
        raise ValueError(
            f"`{name}` must have the shape of `mask`. Received: "
            f"{name}.shape={_readable(tensor)}, mask.shape={_readable(mask)}"
        )
    if not (tensor.shape.is_fully_defined() and mask.shape.is_fully_defined()):
        # Inside a graph sizes may be known only at run time, and a list of one would
        # then be broadcast without a word.
        tf.debugging.assert_equal(
            tf.shape(tensor),
            tf.shape(mask),
            message=f"`{name}` must have the shape of `mask`.",
        )


def _readable(tensor: Tensor) -> str:
    return str(tensor.shape.as_list()).replace("[", "(").replace("]", ")")


def labels_and_mask(y_true: Tensor | dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Take apart what Keras passes around as `y_true`.

    Args:
        y_true: `{"labels": …, "mask": …}`, both `(batch, list_size)`, or bare labels,
            which are then all real candidates. Keras casts a mask to floats on the way
            to `Loss.call`; here it turns into booleans again.

    Returns:
        The labels and the boolean mask, both `(batch, list_size)`.

    Raises:
        ValueError: If a dict has no "labels".

    Example:
        >>> y_true = {"labels": [[2.0, 0.0]], "mask": [[1.0, 0.0]]}
        >>> labels, mask = labels_and_mask(y_true)
        >>> mask.numpy()
        array([[ True, False]])
    """
    if not isinstance(y_true, dict):
        labels = tf.convert_to_tensor(y_true)
        return labels, tf.ones_like(labels, tf.bool)
    if "labels" not in y_true:
        raise ValueError(
            f'`y_true` must have the key "labels". Received: keys={sorted(y_true)}'
        )
    labels = tf.convert_to_tensor(y_true["labels"])
    if y_true.get("mask") is None:
        return labels, tf.ones_like(labels, tf.bool)
    return labels, tf.cast(y_true["mask"], tf.bool)


def has_candidate(mask: Tensor) -> Tensor:
    """Whether each list has a real candidate.

    Args:
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch,)`, bool.
    """
    return ops.any(mask, axis=-1)


def total(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the real candidates of each list.

    Args:
        values: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch,)`. It is 0 for a list with no real candidate.

    Example:
        >>> total(np.array([[1.0, 2.0, 99.0]]), np.array([[True, True, False]])).numpy()
        array([3.])
    """
    return ops.sum(_real(values, mask), axis=-1)


def log_softmax(scores: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Log-probability of each candidate when one is drawn from its list.

    $$ \log p_i = s_i / \tau - \log \sum_{j \in \text{list}} \exp(s_j / \tau) $$

    The gap to the list's best score is taken first and divided by the temperature
    second, so scores of any finite size survive any temperature.

    Args:
        scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool.
        temperature: Above zero. The larger, the more even the probabilities.

    Returns:
        `(batch, list_size)`, at most 0. It is 0 under padding, where there is no
        probability to speak of.

    Example:
        >>> scores = np.array([[np.log(3.0), 0.0, 99.0]], "float32")
        >>> mask = np.array([[True, True, False]])
        >>> log_softmax(scores, mask).numpy().round(3)  # log(3/4), log(1/4)
        array([[-0.288, -1.386,  0.   ]], dtype=float32)
    """
    lowest = np.finfo(scores.dtype.name).min
    best = ops.max(ops.where(mask, scores, lowest), axis=-1, keepdims=True)
    # A shift of all scores leaves the result as it is, so no gradient is lost here.
    best = ops.stop_gradient(ops.where(has_candidate(mask)[:, None], best, 0.0))
    logits = (ops.where(mask, scores, best) - best) / temperature
    logits = ops.maximum(logits, _LOWEST_LOG)
    evidence = ops.sum(_real(ops.exp(logits), mask), axis=-1, keepdims=True)
    evidence = ops.where(has_candidate(mask)[:, None], evidence, 1.0)
    return _real(logits - ops.log(evidence), mask)


def softmax(scores: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Probability of each candidate when one is drawn from its list.

    Args:
        scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool.
        temperature: Above zero. The larger, the more even the probabilities.

    Returns:
        `(batch, list_size)`. Each list with a real candidate sums to 1; padding has 0.
    """
    return _real(ops.exp(log_softmax(scores, mask, temperature)), mask)


def shares(amounts: Tensor, mask: Tensor) -> Tensor:
    """What part of its list's total each candidate holds.

    Args:
        amounts: `(batch, list_size)`. An amount below zero counts as zero.
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch, list_size)`. Each list with an amount above zero sums to 1; padding and
        the other lists have 0.

    Example:
        >>> amounts = np.array([[3.0, 1.0, 99.0], [0.0, 0.0, 0.0]], "float32")
        >>> mask = np.array([[True, True, False], [True, True, True]])
        >>> shares(amounts, mask).numpy()
        array([[0.75, 0.25, 0.  ],
               [0.  , 0.  , 0.  ]], dtype=float32)
    """
    amounts = ops.maximum(_real(amounts, mask), 0.0)
    # In units of the largest amount the total lies between 1 and list_size.
    largest = ops.max(amounts, axis=-1, keepdims=True)
    amounts = ops.divide_no_nan(amounts, largest)
    return ops.divide_no_nan(amounts, ops.sum(amounts, axis=-1, keepdims=True))


def standardize(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores in standard deviations from the mean of their list (z-scores).

    Teachers differ in the scale of their scores, so a temperature found for one does
    not suit the next. Standardised scores have one scale.

    Args:
        scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch, list_size)`. Over each list the mean is 0 and the variance (divided by
        the number of candidates) is 1. All 0 where the scores of a list are equal, and
        under padding.

    Example:
        >>> scores = np.array([[1.0, 3.0, 99.0], [0.1, 0.1, 0.1]], "float32")
        >>> mask = np.array([[True, True, False], [True, True, True]])
        >>> standardize(scores, mask).numpy()
        array([[-1.,  1.,  0.],
               [ 0.,  0.,  0.]], dtype=float32)
    """
    # z-scores do not depend on origin and unit. With the lowest score as the origin and
    # the range as the unit, equal scores are exactly 0 and no square can overflow; with
    # quarters of a score, the range cannot either.
    scores = _real(scores, mask) / 4.0
    limits = np.finfo(scores.dtype.name)
    low = ops.min(ops.where(mask, scores, limits.max / 4), axis=-1, keepdims=True)
    high = ops.max(ops.where(mask, scores, limits.min / 4), axis=-1, keepdims=True)
    varies = high > low
    unit = ops.where(varies, high - low, 1.0)
    low, unit = ops.stop_gradient(low), ops.stop_gradient(unit)
    positions = (ops.where(mask, scores, low) - low) / unit
    count = ops.maximum(total(ops.ones_like(scores), mask), 1.0)[:, None]
    gaps = _real(positions - total(positions, mask)[:, None] / count, mask)
    variance = total(ops.square(gaps), mask)[:, None] / count
    return ops.where(varies, gaps / ops.sqrt(ops.where(varies, variance, 1.0)), 0.0)


def _real(values: Tensor, mask: Tensor) -> Tensor:
    """The values, with 0 under padding."""
    return ops.where(mask, values, 0.0)
