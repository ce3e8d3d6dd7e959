"""Reference implementation of all losses over lists, as plain loops over Python floats.

It follows the formulas, shares no code with the library, and ignores speed and
overflow. Each function has the name of the library's function, takes arrays
`(batch, list_size)` and settings in the same order, and returns one float for each
list.
"""

from collections.abc import Callable, Iterator, Sequence
from math import exp, log, log2, tanh

import numpy as np


def listwise_kl_divergence(
    teacher_scores, student_scores, mask, temperature=1.0, item_weight=None
):
    def loss(t, s, w):
        p, q = _softmax(t, temperature, w), _softmax(s, temperature, w)
        return temperature**2 * _kl(p, q)

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


def stratified_kl_divergence(
    teacher_scores,
    student_scores,
    mask,
    temperature=1.0,
    strata=4,
    stratum=None,
    item_weight=None,
):
    weight = np.ones(mask.shape) if item_weight is None else item_weight
    stratum = np.zeros(mask.shape) if stratum is None else stratum
    found = []
    for n in range(len(mask)):
        divergences = []
        for number in range(strata):
            inside = mask[n] & (stratum[n] == number) & (weight[n] > 0.0)
            t, s, w = (
                [float(value) for value in values[n][inside]]
                for values in (teacher_scores, student_scores, weight)
            )
            if t:
                p, q = _softmax(t, temperature, w), _softmax(s, temperature, w)
                divergences.append(temperature**2 * _kl(p, q))
        found.append(sum(divergences) / max(1, len(divergences)))
    return found


def listwise_soft_cross_entropy(
    teacher_scores, student_scores, mask, temperature=1.0, item_weight=None
):
    def loss(t, s, w):
        p, q = _softmax(t, temperature, w), _softmax(s, temperature, w)
        return -(temperature**2) * sum(
            p_i * log(q_i) for p_i, q_i in zip(p, q, strict=True)
        )

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


def listwise_jensen_shannon(
    teacher_scores, student_scores, mask, temperature=1.0, item_weight=None
):
    def loss(t, s, w):
        p, q = _softmax(t, temperature, w), _softmax(s, temperature, w)
        m = [(p_i + q_i) / 2 for p_i, q_i in zip(p, q, strict=True)]
        return temperature**2 * (_kl(p, m) + _kl(q, m)) / 2

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


def listwise_cross_entropy(
    relevance, student_scores, mask, temperature=1.0, item_weight=None
):
    def loss(r, s, w):
        amounts = [w_i * max(r_i, 0.0) for r_i, w_i in zip(r, w, strict=True)]
        q = _softmax(s, temperature, w)
        return -sum(
            amount / sum(amounts) * log(q_i)
            for amount, q_i in zip(amounts, q, strict=True)
            if amount > 0.0
        )

    return _each(loss, relevance, student_scores, mask, item_weight)


def listwise_plackett_luce(
    teacher_scores, student_scores, mask, temperature=1.0, k=None, item_weight=None
):
    def loss(t, s, w):
        return _relaxed_ranking(t, s, w, temperature, len(t) if k is None else k, 1.0)

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


def top_k_relaxed_ranking(
    teacher_scores,
    student_scores,
    mask,
    temperature=1.0,
    k=50,
    tail_weight=1.0,
    item_weight=None,
):
    def loss(t, s, w):
        return _relaxed_ranking(t, s, w, temperature, k, tail_weight)

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


def listwise_lambda_ndcg(
    relevance, student_scores, mask, temperature=1.0, k=10, item_weight=None
):
    def loss(r, s, w):
        return _lambda([max(r_i, 0.0) for r_i in r], s, w, temperature, k)

    return _each(loss, relevance, student_scores, mask, item_weight)


def listwise_soft_lambda_ndcg(
    teacher_scores, student_scores, mask, temperature=1.0, k=10, item_weight=None
):
    def loss(t, s, w):
        gains = _softmax(t, temperature, [1.0] * len(t))
        return _lambda(gains, s, w, temperature, k)

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


def pairwise_margin_mse(teacher_scores, student_scores, mask, item_weight=None):
    def loss(t, s, w):
        total = weight = 0.0
        for i in range(len(t)):
            for j in range(len(t)):
                gap = (t[i] - t[j]) - (s[i] - s[j])
                total += w[i] * w[j] * gap**2
                weight += w[i] * w[j]
        return total / weight

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


def pairwise_rank_net(
    teacher_scores, student_scores, mask, temperature=1.0, k=None, item_weight=None
):
    def loss(t, s, w):
        total = weight = 0.0
        for i in _order(t)[:k]:
            for j in range(len(t)):
                p = _sigmoid((t[i] - t[j]) / temperature)
                q = _sigmoid((s[i] - s[j]) / temperature)
                total += w[i] * w[j] * _kl([p, 1 - p], [q, 1 - q])
                weight += w[i] * w[j]
        return temperature**2 * total / weight

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


def pointwise_mse(teacher_scores, student_scores, mask, item_weight=None):
    def loss(t, s, w):
        squares = [(t_i - s_i) ** 2 for t_i, s_i in zip(t, s, strict=True)]
        return _mean(squares, w)

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


def pointwise_binary_cross_entropy(
    teacher_scores,
    student_scores,
    mask,
    temperature=1.0,
    from_probabilities=False,
    item_weight=None,
):
    def loss(t, s, w):
        terms = []
        for t_i, s_i in zip(t, s, strict=True):
            p = _sigmoid(t_i / temperature)
            if from_probabilities:
                p = min(max(t_i, 0.0), 1.0)
            terms.append(_binary_cross_entropy(p, _sigmoid(s_i / temperature)))
        return temperature**2 * _mean(terms, w)

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


