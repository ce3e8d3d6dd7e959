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
    "as_weighted_lists",
    "bounded",
    "has_candidate",
    "labels_and_mask",
    "log_softmax",
    "logits",
    "mean",
    "mean_ranks",
    "min_max",
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
# Squares of scores up to here, and sums of those over any list, are finite float32.
_LARGEST_SCORE = 1e15


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


def as_weighted_lists(
    mask: Tensor, item_weight: Tensor | None, **values: Tensor
) -> tuple[Tensor, ...]:
    """As `as_lists`, for lists whose candidates may have weights.

    A candidate without weight is no candidate: it leaves the mask. What stands under
    the new mask, NaN included, is replaced by 0, so it cannot reach a result any more.

    Args:
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        item_weight: `(batch, list_size)`, how often each candidate counts; below zero
            counts as zero. None where all count once.
        **values: Arrays `(batch, list_size)` of numbers, each under the name that its
            error message should use.

    Returns:
        The mask of the candidates that count, their weights, and then the values in
        the order given. Weights and values are 0 where that mask is False.

    Raises:
        ValueError: As `as_lists`; the weights are checked like the values.

    Example:
        >>> mask = np.array([[True, True, False]])
        >>> weight = np.array([[0.0, 2.0, 9.0]], "float32")
        >>> scores = np.array([[7.0, 5.0, np.nan]], "float32")
        >>> mask, weight, scores = as_weighted_lists(mask, weight, scores=scores)
        >>> mask.numpy(), weight.numpy(), scores.numpy()
        (array([[False,  True, False]]), array([[0., 2., 0.]], dtype=float32),
         array([[0., 5., 0.]], dtype=float32))
    """
    if item_weight is None:
        mask, *tensors = as_lists(mask, **values)
        weight = ops.cast(mask, tensors[0].dtype)
    else:
        mask, *tensors, weight = as_lists(mask, **values, item_weight=item_weight)
        # Processors may take a smaller number for zero, and its logarithm for infinite.
        smallest = np.finfo(weight.dtype.name).tiny
        mask = ops.logical_and(mask, weight >= smallest)
        weight = _real(weight, mask)
    return mask, weight, *(_real(tensor, mask) for tensor in tensors)


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


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of some numbers a list.

    Args:
        values: `(batch, n)`. Finite, also where the weight is 0.
        weights: `(batch, n)`, at least 0. Only their ratios count.

    Returns:
        `(batch,)`; 0 where all weights are 0.

    Example:
        >>> mean(np.array([[1.0, 4.0, 99.0]]), np.array([[2.0, 1.0, 0.0]])).numpy()
        array([2.])
    """
    # In units of the largest weight their sum lies between 1 and n.
    largest = ops.max(weights, axis=-1, keepdims=True)
    weights = ops.divide_no_nan(weights, largest)
    return ops.divide_no_nan(
        ops.sum(weights * values, axis=-1), ops.sum(weights, axis=-1)
    )


def bounded(scores: Tensor) -> Tensor:
    """Scores with all beyond ±1e15 drawn in to that, so that their squares are finite.

    Args:
        scores: Of any shape.

    Returns:
        The same, with gradient 0 where a score was drawn in.
    """
    return ops.clip(scores, -_LARGEST_SCORE, _LARGEST_SCORE)


def logits(
    scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""The exponents of a softmax over each list: $\log w_i + s_i / \tau$, shifted.

    The gap to the list's best score is taken first and divided by the temperature
    second, so scores of any finite size survive any temperature.

    Args:
        scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool.
        temperature: Above zero.
        weights: `(batch, list_size)`, above zero for real candidates: how often each
            counts. None where all count once.

    Returns:
        `(batch, list_size)`; a number whose exponential is 0 under padding.

    Example:
        >>> scores = np.array([[5.0, 3.0, 99.0]], "float32")
        >>> mask = np.array([[True, True, False]])
        >>> logits(scores, mask, temperature=2.0).numpy()
        array([[ 0.e+00, -1.e+00, -1.e+30]], dtype=float32)
    """
    lowest = np.finfo(scores.dtype.name).min
    best = ops.max(ops.where(mask, scores, lowest), axis=-1, keepdims=True)
    # A shift of all scores leaves a softmax as it is, so no gradient is lost here.
    best = ops.stop_gradient(ops.where(has_candidate(mask)[:, None], best, 0.0))
    exponents = (ops.where(mask, scores, best) - best) / temperature
    exponents = ops.maximum(exponents, _LOWEST_LOG)
    if weights is not None:
        exponents += ops.log(ops.where(mask, weights, 1.0))
    return ops.where(mask, exponents, _LOWEST_LOG)


