"""Masked operations along the list axis: sums, means, shares and standardisation.

A batch of lists is a matrix `(batch, list_size)`. Lists rarely have the same length, so
short ones are padded, and `mask` marks the real candidates. It is never inferred from
values: a teacher score of -5 or 0 is an ordinary score.

Every function here guarantees three things. Values under padding, even 1e30 or NaN,
change neither a result nor a gradient. A list of padding gives zeros. Results and
gradients are finite for all finite scores: the mask is applied *before* an exponential,
so that nothing under padding can overflow, and *again after* it, so that padding
contributes nothing.

Examples:
    Two lists; the second has only two candidates, and an arbitrary value under padding.

    >>> scores = np.array([[2.0, 0.0, 1.0], [1.0, 1.0, 99.0]], "float32")
    >>> mask = np.array([[True, True, True], [True, True, False]])
    >>> total(scores, mask).numpy()
    array([3., 2.], dtype=float32)
"""

from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from keras import ops

from recdistill.lists.shared_results import once, remember

Tensor: TypeAlias = Any
"""A `tf.Tensor` or a value that converts to one: a NumPy array, nested lists."""

# Squares of scores up to this magnitude, and their sums over a list, are finite
# float32.
_LARGEST_SCORE = 1e15
# Targets that must not be NaN. The student's scores are NaN if training diverges.
_TARGETS = {"teacher_scores", "relevance"}


def as_lists(mask: Tensor, **values: Tensor) -> tuple[Tensor, ...]:
    """Check that arrays describe the same batch of lists, and convert them to tensors.

    All public functions over lists call it once; later code does not check again.
    Inside `shared_results` the same tensors are checked once.

    Args:
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        **values: Arrays `(batch, list_size)` of numbers, or of booleans, which become
            1 and 0; the keyword is the name in error messages.

    Returns:
        The mask, followed by the values in the given order. Values are float32, or
        float64 if all of them were float64.

    Raises:
        ValueError: If the mask is not boolean, an array does not hold numbers, or it
            is not a matrix of the mask's shape.

    Examples:
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
        once(_check, name, tensor, mask)
    wide = all(tensor.dtype == tf.float64 for tensor in tensors.values())
    dtype = tf.float64 if wide else tf.float32
    return mask, *(tf.cast(tensor, dtype) for tensor in tensors.values())


def as_weighted_lists(
    mask: Tensor, item_weight: Tensor | None, **values: Tensor
) -> tuple[Tensor, ...]:
    """Check arrays as `as_lists` does, and remove candidates of weight 0 from the mask.

    Values under the new mask, including NaN, are replaced by 0, so that they cannot
    affect a result.

    Args:
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        item_weight: `(batch, list_size)`, how often each candidate counts; a value
            below 0 counts as 0. None for once each.
        **values: Arrays `(batch, list_size)` of numbers; the keyword is the name in
            error messages.

    Returns:
        The mask of the candidates with positive weight, their weights, and then the
        values in the given order. Weights and values are 0 where that mask is False.

    Raises:
        ValueError: As `as_lists`; the weights are checked in the same way. Also if
            `teacher_scores` or `relevance` are NaN under the new mask. In a graph
            this is an `InvalidArgumentError` when it runs, also for infinities of both
            signs in one list; XLA ignores it.

    Examples:
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
        mask, weight = once(_weighted_mask, mask, weight)
    tensors = [masked(tensor, mask) for tensor in tensors]
    for k, name in enumerate(values):
        if name in _TARGETS:
            tensors[k] = _without_nan(name, tensors[k], mask)
    return mask, weight, *tensors