def top_k_position_weighted(
    teacher_scores,
    student_scores,
    mask,
    temperature=1.0,
    k=50,
    decay=10.0,
    item_weight=None,
):
    def loss(t, s, w):
        top = _order(t)[:k]
        return _mean(
            [-log(_sigmoid(s[i] / temperature)) for i in top],
            [w[i] * exp(-rank / decay) for rank, i in enumerate(top, start=1)],
        )

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


def top_k_rank_distil(
    teacher_scores,
    student_scores,
    mask,
    temperature=1.0,
    k=50,
    tail_weight=1.0,
    item_weight=None,
):
    def loss(t, s, w):
        terms, weights = [], []
        for place, i in enumerate(_order(t)):
            q = _sigmoid(s[i] / temperature)
            p = _sigmoid(t[i] / temperature) if place < k else 0.0
            terms.append(_binary_cross_entropy(p, q))
            weights.append(w[i] * (1.0 if place < k else tail_weight))
        return temperature**2 * _mean(terms, weights)

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


def top_k_dual_correction(
    teacher_scores,
    student_scores,
    mask,
    temperature=1.0,
    k=50,
    sharpness=0.1,
    item_weight=None,
):
    def loss(t, s, w):
        a, b = _ranks(t), _ranks(s)
        every = range(len(t))
        under = [
            tanh(sharpness * max(b[i] - a[i], 0)) if a[i] <= k else 0.0 for i in every
        ]
        over = [tanh(sharpness * max(a[i] - b[i], 0)) for i in every]
        power = [w[i] * exp(s[i] / temperature) for i in every]
        total = 0.0
        for i in every:
            if under[i] > 0.0:
                rivals = sum(under[j] * power[j] for j in every if a[j] >= a[i])
                rivals += sum(over[j] * power[j] for j in every)
                total -= w[i] * under[i] * log(under[i] * power[i] / rivals)
        return total / sum(w[i] for i in every if a[i] <= k)

    return _each(loss, teacher_scores, student_scores, mask, item_weight)


Rows = tuple[list[float], list[float], list[float]]


def _each(
    loss: Callable[..., float],
    labels: np.ndarray,
    student_scores: np.ndarray,
    mask: np.ndarray,
    item_weight: np.ndarray | None,
) -> list[float]:
    """The loss of each list; 0 for a list without candidates."""
    weight = np.ones(mask.shape) if item_weight is None else item_weight
    return [
        loss(*rows) if rows[0] else 0.0
        for rows in _real_candidates(labels, student_scores, mask, weight)
    ]


def _real_candidates(
    labels: Sequence, student_scores: Sequence, mask: Sequence, weight: Sequence
) -> Iterator[Rows]:
    """Labels, student scores and weights of each list, without padding."""
    for rows in zip(labels, student_scores, mask, weight, strict=True):
        real = [
            (float(label), float(score), float(w))
            for label, score, is_real, w in zip(*rows, strict=True)
            if is_real and w > 0.0
        ]
        yield tuple([each[n] for each in real] for n in range(3))


def _relaxed_ranking(t, s, w, temperature, k, tail_weight):
    """Plackett–Luce terms in the teacher's order, averaged over the first k."""
    order = _order(t)
    power = [w_i * exp(s_i / temperature) for s_i, w_i in zip(s, w, strict=True)]
    terms = []
    for place, i in enumerate(order[:k]):
        rivals = sum(power[j] for j in order[place:k])
        rivals += tail_weight * sum(power[j] for j in order[k:])
        terms.append(-log(power[i] / rivals))
    return _mean(terms, [w[i] for i in order[:k]])


def _lambda(gains, s, w, temperature, k):
    cutoff = len(s) if k is None else k
    rank = _ranks(s)

    def discount(r):
        return 1 / log2(1 + r) if r <= cutoff else 0.0

    best = sum(g * discount(r) for r, g in enumerate(sorted(gains)[::-1], start=1))
    total = 0.0
    for i in range(len(s)):
        for j in range(len(s)):
            if gains[i] > gains[j]:
                change = abs(discount(rank[i]) - discount(rank[j]))
                change *= (gains[i] - gains[j]) / best
                pair = log(1 + exp(-(s[i] - s[j]) / temperature))
                total += w[i] * w[j] / max(w) ** 2 * change * pair
    return total


def _order(scores: list[float]) -> list[int]:
    """Positions, best first; ties by position."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def _ranks(scores: list[float]) -> list[int]:
    order = _order(scores)
    return [order.index(i) + 1 for i in range(len(scores))]


def _softmax(scores: list[float], temperature: float, w: list[float]) -> list[float]:
    powers = [w_i * exp(x / temperature) for x, w_i in zip(scores, w, strict=True)]
    return [power / sum(powers) for power in powers]


def _kl(p: list[float], q: list[float]) -> float:
    return sum(p_i * (log(p_i) - log(q_i)) for p_i, q_i in zip(p, q, strict=True))


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def _binary_cross_entropy(p: float, q: float) -> float:
    return -(p * log(q) + (1 - p) * log(1 - q))


def _mean(values: list[float], weights: list[float]) -> float:
    total = sum(v * w for v, w in zip(values, weights, strict=True))
    return total / sum(weights)