def log_softmax(
    scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Log-probability of each candidate when one is drawn from its list.

    $$ \log p_i = \log w_i + s_i / \tau
       - \log \sum_{j \in \text{list}} w_j \exp(s_j / \tau) $$

    Args:
        scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool.
        temperature: Above zero. The larger, the more even the probabilities.
        weights: `(batch, list_size)`, above zero for real candidates: how often each
            stands in the list. None where all stand there once.

    Returns:
        `(batch, list_size)`, at most 0. It is 0 under padding, where there is no
        probability to speak of.

    Example:
        >>> scores = np.array([[np.log(3.0), 0.0, 99.0]], "float32")
        >>> mask = np.array([[True, True, False]])
        >>> log_softmax(scores, mask).numpy().round(3)  # log(3/4), log(1/4)
        array([[-0.288, -1.386,  0.   ]], dtype=float32)
    """
    exponents = logits(scores, mask, temperature, weights)
    # A best score of small weight may lie far below the largest exponent.
    largest = ops.max(exponents, axis=-1, keepdims=True)
    exponents -= ops.stop_gradient(largest)
    evidence = ops.sum(_real(ops.exp(exponents), mask), axis=-1, keepdims=True)
    evidence = ops.where(has_candidate(mask)[:, None], evidence, 1.0)
    return _real(exponents - ops.log(evidence), mask)


def softmax(
    scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Probability of each candidate when one is drawn from its list.

    Args:
        scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool.
        temperature: Above zero. The larger, the more even the probabilities.
        weights: As for `log_softmax`.

    Returns:
        `(batch, list_size)`. Each list with a real candidate sums to 1; padding has 0.
    """
    return _real(ops.exp(log_softmax(scores, mask, temperature, weights)), mask)


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
    # the range as the unit, equal scores are exactly 0 and no square can overflow.
    positions, varies = _positions(scores, mask)
    count = ops.maximum(total(ops.ones_like(positions), mask), 1.0)[:, None]
    gaps = _real(positions - total(positions, mask)[:, None] / count, mask)
    variance = total(ops.square(gaps), mask)[:, None] / count
    return ops.where(varies, gaps / ops.sqrt(ops.where(varies, variance, 1.0)), 0.0)


def min_max(scores: Tensor, mask: Tensor) -> Tensor:
    """Where each score lies between the lowest and the highest of its list.

    Args:
        scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch, list_size)`, from 0 for a list's lowest score to 1 for its highest. All
        0 where the scores of a list are equal, and under padding.

    Example:
        >>> scores = np.array([[1.0, 3.0, 1.5], [0.1, 0.1, 99.0]], "float32")
        >>> mask = np.array([[True, True, True], [True, True, False]])
        >>> min_max(scores, mask).numpy()
        array([[0.  , 1.  , 0.25],
               [0.  , 0.  , 0.  ]], dtype=float32)
    """
    return _positions(scores, mask)[0]


def mean_ranks(scores: Tensor, mask: Tensor) -> Tensor:
    """The rank of each candidate in its list, from 1 for the highest score.

    Candidates with equal scores share the mean of their ranks, so neither their order
    in the list nor chance decides between them.

    Args:
        scores: `(batch, list_size)`. Finite for real candidates.
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch, list_size)`, at least 1 for a real candidate; 0 under padding.

    Example:
        >>> scores = np.array([[0.2, 0.9, 0.2, 0.1, 99.0]], "float32")
        >>> mask = np.array([[True, True, True, True, False]])
        >>> mean_ranks(scores, mask).numpy()  # two share the ranks 2 and 3
        array([[2.5, 1. , 2.5, 4. , 0. ]], dtype=float32)
    """
    # Padding sorts below all real candidates, so it is never ahead of one.
    scores = ops.where(mask, scores, -np.inf)
    ordered = tf.sort(scores, axis=-1)
    below = tf.searchsorted(ordered, scores, side="left")
    up_to = tf.searchsorted(ordered, scores, side="right")
    last = ops.cast(tf.shape(scores)[-1] - below, scores.dtype)
    first = ops.cast(tf.shape(scores)[-1] - up_to, scores.dtype) + 1.0
    return _real((first + last) / 2.0, mask)


def _positions(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Places from 0 (lowest) to 1 (highest), and which lists vary, `(batch, 1)`."""
    # With quarters of a score, the range cannot overflow.
    scores = _real(scores, mask) / 4.0
    limits = np.finfo(scores.dtype.name)
    low = ops.min(ops.where(mask, scores, limits.max / 4), axis=-1, keepdims=True)
    high = ops.max(ops.where(mask, scores, limits.min / 4), axis=-1, keepdims=True)
    varies = high > low
    unit = ops.where(varies, high - low, 1.0)
    low, unit = ops.stop_gradient(low), ops.stop_gradient(unit)
    return (ops.where(mask, scores, low) - low) / unit, varies


def _real(values: Tensor, mask: Tensor) -> Tensor:
    """The values, with 0 under padding."""
    return ops.where(mask, values, 0.0)