def _weighted_mask(mask: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The mask without candidates of weight 0, and the weights under it."""
    # Processors may treat a smaller number as zero, whose logarithm is infinite.
    smallest = np.finfo(weight.dtype.name).tiny
    found = ops.logical_and(mask, weight >= smallest)
    weight = masked(weight, found)
    # A second check of the results finds the same.
    remember((found, weight), _weighted_mask, found, weight)
    return found, weight


def nan_lists(values: Tensor, mask: Tensor) -> Tensor:
    """Which lists have NaN, or infinities of both signs, among real candidates.

    Args:
        values: `(batch, list_size)` of floats.
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch,)`, bool.
    """
    return once(_nan_lists, masked(values, mask))


def _nan_lists(values: Tensor) -> Tensor:
    # A scaled sum costs half of what a test of each value costs, and no sum of finite
    # values overflows.
    scale = tf.cast(4.0 / values.dtype.max, values.dtype)
    scale = tf.fill(tf.shape(values)[-1:], scale)
    return tf.math.is_nan(tf.linalg.matvec(tf.stop_gradient(values), scale))


def _without_nan(name: str, tensor: Tensor, mask: Tensor) -> Tensor:
    message = (
        f"`{name}` must be numbers for all real candidates; mask the others. "
        "Received: NaN"
    )
    if tf.executing_eagerly():
        nan = tf.math.is_nan(tensor)
        if tf.reduce_any(nan):
            raise ValueError(f"{message} in list {int(tf.where(nan)[0, 0])}")
        return tensor
    return once(_asserted, message, tensor, mask)


def _asserted(message: str, tensor: Tensor, mask: Tensor) -> Tensor:
    """The same tensor, in a graph that fails with this message if a value is NaN."""
    nan = nan_lists(tensor, mask)
    with tf.control_dependencies([tf.debugging.Assert(~tf.reduce_any(nan), [message])]):
        checked = tf.identity(tensor)
    remember(checked, _asserted, message, checked, mask)
    declare_masked(checked, mask)
    remember(once(unmasked, tensor, mask), unmasked, checked, mask)
    remember(nan, _nan_lists, checked)
    return checked


def _check(name: str, tensor: Tensor, mask: Tensor) -> None:
    dtype = tensor.dtype
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise ValueError(f"`{name}` must hold numbers. Received: dtype={dtype.name}")
    if not (tensor.shape.rank == 2 and tensor.shape.is_compatible_with(mask.shape)):
        raise ValueError(
            f"`{name}` must have the shape of `mask`. Received: "
            f"{name}.shape={_readable(tensor)}, mask.shape={_readable(mask)}"
        )
    if not (tensor.shape.is_fully_defined() and mask.shape.is_fully_defined()):
        # In a graph some sizes are known only at run time, and a list of one candidate
        # would then be broadcast silently.
        tf.debugging.assert_equal(
            tf.shape(tensor),
            tf.shape(mask),
            message=f"`{name}` must have the shape of `mask`.",
        )


def _readable(tensor: Tensor) -> str:
    return str(tensor.shape.as_list()).replace("[", "(").replace("]", ")")


def labels_and_mask(y_true: Tensor | dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Split `y_true`, in the form that Keras passes to losses, into labels and mask.

    Args:
        y_true: `{"labels": …, "mask": …}`, both `(batch, list_size)`, or labels alone,
            which are then all real candidates. Keras casts the mask to floats before
            `Loss.call`; here it becomes boolean again.

    Returns:
        The labels and the boolean mask, both `(batch, list_size)`.

    Raises:
        ValueError: If a dict has no "labels".

    Examples:
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


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """The values, with 0 under padding.

    Args:
        values: `(batch, list_size)`; NaN under padding has no effect.
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch, list_size)`. The result is unchanged if it is masked once more.
    """
    return once(_masked, values, mask)


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    result = ops.where(mask, values, 0.0)
    declare_masked(result, mask)
    remember(values, unmasked, result, mask)
    return result


def unmasked(values: Tensor, mask: Tensor) -> Tensor:
    """The values that `masked` received in this block, or these values.

    A function that sets padding to another value reads them, so that neither a step
    nor its gradient contains two selections.
    """
    return values


def declare_masked(values: Tensor, mask: Tensor) -> None:
    """Declare that values are 0 under padding, so that `masked` returns them."""
    remember(values, _masked, values, mask)


def has_candidate(mask: Tensor) -> Tensor:
    """Whether each list has a real candidate.

    Args:
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch,)`, bool.
    """
    return once(_any, mask)


def _any(mask: Tensor) -> Tensor:
    return ops.any(mask, axis=-1)


def total(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the real candidates of each list.

    Args:
        values: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch,)`. It is 0 for a list without real candidates.

    Examples:
        >>> total(np.array([[1.0, 2.0, 99.0]]), np.array([[True, True, False]])).numpy()
        array([3.])
    """
    return ops.sum(masked(values, mask), axis=-1)


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over each list.

    Args:
        values: `(batch, n)`. Finite, even where the weight is 0.
        weights: `(batch, n)`, at least 0. Only ratios matter.

    Returns:
        `(batch,)`; 0 if all weights are 0.

    Examples:
        >>> mean(np.array([[1.0, 4.0, 99.0]]), np.array([[2.0, 1.0, 0.0]])).numpy()
        array([2.])
    """
    # Divided by the largest weight, their sum lies between 1 and n.
    largest = ops.max(weights, axis=-1, keepdims=True)
    weights = ops.divide_no_nan(weights, largest)
    return ops.divide_no_nan(
        ops.sum(weights * values, axis=-1), ops.sum(weights, axis=-1)
    )


