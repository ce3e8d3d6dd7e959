"""Softmax over the real candidates of each list, for all finite scores.

The guarantees of `recdistill.lists.masked_ops` hold: padding has no effect, a list of
padding gives zeros, and results and gradients are finite for all finite scores.

Examples:
    Two lists; the second has only two candidates, and an arbitrary value under padding.

    >>> scores = np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 99.0]], "float32")
    >>> mask = np.array([[True, True, True], [True, True, False]])
    >>> softmax(scores, mask).numpy().round(3)
    array([[0.787, 0.107, 0.107],
           [0.5  , 0.5  , 0.   ]], dtype=float32)
"""

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from recdistill.lists import masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.lists.shared_results import once

__all__ = ["distribution", "divergence", "log_softmax", "logits", "softmax"]

# Its exponential is zero in every float type, and multiplied by a squared temperature
# it is still a finite float32.
_LOWEST_LOG = -1e30

_PLAIN = 2.0
"""Highest temperature at which a divergence is the sum of its definition. With scores
that differ by a tenth of their deviation, three digits of it are right."""


def logits(
    scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Exponents of a softmax over each list: $\log w_i + s_i / \tau$, shifted.

    The list's best score is subtracted before the division by the temperature, so the
    result is finite for scores of any finite size and any temperature.

    Args:
        scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool.
        temperature: Above 0.
        weights: `(batch, list_size)`, above 0 for real candidates: how often each
            counts. None for once each.

    Returns:
        `(batch, list_size)`; a number whose exponential is 0 under padding.

    Examples:
        >>> scores = np.array([[5.0, 3.0, 99.0]], "float32")
        >>> mask = np.array([[True, True, False]])
        >>> logits(scores, mask, temperature=2.0).numpy()
        array([[ 0.e+00, -1.e+00, -1.e+30]], dtype=float32)
    """
    lowest = np.finfo(scores.dtype.name).min
    best = ops.max(ops.where(mask, scores, lowest), axis=-1, keepdims=True)
    # A softmax does not change if all scores are shifted, so this needs no gradient.
    best = ops.stop_gradient(_finite_shift(best))
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
    r"""Log-softmax over each list: the log-probability of each candidate.

    $$ \log p_i = \log w_i + s_i / \tau
       - \log \sum_{j \in \text{list}} w_j \exp(s_j / \tau) $$

    Args:
        scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool.
        temperature: Above 0. The larger it is, the more even the probabilities.
        weights: `(batch, list_size)`, above 0 for real candidates: how often each
            occurs in the list. None for once each.

    Returns:
        `(batch, list_size)`, at most 0. It is 0 under padding, which has no
        probability.

    Examples:
        >>> scores = np.array([[np.log(3.0), 0.0, 99.0]], "float32")
        >>> mask = np.array([[True, True, False]])
        >>> log_softmax(scores, mask).numpy().round(3)  # log(3/4), log(1/4)
        array([[-0.288, -1.386,  0.   ]], dtype=float32)
    """
    return distribution(scores, mask, temperature, weights)[0]


def softmax(
    scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Softmax over each list: the probability of each candidate.

    Args:
        scores: `(batch, list_size)`. Unnormalised.
        mask: `(batch, list_size)`, bool.
        temperature: Above 0. The larger it is, the more even the probabilities.
        weights: As for `log_softmax`.

    Returns:
        `(batch, list_size)`. Each list with a real candidate sums to 1; padding has 0.
    """
    return distribution(scores, mask, temperature, weights)[1]


def distribution(
    scores: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-softmax and softmax over each list, from one exponential.

    Args:
        scores: As for `log_softmax`.
        mask: As for `log_softmax`.
        temperature: As for `log_softmax`.
        weights: As for `log_softmax`.

    Returns:
        The results of `log_softmax` and `softmax`. Inside `shared_results` they are
        computed once, however many losses need them.
    """
    logs, probabilities = once(_distribution, scores, mask, temperature, weights)
    return logs, probabilities


def divergence(
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    temperature: float = 1.0,
) -> Tensor:
    r"""KL divergence from a first to a second distribution over each list.

    $\sum_i p_i (\log p_i - \log q_i)$ subtracts logarithms. Their rounding errors can
    be larger than the divergence of two similar distributions, such as those of a high
    temperature. Both sum to one, so it is the same as the sum of terms of at least 0,

    $$ \sum_i p_i \, (e^{\delta_i} - 1 - \delta_i), \quad
       \delta_i = \log q_i - \log p_i. $$

    Args:
        first: Log-probabilities $\log p$ and probabilities $p$, `(batch, list_size)`, 0
            under padding, as `distribution` returns them.
        second: The same of $q$.
        temperature: Their temperature. Above `_PLAIN` the terms of at least 0 are
            summed, which takes twice as long.

    Returns:
        `(batch,)`, at least 0; up to rounding at a low temperature.
    """
    if not tf.is_tensor(temperature) and temperature <= _PLAIN:
        # In this order the gradient of q needs no change of sign.
        return -ops.sum(first[1] * (second[0] - first[0]), axis=-1)

    def terms(first_logs: Tensor, second_logs: Tensor) -> Any:
        gaps = second_logs - first_logs
        # p (e^δ - 1) is q - p, but exact where the two are close; elsewhere it may
        # overflow.
        powers = first[1] * ops.expm1(gaps)
        excess = ops.where(gaps < 1.0, powers, second[1] - first[1])
        lost = first[1] * gaps

        def gradient(upstream: Tensor) -> Any:
            return -upstream * lost, upstream * excess

        return excess - lost, gradient

    return ops.sum(tf.custom_gradient(terms)(first[0], second[0]), axis=-1)


def _distribution(
    scores: Tensor, mask: Tensor, temperature: float, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Log-softmax and softmax over each list, with short gradients.

    Automatic differentiation would repeat the exponential and treat each step of the
    forward pass, which only keeps it finite, as mathematics.
    """
    arguments = [tf.convert_to_tensor(once(masked_ops.unmasked, scores, mask))]
    learned = tf.is_tensor(temperature)
    arguments += [temperature] if learned else []
    arguments += [] if weights is None else [tf.convert_to_tensor(weights)]
    values: dict[str, Tensor] = {}

    def log_probabilities(scores: Tensor, *others: Tensor) -> Any:
        divisor = others[0] if learned else temperature
        exponents = scaled = _exponents(scores, mask, divisor)
        if weights is not None:
            exponents += ops.log(ops.where(mask, others[-1], 1.0))
            # The best score may have a small weight, and be far below the largest sum.
            largest = ops.max(exponents, axis=-1, keepdims=True)
            exponents -= ops.maximum(largest, _LOWEST_LOG / 2.0)
        powers = ops.exp(exponents)
        evidence = ops.sum(powers, axis=-1, keepdims=True)
        evidence = ops.where(evidence == 0.0, 1.0, evidence)
        values["probabilities"] = powers / evidence

        def gradient(upstream: Tensor) -> Any:
            upstream = masked_ops.masked(upstream, mask)
            total = ops.sum(upstream, axis=-1, keepdims=True)
            of_exponents = upstream - powers * (total / evidence)
            plain = not learned and divisor == 1.0
            found = [of_exponents if plain else of_exponents / divisor]
            if learned:
                found.append(-ops.sum(of_exponents * scaled) / divisor)
            if weights is not None:
                found.append(of_exponents / ops.where(mask, others[-1], 1.0))
            return found

        return masked_ops.masked(exponents - ops.log(evidence), mask), gradient

    def exponential(logs: Tensor) -> Any:
        probabilities = values["probabilities"]
        return probabilities, lambda upstream: upstream * probabilities

    logs = tf.custom_gradient(log_probabilities)(*arguments)
    masked_ops.declare_masked(logs, mask)
    return logs, tf.custom_gradient(exponential)(logs)


def _exponents(scores: Tensor, mask: Tensor, temperature: Tensor) -> Tensor:
    """Exponents of a softmax without weights, at most 0, and -1e30 under padding."""
    scores = ops.where(mask, scores, np.finfo(scores.dtype.name).min)
    gaps = scores - _finite_shift(ops.max(scores, axis=-1, keepdims=True))
    if tf.is_tensor(temperature) or temperature != 1.0:
        gaps = gaps / temperature
    return ops.maximum(gaps, _LOWEST_LOG)


def _finite_shift(best: Tensor) -> Tensor:
    """The best score of each list, and 0 for a list without candidates."""
    return ops.where(best <= np.finfo(best.dtype.name).min, 0.0, best)
