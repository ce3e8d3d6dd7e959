r"""Sorting, ranks and Plackett–Luce likelihoods of lists, in the TensorFlow graph.

Candidates are ordered from the highest score down. Ties are broken by position, the
earlier candidate first, and padding comes last. `recdistill.lists.numpy_ranks` does the
same outside the graph. The order is a step function of the scores: no gradient flows
through positions and ranks, only through values gathered along them.

Examples:
    >>> scores = np.array([[1.0, 3.0, 3.0, 99.0]], "float32")
    >>> mask = np.array([[True, True, True, False]])
    >>> best_first(scores, mask).numpy()
    array([[1, 2, 0, 3]], dtype=int32)
    >>> ranks(scores, mask).numpy()
    array([[3., 1., 2., 0.]], dtype=float32)
"""

import numpy as np
import tensorflow as tf
from keras import ops

from recdistill.lists.masked_ops import Tensor

_LOG_ZERO = -1e30
"""A finite stand-in for the logarithm of zero: its exponential is 0."""


def best_first(scores: Tensor, mask: Tensor, k: int | None = None) -> Tensor:
    """The positions of the candidates, best first.

    Args:
        scores: `(batch, list_size)`. Finite for real candidates.
        mask: `(batch, list_size)`, bool.
        k: How many candidates to return, at least 1; None for all.

    Returns:
        `(batch, n)` int32, where `n` is the smaller of `k` and `list_size`; the real
        candidates, then the padding.
    """
    scores = ops.where(mask, scores, -np.inf)
    scores = ops.where(scores == 0.0, 0.0, scores)  # XLA would rank 0.0 above -0.0
    size = tf.shape(scores)[-1]
    # `top_k` is stable: of equal values, the one at the lower index comes first.
    return tf.math.top_k(scores, k=size if k is None else tf.minimum(k, size)).indices


def gather(values: Tensor, positions: Tensor) -> Tensor:
    """The values at the given positions of each list.

    Args:
        values: `(batch, list_size)`.
        positions: `(batch, n)`, integers.

    Returns:
        `(batch, n)`.

    Examples:
        >>> gather(np.array([[5.0, 6.0, 7.0]]), np.array([[2, 0]])).numpy()
        array([[7., 5.]])
    """
    return tf.gather(values, positions, batch_dims=1)


def ranks(scores: Tensor, mask: Tensor) -> Tensor:
    """The rank of each candidate in its list, from 1 for the highest score.

    Args:
        scores: `(batch, list_size)`. Finite for real candidates.
        mask: `(batch, list_size)`, bool.

    Returns:
        `(batch, list_size)`, of the scores' type; 0 under padding.
    """
    place = tf.argsort(best_first(scores, mask), axis=-1)
    return ops.where(mask, ops.cast(place, scores.dtype) + 1.0, 0.0)


def within_first(order: Tensor, k: int | None) -> Tensor:
    """Mask of the first k columns of sorted lists.

    Args:
        order: `(batch, list_size)`, positions or values, best first.
        k: At least 1; None for all.

    Returns:
        `(list_size,)`, bool.
    """
    size = tf.shape(order)[-1]
    return tf.range(size) < (size if k is None else k)


def plackett_luce_terms(
    exponents: Tensor, mask: Tensor | None = None, rest: Tensor | None = None
) -> Tensor:
    r"""Plackett–Luce terms: negative log-probability of each draw of a given order.

    In the Plackett–Luce model candidates are drawn without replacement, each with a
    probability proportional to $\exp(z)$. For a given order, the term of the $i$-th is

    $$ -\log P(i \mid \text{all before it are drawn})
       = \log \sum_{j \ge i} \exp(z_j) - z_i $$

    The sum over a list is the negative log-likelihood of the order (Plackett 1975). The
    logarithm of the sum is computed with the running maximum, so terms far below the
    best score lose only the last digits of their exponents.

    Args:
        exponents: `(batch, list_size)`, in order, as from `masked_softmax.logits`, so
            that padding is never drawn.
        mask: `(batch, list_size)`, bool, in the same order: which candidates can be
            drawn. None for all but the padding.
        rest: `(batch,)`, the log-sum-exp of further candidates that can be drawn at
            every rank, as from `log_sum_exp`; None for no others.

    Returns:
        `(batch, list_size)`, at least 0 up to rounding; 0 where the mask is False.

    Examples:
        The second and third of four are equally likely; the other two are certain.

        >>> z = np.array([[30.0, 0.0, 0.0, -30.0]], "float32")
        >>> plackett_luce_terms(z).numpy().round(3)
        array([[0.   , 0.693, 0.   , 0.   ]], dtype=float32)
    """
    if mask is not None:
        exponents = ops.where(mask, exponents, _LOG_ZERO)
    evidence = tf.math.cumulative_logsumexp(exponents, axis=-1, reverse=True)
    if rest is not None:
        rest = ops.broadcast_to(rest[:, None], ops.shape(evidence))
        evidence = _log_sum_exp(ops.stack([evidence, rest], axis=-1))
    terms = evidence - exponents
    return terms if mask is None else ops.where(mask, terms, 0.0)


def log_sum_exp(exponents: Tensor, mask: Tensor) -> Tensor:
    r"""Log-sum-exp: the logarithm of the sum of exponentials over each list.

    Args:
        exponents: `(batch, list_size)`. Finite.
        mask: `(batch, list_size)`, bool.

    Returns:
        $\log \sum_i \exp(z_i)$, `(batch,)`; a number whose exponential is 0 for a list
        without real candidates.

    Examples:
        >>> z, mask = np.array([[1000.0, 1000.0, 2000.0]]), [[True, True, False]]
        >>> log_sum_exp(z, mask).numpy().round(3)  # 1000 + log(2)
        array([1000.693])
    """
    return _log_sum_exp(ops.where(mask, exponents, _LOG_ZERO))


def _log_sum_exp(exponents: Tensor) -> Tensor:
    """Log-sum-exp over the last axis; the gradient of `logaddexp` is wrong for ties."""
    largest = ops.stop_gradient(ops.max(exponents, axis=-1, keepdims=True))
    total = ops.sum(ops.exp(exponents - largest), axis=-1)
    return ops.log(total) + largest[..., 0]