def bounded(scores: Tensor) -> Tensor:
    """Scores clipped to ±1e15, so that their squares are finite.

    Args:
        scores: Of any shape.

    Returns:
        The same shape, with gradient 0 where a score was clipped.
    """
    return ops.clip(scores, -_LARGEST_SCORE, _LARGEST_SCORE)


def shares(amounts: Tensor, mask: Tensor) -> Tensor:
    """Amounts normalised to sum to 1 over each list.

    Args:
        amounts: `(batch, list_size)`. An amount below 0 counts as 0.
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch, list_size)`. Each list with an amount above 0 sums to 1; padding and
        the other lists are 0.

    Examples:
        >>> amounts = np.array([[3.0, 1.0, 99.0], [0.0, 0.0, 0.0]], "float32")
        >>> mask = np.array([[True, True, False], [True, True, True]])
        >>> shares(amounts, mask).numpy()
        array([[0.75, 0.25, 0.  ],
               [0.  , 0.  , 0.  ]], dtype=float32)
    """
    amounts = ops.maximum(masked(amounts, mask), 0.0)
    # Divided by the largest amount, their sum lies between 1 and list_size.
    largest = ops.max(amounts, axis=-1, keepdims=True)
    amounts = ops.divide_no_nan(amounts, largest)
    return ops.divide_no_nan(amounts, ops.sum(amounts, axis=-1, keepdims=True))


def list_mean(
    values: Tensor, mask: Tensor, item_weight: Tensor | None = None
) -> Tensor:
    """Mean over the real candidates of each list, `(batch, 1)`; 0 without any.

    Args:
        values: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool.
        item_weight: `(batch, list_size)`, how often each candidate counts; None for
            once each.
    """
    weight = ops.ones_like(values) if item_weight is None else item_weight
    weight = ops.cast(masked(weight, mask), values.dtype)
    count = ops.sum(weight, axis=-1, keepdims=True)
    sums = ops.sum(masked(values, mask) * weight, axis=-1, keepdims=True)
    return sums / ops.where(count > 0.0, count, 1.0)


def standardise(
    scores: Tensor, mask: Tensor, item_weight: Tensor | None = None
) -> Tensor:
    """Z-scores: standard deviations of each score from the mean of its list.

    Teachers differ in the scale of their scores, so a temperature tuned for one does
    not suit another. Standardised scores have the same scale.

    Args:
        scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool.
        item_weight: `(batch, list_size)`, how often each candidate counts in mean and
            variance; None for once each.

    Returns:
        `(batch, list_size)`. Over each list the mean is 0 and the variance (divided by
        the number of candidates) is 1. All 0 if the scores of a list are equal, and
        under padding.

    Examples:
        >>> scores = np.array([[1.0, 3.0, 99.0], [0.1, 0.1, 0.1]], "float32")
        >>> mask = np.array([[True, True, False], [True, True, True]])
        >>> standardise(scores, mask).numpy()
        array([[-1.,  1.,  0.],
               [ 0.,  0.,  0.]], dtype=float32)
    """
    # Z-scores do not depend on origin and scale. After min-max scaling equal scores are
    # exactly 0 and no square can overflow.
    positions, varies = _min_max(scores, mask)
    gaps = masked(positions - list_mean(positions, mask, item_weight), mask)
    variance = list_mean(ops.square(gaps), mask, item_weight)
    # Candidates of weight 0 can be the only ones that differ.
    varies = ops.logical_and(varies, variance > 0.0)
    return ops.where(varies, gaps / ops.sqrt(ops.where(varies, variance, 1.0)), 0.0)


