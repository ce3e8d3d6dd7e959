"""Reference implementation of the ranking metrics, as plain loops over Python floats.

Each function follows the textbook definition for one list, and shares no code with the
library.
"""

import math

import numpy as np

RELEVANCE_METRICS = [
    "ndcg",
    "dcg",
    "recall",
    "precision",
    "hit_rate",
    "reciprocal_rank",
    "average_precision",
    "rank_biased_precision",
    "expected_reciprocal_rank",
]
AGREEMENT = {
    "overlap": {"k": 5},
    "survival": {"k": 3, "n": 7},
    "kendall_tau": {"k": 6},
    "spearman_rho": {"k": 6},
    "rank_biased_overlap": {"p": 0.8, "k": 15},
}


def ragged_batch(seed=0, batch=40, list_size=12, ties=True, dtype=np.float64):
    """Scores, other scores, graded relevance and mask; the last list is padding."""
    rng = np.random.default_rng(seed)
    scores, others = rng.normal(size=(2, batch, list_size))
    if ties:
        scores, others = scores.round(0), others.round(0)
    relevance = rng.choice([0.0, 0.0, 0.0, 1.0, 2.5], size=(batch, list_size))
    mask = rng.random((batch, list_size)) < 0.7
    mask[-1] = False
    relevance[-2] = 0.0
    junk = np.where(rng.random(mask.shape) < 0.5, np.nan, np.inf)
    scores, others = (np.where(mask, x, junk).astype(dtype) for x in (scores, others))
    return scores, others, np.where(mask, relevance, -7.0), mask


def order(scores, mask):
    """Positions of the real candidates, best first, ties by position."""
    real = [i for i in range(len(scores)) if mask[i]]
    return sorted(real, key=lambda i: (-float(scores[i]), i))


def _gains(scores, relevance, mask):
    return [float(relevance[i]) for i in order(scores, mask)]


def ndcg(scores, relevance, mask, k):
    gains = _gains(scores, relevance, mask)
    ideal = sorted(gains, reverse=True)

    def dcg(values):
        return sum(g / math.log2(r + 1) for r, g in enumerate(values[:k], start=1))

    return dcg(gains) / dcg(ideal) if any(gains) else math.nan


def dcg(scores, relevance, mask, k):
    gains = _gains(scores, relevance, mask)
    discounted = [g / math.log2(r + 1) for r, g in enumerate(gains[:k], start=1)]
    return sum(discounted) if any(gains) else math.nan


def precision(scores, relevance, mask, k):
    gains = _gains(scores, relevance, mask)
    return sum(g > 0 for g in gains[:k]) / k if any(gains) else math.nan


def rank_biased_precision(scores, relevance, mask, k):
    gains = _gains(scores, relevance, mask)
    terms = [0.2 * 0.8**r for r, g in enumerate(gains[:k]) if g > 0]
    return sum(terms) if any(gains) else math.nan


def expected_reciprocal_rank(scores, relevance, mask, k):
    gains = _gains(scores, relevance, mask)
    if not any(gains):
        return math.nan
    goes_on, total = 1.0, 0.0
    for rank, gain in enumerate(gains[:k], start=1):
        satisfied = (2**gain - 1) / 2**4
        total += goes_on * satisfied / rank
        goes_on *= 1 - satisfied
    return total


def recall(scores, relevance, mask, k):
    gains = _gains(scores, relevance, mask)
    relevant = sum(g > 0 for g in gains)
    return sum(g > 0 for g in gains[:k]) / relevant if relevant else math.nan


def hit_rate(scores, relevance, mask, k):
    gains = _gains(scores, relevance, mask)
    return float(any(gains[:k])) if any(gains) else math.nan


def reciprocal_rank(scores, relevance, mask, k):
    gains = _gains(scores, relevance, mask)
    if not any(gains):
        return math.nan
    for rank, gain in enumerate(gains[:k], start=1):
        if gain > 0:
            return 1 / rank
    return 0.0


def average_precision(scores, relevance, mask, k):
    gains = _gains(scores, relevance, mask)
    if not any(gains):
        return math.nan
    found, total = 0, 0.0
    for rank, gain in enumerate(gains[:k], start=1):
        if gain > 0:
            found += 1
            total += found / rank
    return total / sum(g > 0 for g in gains)


def survival(teacher, student, mask, k, n):
    wanted, passed = order(teacher, mask)[:k], order(student, mask)[:n]
    return len(set(wanted) & set(passed)) / len(wanted) if wanted else math.nan


def overlap(teacher, student, mask, k):
    return survival(teacher, student, mask, k, k)


def kendall_tau(teacher, student, mask, k):
    head = order(teacher, mask)[:k]
    agreeing = apart_by_teacher = apart_by_student = 0
    for a in range(len(head)):
        for b in range(a + 1, len(head)):
            t = float(teacher[head[a]]) - float(teacher[head[b]])
            s = float(student[head[a]]) - float(student[head[b]])
            apart_by_teacher += t != 0
            apart_by_student += s != 0
            agreeing += (t * s > 0) - (t * s < 0)
    if not apart_by_teacher or not apart_by_student:
        return math.nan
    return agreeing / math.sqrt(apart_by_teacher * apart_by_student)


def spearman_rho(teacher, student, mask, k):
    head = order(teacher, mask)[:k]
    if len(head) < 2:
        return math.nan
    sides = []
    for scores in (teacher, student):
        values = [float(scores[i]) for i in head]
        ranks = [
            sum(other < own for other in values)
            + (sum(other == own for other in values) + 1) / 2
            for own in values
        ]
        mean = sum(ranks) / len(ranks)
        sides.append([rank - mean for rank in ranks])
    lengths = [math.sqrt(sum(x * x for x in side)) for side in sides]
    if not all(lengths):
        return math.nan
    return sum(a * b for a, b in zip(*sides, strict=True)) / math.prod(lengths)


def rank_biased_overlap(teacher, student, mask, p, k):
    first, second = order(teacher, mask), order(student, mask)
    if not first:
        return math.nan
    total = 0.0
    for depth in range(1, k + 1):
        common = len(set(first[:depth]) & set(second[:depth]))
        agreement = common / min(depth, len(first))
        total += (1 - p) * p ** (depth - 1) * agreement
    return total + p**k * agreement


def each_list(function, *arrays, **settings):
    """The value of the function for each list of a batch."""
    return [function(*lists, **settings) for lists in zip(*arrays, strict=True)]