def min_max(scores: Tensor, mask: Tensor) -> Tensor:
    """Min-max scaling: each score relative to the lowest and highest of its list.

    Args:
        scores: `(batch, list_size)`.
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch, list_size)`, from 0 for a list's lowest score to 1 for its highest. All
        0 if the scores of a list are equal, and under padding.

    Examples:
        >>> scores = np.array([[1.0, 3.0, 1.5], [0.1, 0.1, 99.0]], "float32")
        >>> mask = np.array([[True, True, True], [True, True, False]])
        >>> min_max(scores, mask).numpy()
        array([[0.  , 1.  , 0.25],
               [0.  , 0.  , 0.  ]], dtype=float32)
    """
    return _min_max(scores, mask)[0]


def mean_ranks(
    scores: Tensor, mask: Tensor, item_weight: Tensor | None = None
) -> Tensor:
    """The rank of each candidate in its list, from 1 for the highest score.

    Candidates with equal scores share the mean of their ranks, so neither position nor
    chance breaks ties.

    Args:
        scores: `(batch, list_size)`. Finite for real candidates.
        mask: `(batch, list_size)`, bool.
        item_weight: `(batch, list_size)`, the number of ranks that each candidate
            takes; None for one each.

    Returns:
        `(batch, list_size)`, at least 1 for a real candidate; 0 under padding.

    Examples:
        >>> scores = np.array([[0.2, 0.9, 0.2, 0.1, 99.0]], "float32")
        >>> mask = np.array([[True, True, True, True, False]])
        >>> mean_ranks(scores, mask).numpy()  # two share the ranks 2 and 3
        array([[2.5, 1. , 2.5, 4. , 0. ]], dtype=float32)
    """
    # Padding sorts below all real candidates, so it is never ahead of one.
    scores = ops.where(mask, scores, -np.inf)
    if item_weight is None:
        ordered = tf.sort(scores, axis=-1)
        below = tf.searchsorted(ordered, scores, side="left")
        up_to = tf.searchsorted(ordered, scores, side="right")
        last = ops.cast(tf.shape(scores)[-1] - below, scores.dtype)
        first = ops.cast(tf.shape(scores)[-1] - up_to, scores.dtype) + 1.0
        return masked((first + last) / 2.0, mask)
    weight = ops.cast(masked(item_weight, mask), scores.dtype)
    order = tf.argsort(scores, axis=-1, stable=True)
    ordered = tf.gather(scores, order, batch_dims=1)
    # Ranks that are taken from each place on, in ascending order.
    weight = tf.gather(weight, order, batch_dims=1)
    taken = tf.pad(tf.cumsum(weight, axis=-1, reverse=True), [[0, 0], [0, 1]])
    below = tf.searchsorted(ordered, scores, side="left")
    up_to = tf.searchsorted(ordered, scores, side="right")
    last = tf.gather(taken, below, batch_dims=1)
    first = tf.gather(taken, up_to, batch_dims=1) + 1.0
    return masked(ops.maximum((first + last) / 2.0, 1.0), mask)


def _min_max(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scores scaled to 0 to 1, and which lists have different scores, `(batch, 1)`."""
    # A quarter of each score, so that the range cannot overflow.
    scores = masked(scores, mask) / 4.0
    limits = np.finfo(scores.dtype.name)
    low = ops.min(ops.where(mask, scores, limits.max / 4), axis=-1, keepdims=True)
    high = ops.max(ops.where(mask, scores, limits.min / 4), axis=-1, keepdims=True)
    varies = high > low
    size = ops.where(varies, high - low, 1.0)
    low, size = ops.stop_gradient(low), ops.stop_gradient(size)
    return (ops.where(mask, scores, low) - low) / size, varies
